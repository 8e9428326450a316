//! Campfires and who sits at them: what they say of themselves, and what sidecars say when they are asked.

use std::collections::BTreeMap;

use anyhow::Result;
use campfire_api::conditions::{CAMPFIRE, ConditionType, Reason, SkipReason, Truth};
use campfire_api::{Campfire, MeshPeer, PathName, PeerType};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::clocks::{self, Clock};
use super::{Check, Findings, Outcome};
use crate::cluster::Cluster;
use crate::member::Member;
use crate::report::{Limit, Netcheck, Outcome as Tryout, Report, Server, ServerState, Transport};
use crate::status::{condition, full};
use campfire_text::{count, printable};

/// How far back events are looked at, in seconds.
const RECENT: i64 = 3_600;
/// Members without a server that are asked why.
const ASKED: usize = 3;
/// Objects that are named in one finding.
const NAMED: usize = 5;

/// What was seen in one cluster, to be compared with others.
#[derive(Default)]
pub(super) struct Seen {
    campfires: Vec<Campfire>,
    peers: Vec<MeshPeer>,
    members: Vec<Member>,
}

/// Looks.
pub(super) async fn look(cluster: &Cluster, findings: &mut Findings<'_>, clock: Clock) -> Seen {
    let campfires = match cluster.campfires().await {
        Ok(campfires) => campfires,
        Err(error) => {
            findings.unknown(Check::FireConditions, &error);
            return Seen::default();
        }
    };
    if campfires.is_empty() {
        findings.add(Check::FireConditions, Outcome::Unknown, format!("there is no Campfire in {}", cluster.place()));
    }
    conditions(findings, &campfires);
    rotation(findings, &campfires);
    let peers = cluster.peers().await.unwrap_or_else(|error| {
        findings.unknown(Check::MemberReady, &error);
        Vec::new()
    });
    members(findings, &campfires, &peers);
    skipped(cluster, findings).await;
    let members = cluster.members().await.unwrap_or_else(|error| {
        findings.unknown(Check::FireServers, &error);
        Vec::new()
    });
    images(findings, &members);
    full_servers(cluster, findings, &peers, &members).await;
    for campfire in &campfires {
        let name = full(campfire);
        let at: Vec<&Member> = members.iter().filter(|member| member.campfire == name && member.ready).collect();
        let Some(first) = at.first() else {
            findings.add(Check::FireServers, Outcome::Unknown, format!("no pod sits at {name} that could be asked"));
            continue;
        };
        let asked = clock.now();
        let (report, tried) = tokio::join!(cluster.report(first), cluster.netcheck(first));
        match report {
            Ok(report) => {
                clocks::of_member(findings, &format!("pod {}", full_name(first)), &report, asked, clock.now());
                let tried = tried.unwrap_or_else(|error| {
                    findings.unknown(Check::FireServers, &error);
                    Netcheck::default()
                });
                servers(findings, &name, first, &report, &tried);
            }
            Err(error) => findings.unknown(Check::FireServers, &error),
        }
        if let Some(second) = at.get(1) {
            full_size(cluster, findings, first, second, &peers).await;
        }
    }
    Seen { campfires, peers, members }
}

fn conditions(findings: &mut Findings<'_>, campfires: &[Campfire]) {
    for campfire in campfires {
        let name = full(campfire);
        let status = campfire.status.clone().unwrap_or_default();
        let ready = condition(&status.conditions, ConditionType::Ready);
        match ready {
            None => findings.add(Check::FireConditions, Outcome::Wrong, format!("{name}: the operator says nothing of it")),
            Some(it) if it.status == Truth::True.name() => {
                findings.good(Check::FireConditions, format!("{name}: {}", printable(&it.message)));
            }
            Some(it) => findings.add(Check::FireConditions, Outcome::Wrong, format!("{name}: {}: {}", it.reason, printable(&it.message))),
        }
        if status.observed_generation.is_some() && status.observed_generation != campfire.metadata.generation {
            findings.add(Check::FireConditions, Outcome::Warning, format!("{name}: the operator has not looked at its newest spec"));
        }
        for it in &status.conditions {
            // Those that Ready does not repeat. That nobody can join need not be wrong.
            let beside = [ConditionType::RemotePeersTruncated, ConditionType::DefinitionCurrent];
            let told = CAMPFIRE.iter().find(|row| row.condition.name() == it.type_ && row.reason.name() == it.reason).map(|row| row.reason);
            let news = beside.iter().any(|kind| kind.name() == it.type_)
                && told.is_some_and(|reason| reason == Reason::TooMany || reason == Reason::DefinitionOutdated);
            if news {
                findings.add(Check::FireConditions, Outcome::Warning, format!("{name}: {}: {}", it.reason, printable(&it.message)));
            }
        }
    }
}

