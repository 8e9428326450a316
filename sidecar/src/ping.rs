//! `campfire ping PEER`: does a peer answer, how fast, on which path? Asked by Probes inside the session, so it needs no right to send ICMP,
//! and finds what it finds where the app's own firewall refuses pings.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use campfire_mesh::ping::{NotAsked, Pong};
use campfire_mesh::status::{PathKind, Peer};
use campfire_text::printable;
use serde::{Deserialize, Serialize};

use crate::http;
use crate::report::label;
use crate::show::{full_name, milliseconds};

/// What the control socket says of one ping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// There and back, milliseconds; `None`: no answer came.
    pub rtt_ms: Option<f64>,
    /// How the question went.
    pub path: PathKind,
    /// The other end: the peer's address when direct, the server's when relayed.
    pub endpoint: Option<SocketAddr>,
    /// The server, when relayed.
    pub server: Option<String>,
    /// Why nothing was asked.
    pub problem: Option<String>,
}

impl From<Option<Pong>> for Answer {
    fn from(pong: Option<Pong>) -> Self {
        match pong.map(|pong| pong.result) {
            None => Self::default(),
            Some(Ok(answer)) => Self {
                rtt_ms: Some(answer.rtt.as_secs_f64() * 1_000.0),
                path: answer.path,
                endpoint: answer.endpoint,
                server: answer.server,
                problem: None,
            },
            Some(Err(why)) => {
                let problem = match why {
                    NotAsked::Unknown => "nobody is known to have this address",
                    NotAsked::NotConnected => "not connected",
                    NotAsked::Busy => "too many pings are out",
                };
                Self { problem: Some(problem.into()), ..Self::default() }
            }
        }
    }
}

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many times.
    pub count: u32,
    /// The time between two.
    pub interval: Duration,
    /// With packets as large as the overlay takes.
    pub full: bool,
}

/// What came of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Asked.
    pub sent: u32,
    /// Round trips of those that were answered, milliseconds.
    pub rtts: Vec<f64>,
}

impl Tally {
    /// The last line.
    pub fn summary(&self) -> String {
        let answered = u32::try_from(self.rtts.len()).unwrap_or(u32::MAX);
        let lost = self.sent.saturating_sub(answered);
        let share = if self.sent == 0 { 0.0 } else { f64::from(lost) * 100.0 / f64::from(self.sent) };
        let mut line = format!("{} sent, {answered} answered, {share:.0}% lost", self.sent);
        if !self.rtts.is_empty() {
            let least = self.rtts.iter().copied().fold(f64::INFINITY, f64::min);
            let most = self.rtts.iter().copied().fold(0.0, f64::max);
            let mean = self.rtts.iter().sum::<f64>() / self.rtts.len() as f64;
            let shown = [least, mean, most].map(|rtt| milliseconds(Some(rtt)));
            let _ = write!(line, "; round trip least {}, mean {}, most {}", shown[0], shown[1], shown[2]);
        }
        line
    }
}

/// Asks `peer` as often as planned; `say` gets each line as it comes. Fails if nothing was answered.
pub async fn run(socket: &Path, peer: &Peer, plan: Plan, say: impl Fn(&str) -> Result<()>) -> Result<()> {
    let name = printable(&full_name(&label(&peer.name, &peer.public_key), &peer.namespace, &peer.cluster));
    let Some(address) = peer.addresses.first() else { bail!("{name} has no address") };
    let question = format!("/v1/ping?address={address}&full={}", u8::from(plan.full));
    say(&format!("PING {name} ({address}) inside the session{}", if plan.full { ", full size" } else { "" }))?;
    let mut tally = Tally::default();
    for number in 1..=plan.count {
        let begun = Instant::now();
        let answer: Answer =
            serde_json::from_slice(&http::get(socket, &question).await?).context("an answer of another version of campfire?")?;
        tally.sent += 1;
        tally.rtts.extend(answer.rtt_ms);
        say(&line(number, &answer))?;
        if number < plan.count {
            tokio::time::sleep(plan.interval.saturating_sub(begun.elapsed())).await;
        }
    }
    say(&tally.summary())?;
    if tally.rtts.is_empty() {
        bail!("{name} does not answer: `campfire why {}` says what is known", printable(&label(&peer.name, &peer.public_key)));
    }
    Ok(())
}

/// What is said of one.
pub fn line(number: u32, answer: &Answer) -> String {
    if let Some(problem) = &answer.problem {
        return format!("{number}: {}", printable(problem));
    }
    let endpoint = answer.endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    let way = match (answer.path, &answer.server) {
        (PathKind::Direct, _) => format!("direct{endpoint}"),
        (PathKind::Relay, Some(server)) => format!("via {}{endpoint}", printable(server)),
        (PathKind::Relay, None) => format!("relayed{endpoint}"),
        (PathKind::None, _) => String::new(),
    };
    match answer.rtt_ms {
        Some(rtt) => format!("{number}: {}, {way}", milliseconds(Some(rtt))),
        None => format!("{number}: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_it_went_and_the_last_one_counts() {
        let direct =
            Answer { rtt_ms: Some(0.82), path: PathKind::Direct, endpoint: Some("192.0.2.2:4000".parse().unwrap()), ..Answer::default() };
        assert_eq!(line(1, &direct), "1: 0.8 ms, direct at 192.0.2.2:4000");
        let relayed = Answer { rtt_ms: Some(23.4), path: PathKind::Relay, server: Some("oak".into()), ..Answer::default() };
        assert_eq!(line(2, &relayed), "2: 23 ms, via oak");
        assert_eq!(line(3, &Answer::default()), "3: no answer");
        let tally = Tally { sent: 4, rtts: vec![1.0, 2.0, 6.0] };
        assert_eq!(tally.summary(), "4 sent, 3 answered, 25% lost; round trip least 1.0 ms, mean 3.0 ms, most 6.0 ms");
        assert_eq!(Tally { sent: 2, rtts: Vec::new() }.summary(), "2 sent, 0 answered, 100% lost");
    }
}
