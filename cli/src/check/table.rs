//! All checks: what each looks at, and what to do. docs/cli.md is made of it.

/// Makes the enum and its table.
macro_rules! checks {
    ($($name:ident = $id:literal, $group:literal, $looks:literal, $remedy:literal;)*) => {
        /// A check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the table says it")]
        pub enum Check { $($name,)* }

        impl Check {
            /// All there are, in the order of their groups.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, which stays.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it belongs to.
            pub const fn group(self) -> &'static str {
                match self { $(Self::$name => $group,)* }
            }

            /// What it looks at.
            pub const fn looks(self) -> &'static str {
                match self { $(Self::$name => $looks,)* }
            }

            /// What to do where it finds something.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

impl Check {
    /// Where its remedy stands.
    pub fn link(self) -> String {
        format!("{}/blob/main/docs/cli.md#{}", env!("CARGO_PKG_REPOSITORY"), self.id())
    }
}

checks! {
    ClusterVersion = "cluster-version", "Cluster",
        "The API server answers, and is of Kubernetes 1.29 or later (native sidecars).",
        "Name the right `--context`; upgrade the cluster.";
    ClusterClock = "cluster-clock", "Cluster",
        "The clocks of the API server, this machine, the nodes, the operator and the members agree within 30 s. Certificates, tokens and handshakes hold for a time.",
        "Set the clocks by NTP, on this machine and on the nodes (`timedatectl` says how it stands). Where all differ from the API server's, that one may be wrong.";
    ClusterDefinitions = "cluster-definitions", "Cluster",
        "The CustomResourceDefinitions are there and know all fields of this version. What they do not know the API server drops.",
        "`helm install` or `helm upgrade` with `crds.enabled`, or `kubectl apply --server-side -f crds/` of this version.";
    ClusterRights = "cluster-rights", "Cluster",
        "You have the rights that this plugin needs: to list Campfires, MeshPeers and pods, and to run commands in sidecars.",
        "Ask for the rights that are named (`kubectl auth can-i VERB RESOURCE -n NAMESPACE` says the same). Other checks say less without them.";
    ClusterPodSecurity = "cluster-podsecurity", "Cluster",
        "No namespace whose pods should get a sidecar enforces PodSecurity `baseline` or `restricted`, unless the node agent is installed: these refuse the init container's NET_ADMIN.",
        "Install [the node agent](operations.md#the-node-agent), label the namespace `pod-security.kubernetes.io/enforce: privileged`, or leave its pods out of the mesh: [PodSecurity](kubernetes.md#podsecurity).";
    InstallRights = "install-rights", "Cluster",
        "With `--pre`: you may make what the chart makes: definitions, cluster roles, the webhook, the operator's Deployment.",
        "Install as somebody who may (cluster-admin, for instance).";
    InstallAbsent = "install-absent", "Cluster",
        "With `--pre`: nobody has installed it yet; there is one operator in a cluster.",
        "`helm upgrade` the release that is there, or uninstall it first: [Uninstall](operations.md#uninstall).";
    OperatorReady = "operator-ready", "Operator",
        "The operator's Deployment is there and has a pod that is ready.",
        "`kubectl describe deployment campfire-operator` and its pods: images, resources, admission.";
    OperatorLeader = "operator-leader", "Operator",
        "One of its replicas leads: its Lease was renewed a moment ago.",
        "`kubectl logs deployment/campfire-operator`: it may not reach the API server, or lack the right to its Lease.";
    OperatorWebhook = "operator-webhook", "Operator",
        "A pod that asks for a sidecar gets one. A pod is made for it in a dry run, which leaves nothing behind; where the namespace is against it (PodSecurity, a policy, a quota), in another one with a Campfire, if you may look there.",
        "The API server must reach Service campfire-webhook, port 9443 of the operator's pods: firewalls of managed clusters, NetworkPolicies. Else the words say why the pod is not injected: [Why a pod got no sidecar](kubernetes.md#why-a-pod-got-no-sidecar).";
    OperatorCertificate = "operator-certificate", "Operator",
        "The webhook's CA is known to the API server and holds for two weeks at least. The operator renews it by itself, long before.",
        "Look into the operator's log; whoever else writes the MutatingWebhookConfiguration (a GitOps tool, for instance) must leave `caBundle` alone.";
    NodeAgentInstalled = "node-agent-installed", "Node agent",
        "The node agent is installed where Campfires (`spec.sidecar.mode: Node`) or pods need it, and is not about to go.",
        "Install the chart campfire-node: [The node agent](operations.md#the-node-agent). Pods that have its volume can end only while it is there.";
    NodeAgentRuns = "node-agent-runs", "Node agent",
        "It is ready on each node that it is for, and the kubelet there has registered its driver.",
        "`kubectl describe daemonset campfire-node` and its pods: its namespace has to allow `privileged` pods, and `kubeletDir` has to be the kubelet's directory.";
    NodeAgentKey = "node-agent-key", "Node agent",
        "The operator has told the agents by what key its grants are signed.",
        "The operator's log says why not: the chart's values `operator.namespace` and `operator.serviceAccount` name who may write ConfigMap campfire-node.";
    NodeAgentPods = "node-agent-pods", "Node agent",
        "No pod waits for the agent of its node: the agent is there, and does not refuse the operator's grant.",
        "The words say what the pod waits for; `kubectl logs` of the agent on that node says of each request what became of it: [The node agent](operations.md#the-node-agent).";
    FireConditions = "fire-conditions", "Fires",
        "What each Campfire says of itself.",
        "The reason has its remedy in [Conditions and what to do](kubernetes.md#campfire-1).";
    FireServers = "fire-servers", "Fires",
        "From a pod of each Campfire: each server is reached, and how; each is tried, now, by UDP, TCP and TLS.",
        "By TCP or TLS alone: let UDP out to port 3478. Not at all: the words name what was tried; look at firewalls and NetworkPolicies between. `kubectl campfire netcheck` shows all.";
    FireFull = "fire-full", "Fires",
        "No server turns members away because a limit of it is reached.",
        "Raise the limit that is named, a flag of `campfire-turn` ([Configuration](running-a-turn-server.md#configuration)). Servers that the operator makes have the defaults: give the Campfire servers of your own (`turn.servers`), or part its members into several Campfires.";
    KeyRotation = "key-rotation", "Keys",
        "No rotation of a key waits for somebody.",
        "The message names who lacks the new key: [Rotating the key](operations.md#rotating-the-key).";
    KeySame = "key-same", "Keys",
        "With several contexts: clusters of one fire use the same key.",
        "Carry the join secret there again: `kubectl campfire --context FROM join TO`.";
    MemberMissed = "member-missed", "Members",
        "No pod that should have a sidecar was made while no operator answered.",
        "Make those pods anew (`kubectl rollout restart`). Two replicas of the operator (`operator.replicas`) make it rare.";
    MemberSkipped = "member-skipped", "Members",
        "No pod was left without a sidecar in the last hour for a reason.",
        "Each reason has its remedy: [Why a pod got no sidecar](kubernetes.md#why-a-pod-got-no-sidecar).";
    MemberReady = "member-ready", "Members",
        "Each pod at a fire camps, and has its links.",
        "The reason has its remedy in [MeshPeer](kubernetes.md#meshpeer-1); `kubectl campfire why POD POD` explains a link.";
    MemberVersion = "member-version", "Members",
        "All sidecars are of one image. Old ones go on; they lack what is new.",
        "Make the pods anew (`kubectl rollout restart`) when it suits you.";
    MemberPaths = "member-paths", "Members",
        "How packets go: directly or through servers, and why. A relay works; between clusters it is the rule.",
        "Nothing has to be done; what would make paths direct stands in [MeshPeer](kubernetes.md#meshpeer-1).";
    PathFull = "path-full", "Paths",
        "Packets of full size (the interface's MTU) come through between two pods, of each Campfire and across contexts.",
        "`kubectl campfire why POD POD`. Where small packets come through and large ones do not, something between drops fragments or large datagrams: the path's MTU.";
    NameUnique = "name-unique", "Names",
        "With several contexts: no two clusters of one fire have the same `clusterName`.",
        "Give each a name of its own: `clusterName` of the chart, or `spec.clusterName`.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Check;

    #[test]
    fn ids_are_unique_and_fit_for_links_and_all_has_words() {
        let ids: BTreeSet<&str> = Check::ALL.iter().map(|check| check.id()).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        for check in Check::ALL {
            assert!(check.id().chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", check.id());
            assert!(check.looks().ends_with('.') && check.remedy().ends_with('.'), "{}", check.id());
            assert!(check.link().starts_with("https://") && check.link().ends_with(check.id()));
        }
    }
}