fn rotation(findings: &mut Findings<'_>, campfires: &[Campfire]) {
    let mut under_way = Vec::new();
    for campfire in campfires {
        let status = campfire.status.clone().unwrap_or_default();
        if let Some(it) = condition(&status.conditions, ConditionType::Rotated).filter(|it| it.status != Truth::True.name()) {
            under_way.push(format!("{}: {}: {}", full(campfire), it.reason, printable(&it.message)));
        }
    }
    findings.each(Check::KeyRotation, Outcome::Warning, under_way, "no rotation of a key is under way");
}

fn members(findings: &mut Findings<'_>, campfires: &[Campfire], peers: &[MeshPeer]) {
    let mut missed = Vec::new();
    for campfire in campfires {
        let number = campfire.status.as_ref().and_then(|status| status.missed_pods).unwrap_or_default();
        if number > 0 {
            missed.push(format!("{}: {} without the sidecar that they should have", full(campfire), count(number as usize, "pod")));
        }
    }
    findings.each(Check::MemberMissed, Outcome::Warning, missed, "no pod was missed");

    let pods: Vec<&MeshPeer> = peers.iter().filter(|peer| peer.spec.kind == PeerType::Pod).collect();
    // By what is said of them: a hundred pods with one trouble are one finding.
    let mut troubles: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut ways: BTreeMap<String, usize> = BTreeMap::new();
    for peer in &pods {
        let status = peer.status.clone().unwrap_or_default();
        let ready = condition(&status.conditions, ConditionType::Ready);
        if ready.is_none_or(|it| it.status != Truth::True.name()) {
            let words =
                ready.map_or_else(|| "its sidecar has said nothing yet".into(), |it| format!("{}: {}", it.reason, printable(&it.message)));
            troubles.entry(words).or_default().push(full(*peer));
        }
        let way = match status.path {
            Some(PathName::Direct) => "direct",
            Some(PathName::Relay) => "relayed",
            Some(PathName::Mixed) => "some direct, some relayed",
            Some(PathName::None) | None => "without a link",
        };
        let why = status.reason.map(|reason| format!(" ({})", printable(&reason))).unwrap_or_default();
        *ways.entry(format!("{way}{why}")).or_default() += 1;
    }
    let troubles = troubles.into_iter().map(|(words, names)| format!("{}: {words}", some_of(&names))).collect();
    findings.each(Check::MemberReady, Outcome::Wrong, troubles, format!("{} at the fire and ready", count(pods.len(), "pod")));
    if !ways.is_empty() {
        let ways: Vec<String> = ways.into_iter().map(|(way, number)| format!("{} {way}", count(number, "pod"))).collect();
        findings.good(Check::MemberPaths, ways.join(", "));
    }
}

/// The first few, and how many more there are.
pub(super) fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

/// Events that say why a pod got no sidecar.
async fn skipped(cluster: &Cluster, findings: &mut Findings<'_>) {
    let events = match cluster.api::<Event>().list(&ListParams::default().fields("type=Warning")).await {
        Ok(events) => events.items,
        Err(error) => return findings.unknown(Check::MemberSkipped, &cluster.explain(&error, "list events")),
    };
    let now = Timestamp::now().as_second();
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events {
        let reason = event.reason.clone().unwrap_or_default();
        let of_ours = SkipReason::named(&reason).is_some_and(|known| known != SkipReason::NotAsked);
        let last = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref())
            .or(event.event_time.as_ref())
            .map(|time| time.0.as_second());
        let last = last.or(event.last_timestamp.as_ref().map(|time| time.0.as_second()));
        let recent = last.is_none_or(|at| now - at <= RECENT);
        if of_ours && recent {
            let about = format!("{} {}", event.involved_object.kind.unwrap_or_default(), event.involved_object.name.unwrap_or_default());
            told.entry(format!("{reason}: {}", printable(&event.message.unwrap_or_default()))).or_default().push(about);
        }
    }
    let told = told.into_iter().map(|(words, about)| format!("{}: {words}", some_of(&about))).collect();
    findings.each(Check::MemberSkipped, Outcome::Warning, told, "no pod was left without a sidecar within the hour");
}

