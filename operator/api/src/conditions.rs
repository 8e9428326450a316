//! What the conditions of the resources say: types, reasons and what each means. What to do about it stands in docs/kubernetes.md.

/// One reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Type of the condition.
    pub condition: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// What it means.
    pub means: &'static str,
}

const fn row(condition: &'static str, status: &'static str, reason: &'static str, means: &'static str) -> Reason {
    Reason { condition, status, reason, means }
}

/// Reasons in the conditions of a Campfire. `Ready`, where it is not True, has the reason of the first condition that is not.
pub const CAMPFIRE: &[Reason] = &[
    row("Accepted", "True", "Accepted", "the spec is understood"),
    row("Accepted", "False", "NamespaceNotServed", "the operator serves other namespaces"),
    row("Accepted", "False", "InvalidName", "Services cannot be called by this name"),
    row("Accepted", "False", "InvalidSpec", "parts of the spec contradict each other"),
    row("Accepted", "False", "InvalidServer", "a text in `turn.servers` is no server"),
    row(
        "Accepted",
        "False",
        "InvalidExternalAddress",
        "a text in `turn.exposure.externalAddresses` is no address, or there are too many or too few",
    ),
    row("Accepted", "False", "InvalidNetwork", "a text in `network` is no network"),
    row("Accepted", "False", "InvalidMembers", "the selector of namespaces cannot be read"),
    row("Accepted", "False", "NoServers", "no replicas, and no `turn.servers`"),
    row("Accepted", "False", "Forbidden", "the operator has no rights in this namespace, or a quota or a policy is against it"),
    row("Accepted", "False", "Refused", "the API server does not take what the spec asks for"),
    row("KeyReady", "True", "KeyReady", "the key is there"),
    row("KeyReady", "False", "KeySecretMissing", "the Secret of `psk.secretRef` is not there"),
    row("KeyReady", "False", "KeyInvalid", "what stands in the Secret is no key"),
    row("KeyReady", "False", "NetworkInvalid", "what stands in the Secret under `network` is no network id"),
    row("KeyReady", "False", "KeyMissing", "the Secret that held the key is gone; a new key would part the peers"),
    row("KeyReady", "False", "KeyClaimed", "an older Campfire has this Secret"),
    row("KeyReady", "False", "JoinSecretMissing", "the Secret of `join.secretRef` is not there"),
    row("KeyReady", "False", "JoinSecretInvalid", "what stands in it is no `camp://` URI"),
    row("TurnAvailable", "True", "AllReady", "all servers are ready"),
    row("TurnAvailable", "True", "SomeReady", "some servers are ready"),
    row("TurnAvailable", "True", "NotDeployed", "there are servers elsewhere, and none here"),
    row("TurnAvailable", "False", "TurnNotReady", "no server is ready"),
    row("TurnAvailable", "False", "WaitingForAddress", "a load balancer has no address yet"),
    row("TurnAvailable", "False", "NoEndpoints", "the Services have no address yet"),
    row("TurnAvailable", "False", "NoServers", "no server is known: none here, none in the join Secret, no `turn.servers`"),
    row("Joinable", "True", "Joinable", "the join Secret is there and up to date"),
    row("Joinable", "False", "NoExternalEndpoint", "no server is reached from outside"),
    row("Joinable", "False", "NoKey", "in the middle of a rotation no key is held by everybody"),
    row("Rotated", "True", "Retired", "the rotation has ended"),
    row("Rotated", "False", "Distributed", "everybody gets the new key"),
    row("Rotated", "False", "Activated", "everybody meets under both keys"),
    row("Rotated", "False", "WaitingForPeers", "not everybody has the new key"),
    row("Rotated", "False", "RotatesElsewhere", "the key is another cluster's"),
    row("Rotated", "False", "InvalidAnnotation", "annotation `campfire.network/rotate` names no step"),
    row("RemotePeersTruncated", "True", "TooMany", "more than 200 peers of other clusters are there: not each has a MeshPeer"),
    row("DefinitionCurrent", "False", "DefinitionOutdated", "the CustomResourceDefinition is older than the operator"),
    row("Ready", "True", "Ready", "peers can meet"),
];

/// Reasons in the conditions of a MeshPeer. `Ready`, where it is not True, may have the reason of `Accepted` or `Connected`.
pub const MESH_PEER: &[Reason] = &[
    row("Accepted", "True", "Accepted", "it may sit at the Campfire"),
    row("Accepted", "True", "JoinSecretWritten", "the Secret with the URI of an `External` peer is there"),
    row("Accepted", "False", "CampfireNotFound", "there is no such Campfire"),
    row("Accepted", "False", "NamespaceNotAdmitted", "the Campfire does not admit this namespace"),
    row("Accepted", "False", "NamespaceNotServed", "the operator writes no Secrets in this namespace"),
    row("Accepted", "False", "NotManaged", "a person made an object of a type that the operator makes"),
    row("Accepted", "False", "NameTaken", "a pod with a sidecar has this name, and its MeshPeer needs it"),
    row("Accepted", "False", "NoExternalEndpoint", "the Campfire has no join Secret, as no server is reached from outside"),
    row("Accepted", "False", "SecretExists", "the Secret to write is somebody else's"),
    row("Accepted", "False", "SecretForbidden", "the operator has no rights to Secrets of this namespace"),
    row("Accepted", "False", "SecretNotWritten", "the API server did not take the Secret; it is tried again"),
    row("Accepted", "Unknown", "Gone", "the object is being deleted"),
    row("Connected", "True", "Linked", "it has links"),
    row("Connected", "True", "Camped", "it is at the fire, and nobody else is"),
    row("Connected", "True", "AtTheFire", "it is seen at the fire"),
    row("Connected", "False", "NotCamped", "it reaches no TURN server"),
    row("Connected", "False", "NoSession", "peers at the fire do not answer it"),
    row("Connected", "False", "NotAtTheFire", "nobody with the public key of an `External` peer is at the fire"),
    row("Connected", "False", "Left", "a `Remote` peer is no longer there; its object goes 10 minutes later"),
    row("Connected", "Unknown", "NotReported", "the sidecar has said nothing yet"),
    row("Connected", "Unknown", "NotReporting", "the sidecar says nothing any more"),
    row("Connected", "Unknown", "NoPublicKey", "which peer an `External` one is is not known"),
    row("Ready", "True", "Ready", "it can be used"),
    row("Ready", "False", "Starting", "the sidecar is on its way"),
    row("Ready", "False", "FireUnreachable", "no TURN server is reached, or none any more"),
];

/// Why a path is not direct, in a MeshPeer's `status.reason`.
pub const NOT_DIRECT: &[(&str, &str)] = &[
    ("Pending", "it is still being tried"),
    ("SymmetricNAT", "a NAT here gives each destination another port"),
    ("PeerSymmetricNAT", "a NAT there gives each destination another port"),
    ("UDPBlocked", "no UDP gets out here"),
    ("NoReflexiveAddress", "no server could say which address is seen from outside"),
    ("ProbeTimeout", "probes were lost: a firewall or NetworkPolicy between both"),
    ("Policy", "direct paths are forbidden, here or there"),
];
