//! `why` and `ping`: one pod's sidecar is asked about another peer.

use anyhow::{Result, anyhow, bail};
use campfire_api::MeshPeer;
use kube::ResourceExt as _;

use crate::cli::{Pair, PingArgs};
use crate::cluster::{Cluster, Ran};
use crate::member::{self, Member};
use crate::node;
use crate::run::print;
use campfire_text::printable;

/// The first pod, and what the other is called by its sidecar.
struct Meant<'a> {
    cluster: &'a Cluster,
    from: Member,
    to: String,
}

/// `why`.
pub async fn why(clusters: &[Cluster], pair: &Pair) -> Result<()> {
    let meant = meant(clusters, pair).await?;
    let ran = meant.cluster.run(&meant.from, &["why", &meant.to], |_| ()).await.and_then(|ran| fine(&ran, &meant.from).map(|()| ran));
    let ran = match ran {
        Ok(ran) => ran,
        // Where a node's agent makes the interface, that may be why.
        Err(error) => bail!("{error:#}{}", node::beside(meant.cluster, &meant.from).await),
    };
    print(&format!("As {} sees it:\n{}", meant.from.name, shown(&ran.printed)))
}

/// `ping`. Fails if no answer came.
pub async fn ping(clusters: &[Cluster], arguments: &PingArgs) -> Result<()> {
    let meant = meant(clusters, &arguments.pair).await?;
    let (count, interval) = (arguments.count.to_string(), arguments.interval.to_string());
    let mut words = vec!["ping", &meant.to, "--count", &count, "--interval", &interval];
    if arguments.full {
        words.push("--full");
    }
    print(&format!("from {}\n", meant.from.name))?;
    let mut written = Ok(());
    let ran = meant.cluster.run(&meant.from, &words, |line| written = print(&format!("{}\n", printable(line)))).await?;
    written?;
    fine(&ran, &meant.from)
}

fn fine(ran: &Ran, from: &Member) -> Result<()> {
    if ran.well { Ok(()) } else { Err(complaint(ran, from)) }
}

/// Why a command in a sidecar came to nothing.
pub fn complaint(ran: &Ran, from: &Member) -> anyhow::Error {
    let complaint = ran.complained.trim_start_matches("campfire: ");
    if complaint.contains("unrecognized subcommand") {
        return anyhow!(
            "the sidecar of {} is too old for this: make the pod anew, once the operator is of this version ({})",
            from.name,
            from.image
        );
    }
    anyhow!("{}: {}", from.name, printable(complaint))
}

/// Without what would move the cursor.
pub fn shown(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

async fn meant<'a>(clusters: &'a [Cluster], pair: &Pair) -> Result<Meant<'a>> {
    let (Some(here), Some(there)) = (clusters.first(), clusters.last()) else { bail!("no cluster") };
    let members = here.members().await?;
    let from = member::must(&members, &pair.from, &here.place())?.clone();
    let elsewhere = if clusters.len() > 1 { there.members().await? } else { members };
    let to = address(there, &elsewhere, &pair.to, &from).await?;
    Ok(Meant { cluster: here, from, to })
}

/// By what the sidecar of `from` finds the other: its address in the mesh, else the name as it was given.
async fn address(there: &Cluster, members: &[Member], wanted: &str, from: &Member) -> Result<String> {
    if let Some(pod) = member::choose(members, wanted, Some(from)) {
        if pod == from {
            bail!("both are {}: name another pod", from.name);
        }
        let peers = kube::Api::<MeshPeer>::namespaced(there.client.clone(), &pod.namespace);
        let peer = peers.get_opt(&pod.name).await.map_err(|error| there.explain(&error, "get meshpeers.campfire.network"))?;
        let status = peer.and_then(|peer| peer.status).unwrap_or_default();
        return match status.addresses.first() {
            Some(address) => Ok(address.clone()),
            None => bail!(
                "the sidecar of {} has told the operator no address yet: kubectl describe meshpeer {} -n {}",
                pod.name,
                pod.name,
                pod.namespace
            ),
        };
    }
    // A machine outside, or somebody of another cluster, by the name of its object; or whatever the sidecar knows it by.
    let peers = there.peers().await?;
    let peer = peers.iter().find(|peer| peer.name_any() == wanted);
    let address = peer.and_then(|peer| peer.status.as_ref()?.addresses.first().cloned());
    Ok(address.unwrap_or_else(|| wanted.to_owned()))
}