fn images(findings: &mut Findings<'_>, members: &[Member]) {
    let mut images: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        *images.entry(&member.image).or_default() += 1;
    }
    let told: Vec<String> = images.iter().map(|(image, number)| format!("{} with {image}", count(*number, "pod"))).collect();
    match told.len() {
        0 => findings.add(Check::MemberVersion, Outcome::Unknown, "no pod has a sidecar"),
        1 => findings.good(Check::MemberVersion, format!("all sidecars are of one image: {}", told.join(""))),
        _ => findings.add(Check::MemberVersion, Outcome::Warning, format!("sidecars are of several images: {}", told.join(", "))),
    }
}

/// Servers that turn members away: those say it who find no place.
async fn full_servers(cluster: &Cluster, findings: &mut Findings<'_>, peers: &[MeshPeer], members: &[Member]) {
    let without = |peer: &&MeshPeer| {
        let status = peer.status.as_ref();
        let ready = status.and_then(|status| condition(&status.conditions, ConditionType::Ready));
        ready.is_some_and(|it| [Reason::FireUnreachable, Reason::NotCamped].iter().any(|reason| reason.name() == it.reason))
    };
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut asked = 0;
    for peer in peers.iter().filter(without).take(ASKED) {
        let of = |member: &&Member| member.name == peer.name_any() && peer.namespace().as_ref() == Some(&member.namespace);
        let Some(member) = members.iter().find(of) else { continue };
        let Ok(report) = cluster.report(member).await else { continue };
        asked += 1;
        for server in report.servers.iter().filter(|server| server.limit.is_some_and(Limit::stays)) {
            let words = format!("server {}: {}", printable(&server.id), printable(server.problem.as_deref().unwrap_or("it is full")));
            told.entry(words).or_default().push(full_name(member));
        }
    }
    let told = told.into_iter().map(|(words, who)| format!("{words} (it turns {} away)", some_of(&who))).collect();
    let good = if asked > 0 { "none of those who find no server is turned away for a limit" } else { "nobody is without a server" };
    findings.each(Check::FireFull, Outcome::Wrong, told, good);
}

fn full_name(member: &Member) -> String {
    format!("{}/{}", member.namespace, member.name)
}

fn servers(findings: &mut Findings<'_>, name: &str, asked: &Member, report: &Report, tried: &Netcheck) {
    if report.servers.is_empty() {
        return findings.add(Check::FireServers, Outcome::Wrong, format!("{name}: {} knows no server", asked.name));
    }
    let anybody = report.camped();
    for server in &report.servers {
        let by = tried.servers.iter().find(|tried| tried.id == server.id).map_or(&[][..], |tried| &tried.by);
        let (outcome, words) = judge_server(server, by, anybody);
        findings.add(Check::FireServers, outcome, format!("{name}: server {}, from {}: {words}", printable(&server.id), asked.name));
    }
}

/// `tried`: what came of trying it now; empty: nothing is known.
fn judge_server(server: &Server, tried: &[Tryout], anybody: bool) -> (Outcome, String) {
    let by = server.transport.unwrap_or(Transport::Unknown);
    let rtt = server.rtt_ms.map(|rtt| format!(", {}", campfire_text::milliseconds(rtt))).unwrap_or_default();
    let seen = server.observed.map(|seen| format!(", which sees {seen}")).unwrap_or_default();
    match server.state {
        ServerState::Camped if by == Transport::Udp => (Outcome::Good, format!("camped by UDP{rtt}{seen}")),
        ServerState::Camped if answers_by(tried, Transport::Udp) => {
            (Outcome::Warning, format!("camped by {by}{rtt}, though it answers by UDP now: it was not so a while ago"))
        }
        ServerState::Camped => (Outcome::Warning, format!("camped by {by}{rtt}: no UDP gets there, so no path is direct")),
        // It camps on the best few.
        ServerState::Idle if !tried.is_empty() && !answers(tried) => {
            (Outcome::Warning, format!("not used, and would not be reached: {}", told(tried)))
        }
        ServerState::Idle => (Outcome::Good, "not used".into()),
        ServerState::PlainTurn => (Outcome::Warning, "is no campfire-turn: nobody can camp there".into()),
        other @ (ServerState::Connecting | ServerState::Lost | ServerState::Unknown) => {
            let problem = server.problem.as_deref().map_or_else(|| other.to_string(), printable);
            let tried = if tried.is_empty() { String::new() } else { format!(" (tried now: {})", told(tried)) };
            (if anybody { Outcome::Warning } else { Outcome::Wrong }, format!("not reached: {problem}{tried}"))
        }
    }
}

