//! What is said by name: types and reasons of the resources' conditions, and why a pod gets no sidecar. Each name is a value; its text is made
//! here and nowhere else. What to do about each stands in docs/kubernetes.md.

use std::fmt;

/// An enum whose variants are known by their names.
macro_rules! named {
    ($(#[$about:meta])* pub enum $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$doc])* $name,)* }

        impl $type {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name, as the API has it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// That of a name; `None`: it is another version's, or somebody else's.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// What a condition says.
    pub enum Truth {
        /// It is so.
        True,
        /// It is not so.
        False,
        /// It is not known.
        Unknown,
    }
}

named! {
    /// Types of conditions. [`CAMPFIRE`] and [`MESH_PEER`] say which has which.
    pub enum ConditionType {
        /// The object is understood, and may be.
        Accepted,
        /// There is a key.
        KeyReady,
        /// There are servers to meet on.
        TurnAvailable,
        /// Another cluster may join.
        Joinable,
        /// Where a rotation stands.
        Rotated,
        /// Pods with the sidecar are admitted in the Campfire's namespace.
        MembersAdmitted,
        /// The API server reaches the webhook.
        WebhookReached,
        /// Not every peer of other clusters has an object.
        RemotePeersTruncated,
        /// The API server knows all fields.
        DefinitionCurrent,
        /// A peer sits at its fire and has its links.
        Connected,
        /// All that is needed is there.
        Ready,
    }
}

named! {
    /// Reasons of conditions. What each means stands in [`CAMPFIRE`] and [`MESH_PEER`].
    #[allow(missing_docs, reason = "said once, in the tables")]
    pub enum Reason {
        Accepted,
        NamespaceNotServed,
        InvalidName,
        InvalidSpec,
        InvalidServer,
        InvalidExternalAddress,
        InvalidNetwork,
        InvalidMembers,
        NoServers,
        TlsSecretMissing,
        PodsRefused,
        NewServerNotReady,
        Forbidden,
        Refused,
        KeyReady,
        KeySecretMissing,
        KeyInvalid,
        NetworkInvalid,
        KeyMissing,
        KeyClaimed,
        JoinSecretMissing,
        JoinSecretInvalid,
        AllReady,
        SomeReady,
        NotDeployed,
        TurnNotReady,
        WaitingForAddress,
        NoEndpoints,
        Joinable,
        NoExternalEndpoint,
        NoKey,
        Retired,
        Distributed,
        Activated,
        WaitingForPeers,
        RotatesElsewhere,
        InvalidAnnotation,
        Admitted,
        AdmittedByDefault,
        PodSecurityForbids,
        PodSecurityDefault,
        PolicyForbids,
        NotTried,
        Reached,
        Unreached,
        TooMany,
        DefinitionOutdated,
        Ready,
        JoinSecretWritten,
        CampfireNotFound,
        NamespaceNotAdmitted,
        NotManaged,
        NameTaken,
        SecretExists,
        SecretForbidden,
        SecretNotWritten,
        Gone,
        Linked,
        Camped,
        AtTheFire,
        NotCamped,
        NoSession,
        NotAtTheFire,
        Left,
        NotReported,
        NotReporting,
        NoPublicKey,
        Starting,
        FireUnreachable,
        InterfaceUnconfigured,
        InterfaceChanged,
        NotScheduled,
        ImageNotPulled,
        InitFailing,
        SidecarFailing,
        NoSettings,
    }
}

impl Reason {
    /// What a condition with this reason says: the same wherever it stands.
    pub const fn status(self) -> Truth {
        match self {
            Self::Accepted
            | Self::KeyReady
            | Self::AllReady
            | Self::SomeReady
            | Self::NotDeployed
            | Self::Joinable
            | Self::Retired
            | Self::Admitted
            | Self::AdmittedByDefault
            | Self::Reached
            | Self::TooMany
            | Self::Ready
            | Self::JoinSecretWritten
            | Self::Linked
            | Self::Camped
            | Self::AtTheFire => Truth::True,
            Self::NotTried | Self::Gone | Self::NotReported | Self::NotReporting | Self::NoPublicKey => Truth::Unknown,
            Self::NamespaceNotServed
            | Self::InvalidName
            | Self::InvalidSpec
            | Self::InvalidServer
            | Self::InvalidExternalAddress
            | Self::InvalidNetwork
            | Self::InvalidMembers
            | Self::NoServers
            | Self::TlsSecretMissing
            | Self::PodsRefused
            | Self::NewServerNotReady
            | Self::Forbidden
            | Self::Refused
            | Self::KeySecretMissing
            | Self::KeyInvalid
            | Self::NetworkInvalid
            | Self::KeyMissing
            | Self::KeyClaimed
            | Self::JoinSecretMissing
            | Self::JoinSecretInvalid
            | Self::TurnNotReady
            | Self::WaitingForAddress
            | Self::NoEndpoints
            | Self::NoExternalEndpoint
            | Self::NoKey
            | Self::Distributed
            | Self::Activated
            | Self::WaitingForPeers
            | Self::RotatesElsewhere
            | Self::InvalidAnnotation
            | Self::PodSecurityForbids
            | Self::PodSecurityDefault
            | Self::PolicyForbids
            | Self::Unreached
            | Self::DefinitionOutdated
            | Self::CampfireNotFound
            | Self::NamespaceNotAdmitted
            | Self::NotManaged
            | Self::NameTaken
            | Self::SecretExists
            | Self::SecretForbidden
            | Self::SecretNotWritten
            | Self::NotCamped
            | Self::NoSession
            | Self::NotAtTheFire
            | Self::Left
            | Self::Starting
            | Self::FireUnreachable
            | Self::InterfaceUnconfigured
            | Self::InterfaceChanged
            | Self::NotScheduled
            | Self::ImageNotPulled
            | Self::InitFailing
            | Self::SidecarFailing
            | Self::NoSettings => Truth::False,
        }
    }
}

/// What a reason means in one condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// The condition.
    pub condition: ConditionType,
    /// The reason.
    pub reason: Reason,
    /// What it means.
    pub means: &'static str,
}

const fn row(condition: ConditionType, reason: Reason, means: &'static str) -> Meaning {
    Meaning { condition, reason, means }
}

/// Reasons in the conditions of a Campfire. `Ready`, where it is not True, has the reason of the first condition that is not.
pub const CAMPFIRE: &[Meaning] = &[
    row(ConditionType::Accepted, Reason::Accepted, "the spec is understood"),
    row(ConditionType::Accepted, Reason::NamespaceNotServed, "the operator serves other namespaces"),
    row(ConditionType::Accepted, Reason::InvalidName, "Services cannot be called by this name"),
    row(ConditionType::Accepted, Reason::InvalidSpec, "parts of the spec contradict each other"),
    row(ConditionType::Accepted, Reason::InvalidServer, "a text in `turn.servers` is no server"),
    row(
        ConditionType::Accepted,
        Reason::InvalidExternalAddress,
        "a text in `turn.exposure.externalAddresses` is no address, or there are too many or too few",
    ),
    row(ConditionType::Accepted, Reason::InvalidNetwork, "a text in `network` is no network"),
    row(ConditionType::Accepted, Reason::InvalidMembers, "the selector of namespaces cannot be read"),
    row(ConditionType::Accepted, Reason::NoServers, "no replicas, and no `turn.servers`"),
    row(
        ConditionType::Accepted,
        Reason::TlsSecretMissing,
        "the Secret of `turn.tls` is not there, or holds no certificate and key: TLS waits for it",
    ),
    row(
        ConditionType::Accepted,
        Reason::PodsRefused,
        "the API server would refuse the servers' pods as the spec has them now: those that run stay as they are",
    ),
    row(
        ConditionType::Accepted,
        Reason::NewServerNotReady,
        "a change of the servers is tried on one more beside them, which does not become ready: those that run stay as they are",
    ),
    row(ConditionType::Accepted, Reason::Forbidden, "the operator has no rights in this namespace, or a quota or a policy is against it"),
    row(ConditionType::Accepted, Reason::Refused, "the API server does not take what the spec asks for"),
    row(ConditionType::KeyReady, Reason::KeyReady, "the key is there"),
    row(ConditionType::KeyReady, Reason::KeySecretMissing, "the Secret of `psk.secretRef` is not there"),
    row(ConditionType::KeyReady, Reason::KeyInvalid, "what stands in the Secret is no key"),
    row(ConditionType::KeyReady, Reason::NetworkInvalid, "what stands in the Secret under `network` is no network id"),
    row(ConditionType::KeyReady, Reason::KeyMissing, "the Secret that held the key is gone; a new key would part the peers"),
    row(ConditionType::KeyReady, Reason::KeyClaimed, "an older Campfire has this Secret"),
    row(ConditionType::KeyReady, Reason::JoinSecretMissing, "the Secret of `join.secretRef` is not there"),
    row(ConditionType::KeyReady, Reason::JoinSecretInvalid, "what stands in it is no `camp://` URI"),
    row(ConditionType::TurnAvailable, Reason::AllReady, "all servers are ready"),
    row(ConditionType::TurnAvailable, Reason::SomeReady, "some servers are ready"),
    row(ConditionType::TurnAvailable, Reason::NotDeployed, "there are servers elsewhere, and none here"),
    row(ConditionType::TurnAvailable, Reason::TurnNotReady, "no server is ready"),
    row(ConditionType::TurnAvailable, Reason::WaitingForAddress, "a load balancer has no address yet"),
    row(ConditionType::TurnAvailable, Reason::NoEndpoints, "the Services have no address yet"),
    row(ConditionType::TurnAvailable, Reason::NoServers, "no server is known: none here, none in the join Secret, no `turn.servers`"),
    row(ConditionType::Joinable, Reason::Joinable, "the join Secret is there and up to date"),
    row(ConditionType::Joinable, Reason::NoExternalEndpoint, "no server is reached from outside"),
    row(ConditionType::Joinable, Reason::NoKey, "in the middle of a rotation no key is held by everybody"),
    row(ConditionType::Rotated, Reason::Retired, "the rotation has ended"),
    row(ConditionType::Rotated, Reason::Distributed, "everybody gets the new key"),
    row(ConditionType::Rotated, Reason::Activated, "everybody meets under both keys"),
    row(ConditionType::Rotated, Reason::WaitingForPeers, "not everybody has the new key"),
    row(ConditionType::Rotated, Reason::RotatesElsewhere, "the key is another cluster's"),
    row(ConditionType::Rotated, Reason::InvalidAnnotation, "annotation `campfire.network/rotate` names no step"),
    row(ConditionType::MembersAdmitted, Reason::Admitted, "a pod of this namespace is admitted with the sidecar"),
    row(
        ConditionType::MembersAdmitted,
        Reason::AdmittedByDefault,
        "the same, and the namespace has no PodSecurity label: so it is where others have none",
    ),
    row(ConditionType::MembersAdmitted, Reason::PodSecurityForbids, "the namespace's PodSecurity label forbids the sidecar"),
    row(
        ConditionType::MembersAdmitted,
        Reason::PodSecurityDefault,
        "the cluster's PodSecurity default forbids it wherever a namespace has no label",
    ),
    row(ConditionType::MembersAdmitted, Reason::PolicyForbids, "another admission policy refuses pods with the sidecar here"),
    row(ConditionType::MembersAdmitted, Reason::NotTried, "no pod can be tried here, with or without the sidecar"),
    row(ConditionType::WebhookReached, Reason::Reached, "the API server asks the webhook, and is answered"),
    row(ConditionType::WebhookReached, Reason::Unreached, "the API server does not reach the webhook: new pods start without a sidecar"),
    row(ConditionType::RemotePeersTruncated, Reason::TooMany, "more than 200 peers of other clusters are there: not each has a MeshPeer"),
    row(ConditionType::DefinitionCurrent, Reason::DefinitionOutdated, "the CustomResourceDefinition is older than the operator"),
    row(ConditionType::Ready, Reason::Ready, "peers can meet"),
];

/// Reasons in the conditions of a MeshPeer. `Ready`, where it is not True, may have the reason of `Accepted` or `Connected`.
pub const MESH_PEER: &[Meaning] = &[
    row(ConditionType::Accepted, Reason::Accepted, "it may sit at the Campfire"),
    row(ConditionType::Accepted, Reason::JoinSecretWritten, "the Secret with the URI of an `External` peer is there"),
    row(ConditionType::Accepted, Reason::CampfireNotFound, "there is no such Campfire"),
    row(ConditionType::Accepted, Reason::NamespaceNotAdmitted, "the Campfire does not admit this namespace"),
    row(ConditionType::Accepted, Reason::NamespaceNotServed, "the operator writes no Secrets in this namespace"),
    row(ConditionType::Accepted, Reason::NotManaged, "a person made an object of a type that the operator makes"),
    row(ConditionType::Accepted, Reason::NameTaken, "a pod with a sidecar has this name, and its MeshPeer needs it"),
    row(ConditionType::Accepted, Reason::NoExternalEndpoint, "the Campfire has no join Secret, as no server is reached from outside"),
    row(ConditionType::Accepted, Reason::SecretExists, "the Secret to write is somebody else's"),
    row(ConditionType::Accepted, Reason::SecretForbidden, "the operator has no rights to Secrets of this namespace"),
    row(ConditionType::Accepted, Reason::SecretNotWritten, "the API server did not take the Secret; it is tried again"),
    row(ConditionType::Accepted, Reason::Gone, "the object is being deleted"),
    row(ConditionType::Connected, Reason::Linked, "it has links"),
    row(ConditionType::Connected, Reason::Camped, "it is at the fire, and nobody else is"),
    row(ConditionType::Connected, Reason::AtTheFire, "it is seen at the fire"),
    row(ConditionType::Connected, Reason::NotCamped, "it reaches no TURN server"),
    row(ConditionType::Connected, Reason::NoSession, "peers at the fire do not answer it"),
    row(ConditionType::Connected, Reason::NotAtTheFire, "nobody with the public key of an `External` peer is at the fire"),
    row(ConditionType::Connected, Reason::Left, "a `Remote` peer is no longer there; its object goes 10 minutes later"),
    row(ConditionType::Connected, Reason::NotReported, "the sidecar has said nothing yet"),
    row(ConditionType::Connected, Reason::NotReporting, "the sidecar says nothing any more"),
    row(ConditionType::Connected, Reason::NoPublicKey, "which peer an `External` one is is not known"),
    row(ConditionType::Ready, Reason::Ready, "it can be used"),
    row(ConditionType::Ready, Reason::Starting, "the sidecar is on its way"),
    row(ConditionType::Ready, Reason::FireUnreachable, "no TURN server is reached, or none any more"),
    row(ConditionType::Ready, Reason::InterfaceUnconfigured, "the init container could not make the interface"),
    row(ConditionType::Ready, Reason::InterfaceChanged, "something in the pod changed the interface, which the sidecar may not put right"),
    row(ConditionType::Ready, Reason::NotScheduled, "the pod has no node yet"),
    row(ConditionType::Ready, Reason::ImageNotPulled, "the sidecar's image cannot be pulled"),
    row(ConditionType::Ready, Reason::InitFailing, "the init container cannot be started, or fails"),
    row(ConditionType::Ready, Reason::SidecarFailing, "the sidecar cannot be started, or fails"),
    row(ConditionType::Ready, Reason::NoSettings, "the sidecar runs and has not reached the operator"),
];

named! {
    /// Why a pod gets no sidecar: in events on what controls it, and in warnings to whoever makes it.
    pub enum SkipReason {
        /// Nobody asked for one: the only reason that is not told.
        NotAsked,
        /// A namespace that is never touched.
        ProtectedNamespace,
        /// The pod uses the node's network.
        HostNetwork,
        /// A Windows pod.
        Windows,
        /// No Campfire admits the namespace.
        NoCampfire,
        /// Several do, and none is named.
        AmbiguousCampfire,
        /// The one that is named does not exist.
        CampfireNotFound,
        /// The one that is named does not admit the namespace.
        NamespaceNotAdmitted,
        /// The name can't be read.
        InvalidAnnotation,
        /// PodSecurity admission would refuse the pod.
        PodSecurityForbids,
        /// Another admission policy would.
        PolicyForbids,
        /// A quota has room for the pod, and none for the sidecar.
        QuotaForbids,
        /// A LimitRange has none for the sidecar.
        LimitRangeForbids,
        /// A kubelet runs the pod from a file.
        MirrorPod,
        /// The pod has a user namespace, in which no TUN device can be made.
        UserNamespace,
        /// `mode: Node`, and no node agent is installed, or it is being uninstalled.
        NoNodeAgent,
        /// The node agent runs on some nodes alone, and the pod may run on others.
        NodeAgentNotEverywhere,
        /// The pod runs in a machine or kernel of its own, where the node agent reaches no network namespace.
        Sandboxed,
        /// The pod's annotations leave no room for the sidecar's.
        AnnotationsFull,
        /// A container or volume of the pod has a name that the sidecar needs.
        NameTaken,
        /// The Campfire has no network yet: it has just been made, or nothing has come of it.
        CampfireNotReady,
        /// The operator has no CA yet, or has not seen the cluster yet.
        OperatorStarting,
    }
}

impl SkipReason {
    /// The warning to whoever makes a pod that gets no sidecar for this reason.
    pub fn warning(self, message: &str) -> String {
        format!("{WARNING}{self}): {message}")
    }

    /// Reason and message of such a warning; `None`: it is another version's, or somebody else's.
    pub fn warned(warning: &str) -> Option<(Self, &str)> {
        let (reason, message) = warning.strip_prefix(WARNING)?.split_once("): ")?;
        Some((Self::named(reason)?, message))
    }
}

/// How warnings about pods without a sidecar begin.
const WARNING: &str = "campfire: no sidecar (";

/// Why a path is not direct, in a MeshPeer's `status.reason`.
pub const NOT_DIRECT: &[(&str, &str)] = &[
    ("Pending", "it is still being tried"),
    ("SymmetricNAT", "a NAT here gives each destination another port"),
    ("PeerSymmetricNAT", "a NAT there gives each destination another port"),
    ("UDPBlocked", "no UDP gets out here"),
    ("NoReflexiveAddress", "no server could say which address is seen from outside"),
    ("ProbeTimeout", "probes were lost: a firewall or NetworkPolicy between both"),
    ("MTUTooSmall", "small packets come through and large ones do not: something between both has a smaller MTU"),
    ("Policy", "direct paths are forbidden, here or there"),
    ("SlowerThanRelay", "there is a direct path, and packets take much longer on it than on the relay"),
];

#[cfg(test)]
mod tests {
    use super::SkipReason;

    #[test]
    fn a_warning_is_read_as_it_was_written_and_nobody_elses_is() {
        for reason in SkipReason::ALL {
            assert_eq!(SkipReason::warned(&reason.warning("a (b): c")), Some((*reason, "a (b): c")));
        }
        for other in ["", "would violate PodSecurity", "campfire: no sidecar (Tomorrow): why", "campfire: no sidecar (NoCampfire"] {
            assert_eq!(SkipReason::warned(other), None, "{other}");
        }
    }
}
