//! `netcheck`: what a pod's network lets through. Its sidecar tries all servers of its Campfire, now, by each transport.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::ask::{complaint, shown};
use crate::cli::NetcheckArgs;
use crate::cluster::{AT_ONCE, Cluster, Ran};
use crate::member::{self, Member};
use crate::run::print;

/// `netcheck`: of one pod, or of one of each Campfire. Fails if a pod could not be asked, or no server answers it.
pub async fn netcheck(clusters: &[Cluster], arguments: &NetcheckArgs) -> Result<()> {
    let mut asked: Vec<(&Cluster, Member)> = Vec::new();
    for cluster in clusters {
        let members = cluster.members().await?;
        let chosen = choose(&members, arguments.pod.as_deref(), cluster)?;
        asked.extend(chosen.into_iter().map(|member| (cluster, member)));
    }
    let words: &[&str] = if arguments.output.is_some() { &["netcheck", "--json"] } else { &["netcheck"] };
    let told = stream::iter(asked).map(|(cluster, member)| async move {
        let ran = cluster.run(&member, words, |_| ()).await;
        (cluster, member, ran)
    });
    let told: Vec<_> = told.buffered(AT_ONCE).collect().await;
    let mut failed = Vec::new();
    let mut values = Vec::new();
    for (place, (cluster, member, ran)) in told.into_iter().enumerate() {
        let ran = ran.and_then(|ran| if ran.printed.is_empty() { Err(complaint(&ran, &member)) } else { Ok(ran) });
        let ran = match ran {
            Ok(ran) => ran,
            // One of several: what the others say is shown all the same.
            Err(error) => {
                failed.push(format!("{error:#}"));
                continue;
            }
        };
        if !ran.well {
            failed.push(format!("{:#}", complaint(&ran, &member)));
        }
        if arguments.output.is_some() {
            values.push(value(cluster, &member, &ran)?);
        } else {
            let gap = if place == 0 { "" } else { "\n" };
            let context = if clusters.len() > 1 { format!(" ({})", cluster.context) } else { String::new() };
            let head = format!("{gap}{}/{}{context}, at {}\n", member.namespace, member.name, member.campfire);
            print(&(head + &shown(&ran.printed)))?;
        }
    }
    if arguments.output.is_some() {
        print(&format!("{:#}\n", Value::from(values)))?;
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// The one that is named, else one of each Campfire.
fn choose(members: &[Member], pod: Option<&str>, cluster: &Cluster) -> Result<Vec<Member>> {
    if let Some(pod) = pod {
        return Ok(vec![member::must(members, pod, &cluster.place())?.clone()]);
    }
    let fires: BTreeSet<&str> = members.iter().map(|member| member.campfire.as_str()).collect();
    let at = |fire: &str| members.iter().filter(|member| member.campfire == fire).max_by_key(|member| member.ready).cloned();
    let chosen: Vec<Member> = fires.into_iter().filter_map(at).collect();
    if chosen.is_empty() {
        bail!("no pod in {} has a sidecar that could be asked", cluster.place());
    }
    Ok(chosen)
}

fn value(cluster: &Cluster, member: &Member, ran: &Ran) -> Result<Value> {
    let found: Value =
        serde_json::from_str(&ran.printed).with_context(|| format!("what the sidecar of {} says is not understood", member.name))?;
    Ok(json!({
        "context": cluster.context, "namespace": member.namespace, "pod": member.name, "campfire": member.campfire, "netcheck": found,
    }))
}