fn answers(tried: &[Tryout]) -> bool {
    tried.iter().any(|it| it.problem.is_none())
}

fn answers_by(tried: &[Tryout], transport: Transport) -> bool {
    tried.iter().any(|it| it.transport == Some(transport) && it.problem.is_none())
}

/// By each transport, whether it answers.
fn told(tried: &[Tryout]) -> String {
    let one = |it: &Tryout| {
        let by = it.transport.unwrap_or(Transport::Unknown);
        it.problem.as_deref().map_or_else(|| format!("by {by} it answers"), |problem| format!("by {by} {}", printable(problem)))
    };
    tried.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A packet of full size from one pod to another.
async fn full_size(cluster: &Cluster, findings: &mut Findings<'_>, from: &Member, to: &Member, peers: &[MeshPeer]) {
    let object = peers.iter().find(|peer| peer.name_any() == to.name && peer.namespace().as_ref() == Some(&to.namespace));
    let Some(address) = object.and_then(|peer| peer.status.as_ref()?.addresses.first().cloned()) else {
        return findings.add(Check::PathFull, Outcome::Unknown, format!("{} has no address yet", to.name));
    };
    let way = format!("{} to {}", from.name, to.name);
    match answered(cluster, from, &address, true).await {
        Err(error) => findings.unknown(Check::PathFull, &error),
        Ok(Some(line)) => findings.good(Check::PathFull, format!("{way}: {line}")),
        Ok(None) => {
            let small = answered(cluster, from, &address, false).await.ok().flatten();
            let words = if small.is_some() { "small packets come through, full-size ones do not" } else { "no answer" };
            findings.add(Check::PathFull, Outcome::Wrong, format!("{way}: {words}"));
        }
    }
}

/// The first answer to a ping, if one comes.
async fn answered(cluster: &Cluster, from: &Member, address: &str, full: bool) -> Result<Option<String>> {
    let mut words = vec!["ping", address, "--count", "3", "--interval", "0.2"];
    if full {
        words.push("--full");
    }
    let ran = cluster.run(from, &words, |_| ()).await?;
    if !ran.well && (ran.complained.contains("unrecognized subcommand") || ran.printed.is_empty()) {
        anyhow::bail!("{}: {}", from.name, printable(&ran.complained));
    }
    let line = ran
        .printed
        .lines()
        .find_map(|line| line.split_once(": ").filter(|(number, words)| number.parse::<u32>().is_ok() && words.contains(" ms")));
    Ok(line.map(|(_, words)| printable(words)))
}

/// What only shows in several clusters: one key, names of their own, packets between them.
pub(super) async fn together(seen: &[(&Cluster, Seen)], findings: &mut Findings<'_>) {
    // Clusters of one fire have one prefix.
    let mut fires: BTreeMap<String, Vec<(&Cluster, &Campfire, &Seen)>> = BTreeMap::new();
    for (cluster, seen) in seen {
        for campfire in &seen.campfires {
            if let Some(prefix) = campfire.status.as_ref().and_then(|status| status.prefix.clone()) {
                fires.entry(prefix).or_default().push((cluster, campfire, seen));
            }
        }
    }
    fires.retain(|_, at| at.len() > 1);
    if fires.is_empty() {
        return findings.add(Check::KeySame, Outcome::Unknown, "no two of these clusters sit at one fire");
    }
    let mut pairs = Vec::new();
    for at in fires.values() {
        let place = |cluster: &Cluster, campfire: &Campfire| format!("{} in {}", full(campfire), cluster.context);
        let of = |value: &dyn Fn(&Campfire, &Seen) -> Option<String>| -> BTreeMap<String, Vec<String>> {
            let mut by: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (cluster, campfire, seen) in at {
                if let Some(value) = value(campfire, seen) {
                    by.entry(value).or_default().push(place(cluster, campfire));
                }
            }
            by
        };
        let keys = of(&|campfire, _| campfire.status.as_ref()?.key_fingerprint.clone());
        match keys.len() {
            0 | 1 => findings.good(Check::KeySame, format!("{} use one key", keys.into_values().flatten().collect::<Vec<_>>().join(", "))),
            _ => {
                let told: Vec<String> = keys.iter().map(|(key, places)| format!("{key} by {}", places.join(" and "))).collect();
                findings.add(Check::KeySame, Outcome::Wrong, format!("different keys are used at one fire: {}", told.join(", ")));
            }
        }
        let names = of(&|campfire, seen| cluster_name(campfire, seen));
        let twice: Vec<String> = names
            .iter()
            .filter(|(_, places)| places.len() > 1)
            .map(|(name, places)| format!("{} are all called {name}", places.join(" and ")))
            .collect();
        findings.each(Check::NameUnique, Outcome::Warning, twice, "each cluster has a name of its own");
        for (one, other) in at.iter().zip(at.iter().skip(1)) {
            pairs.push((*one, *other));
        }
    }
    for ((here, campfire, from), (_, other, to)) in pairs {
        let first = |seen: &Seen, campfire: &Campfire| {
            seen.members.iter().find(|member| member.ready && member.campfire == full(campfire)).cloned()
        };
        if let (Some(from), Some(member)) = (first(from, campfire), first(to, other)) {
            full_size(here, findings, &from, &member, &to.peers).await;
        }
    }
}

/// How a cluster calls itself: its pods' objects say it, whoever told it.
fn cluster_name(campfire: &Campfire, seen: &Seen) -> Option<String> {
    let of_pods = seen.peers.iter().filter(|peer| peer.spec.kind == PeerType::Pod && peer.spec.campfire_ref.name == campfire.name_any());
    let named = of_pods.filter_map(|peer| peer.status.as_ref()?.cluster_name.clone()).find(|name| !name.is_empty());
    named.or_else(|| campfire.spec.cluster_name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_reached_by_a_detour_or_not_at_all_is_told() {
        let server = |state, transport| Server { id: "oak".into(), state, transport, ..Server::default() };
        assert_eq!(judge_server(&server(ServerState::Camped, Some(Transport::Udp)), &[], true).0, Outcome::Good);
        let (outcome, words) = judge_server(&server(ServerState::Camped, Some(Transport::Tls)), &[], true);
        assert!(outcome == Outcome::Warning && words.contains("camped by TLS: no UDP gets there"), "{words}");
        let refused = Server { problem: Some("refuses connections".into()), ..server(ServerState::Lost, None) };
        assert_eq!(judge_server(&refused, &[], true), (Outcome::Warning, "not reached: refuses connections".into()));
        assert_eq!(judge_server(&refused, &[], false).0, Outcome::Wrong, "nobody else is there");
        let tried = |transport, problem: Option<&str>| Tryout { transport: Some(transport), problem: problem.map(str::to_owned) };
        let (udp, tcp) = (tried(Transport::Udp, Some("no answer within 3 s")), tried(Transport::Tcp, None));
        let words = judge_server(&refused, &[udp.clone(), tcp.clone()], true).1;
        assert_eq!(words, "not reached: refuses connections (tried now: by UDP no answer within 3 s, by TCP it answers)");
        let idle = server(ServerState::Idle, None);
        assert_eq!(judge_server(&idle, &[udp.clone(), tcp], true).0, Outcome::Good);
        let dead = judge_server(&idle, &[udp], true);
        assert_eq!(dead, (Outcome::Warning, "not used, and would not be reached: by UDP no answer within 3 s".into()));
        let back = judge_server(&server(ServerState::Camped, Some(Transport::Tcp)), &[tried(Transport::Udp, None)], true);
        assert!(back.1.contains("though it answers by UDP now"), "{}", back.1);
    }

    #[test]
    fn of_many_some_are_named() {
        let names: Vec<String> = (0..7).map(|number| format!("p{number}")).collect();
        assert_eq!(some_of(&names), "p0, p1, p2, p3, p4 and 2 more");
    }
}
