//! `netcheck`: what a pod's network lets through, as its sidecar has found out: each server, by which transport, how far, and what the world sees of the
//! pod.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::member::{self, Member};
use crate::report::{Report, ServerState, Transport};
use crate::text::{milliseconds, printable, table};

/// `netcheck`: of one pod, or of one of each Campfire.
pub async fn netcheck(clusters: &[Cluster], pod: Option<&str>) -> Result<String> {
    let mut out = String::new();
    for cluster in clusters {
        let members = cluster.members().await?;
        let asked: Vec<&Member> = if let Some(pod) = pod {
            vec![member::must(&members, pod, &cluster.place())?]
        } else {
            let fires: BTreeSet<&str> = members.iter().map(|member| member.campfire.as_str()).collect();
            let at = |fire: &&str| members.iter().filter(|member| member.campfire == *fire).max_by_key(|member| member.ready);
            fires.iter().filter_map(at).collect()
        };
        if asked.is_empty() {
            bail!("no pod in {} has a sidecar that could be asked", cluster.place());
        }
        for member in asked {
            let report = cluster.report(member).await?;
            let gap = if out.is_empty() { "" } else { "\n" };
            let context = if clusters.len() > 1 { format!(" ({})", cluster.context) } else { String::new() };
            let _ = write!(out, "{gap}{}/{}{context}, at {}\n{}", member.namespace, member.name, member.campfire, told(&report));
        }
    }
    Ok(out)
}

/// What a sidecar has found out.
fn told(report: &Report) -> String {
    let mut out = String::new();
    let camped: Vec<_> = report.servers.iter().filter(|server| server.state == ServerState::Camped).collect();
    let by_udp = camped.iter().any(|server| server.transport == Some(Transport::Udp));
    let udp = match (camped.is_empty(), by_udp) {
        (true, _) => "not known: no server is reached",
        (false, true) => "yes",
        (false, false) => "no: servers are reached by TCP or TLS alone, so no path can be direct",
    };
    let _ = writeln!(out, "  UDP gets out:    {udp}");
    let seen: BTreeSet<String> = report.servers.iter().filter_map(|server| server.observed.map(|seen| seen.to_string())).collect();
    let seen = if seen.is_empty() { "not known".to_owned() } else { seen.into_iter().collect::<Vec<_>>().join(", ") };
    let _ = writeln!(out, "  Seen as:         {seen}");
    let nat = match (report.own.symmetric, camped.len()) {
        (true, _) => "another port for each destination (symmetric): others cannot aim at this pod",
        (false, 0 | 1) => "not known: it takes two servers to see whether the port changes",
        (false, _) => "the same port for each destination",
    };
    let _ = writeln!(out, "  NAT:             {nat}");
    let candidates: Vec<String> = report.own.candidates.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "  Told to others:  {}", if candidates.is_empty() { "nothing".into() } else { candidates.join(", ") });
    let mut rows = vec![["  SERVER", "STATE", "BY", "RTT", "SEES", ""].map(String::from).to_vec()];
    for server in &report.servers {
        let dash = || "-".to_owned();
        rows.push(vec![
            format!("  {}", printable(&server.id)),
            server.state.to_string(),
            server.transport.map_or_else(dash, |transport| transport.to_string()),
            server.rtt_ms.map_or_else(dash, milliseconds),
            server.observed.map_or_else(dash, |seen| seen.to_string()),
            server.problem.as_deref().map(printable).unwrap_or_default(),
        ]);
    }
    out + &table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Server;

    #[test]
    fn what_a_network_lets_through_is_told() {
        let camped = |id: &str, seen: &str| Server {
            id: id.into(),
            state: ServerState::Camped,
            transport: Some(Transport::Udp),
            rtt_ms: Some(4.2),
            observed: Some(seen.parse().unwrap()),
            problem: None,
        };
        let mut report =
            Report { servers: vec![camped("oak", "198.51.100.1:4000"), camped("elm", "198.51.100.1:4001")], ..Report::default() };
        report.own.symmetric = true;
        let lost =
            Server { id: "birch".into(), state: ServerState::Lost, problem: Some("refuses connections".into()), ..Server::default() };
        report.servers.push(lost);
        assert_eq!(
            told(&report),
            "\x20 UDP gets out:    yes
  Seen as:         198.51.100.1:4000, 198.51.100.1:4001
  NAT:             another port for each destination (symmetric): others cannot aim at this pod
  Told to others:  nothing
  SERVER   STATE    BY    RTT      SEES
  oak      camped   UDP   4.2 ms   198.51.100.1:4000
  elm      camped   UDP   4.2 ms   198.51.100.1:4001
  birch    lost     -     -        -                   refuses connections
"
        );
        report.servers.iter_mut().for_each(|server| server.transport = Some(Transport::Tls));
        assert!(told(&report).contains("no: servers are reached by TCP or TLS alone"));
    }
}
