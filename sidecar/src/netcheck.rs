//! `campfire netcheck`: what this host's network lets through, tried now. What is asked, and what follows from the answers, is
//! [`campfire_fire::netcheck`]'s; here it is carried out and told.

use std::fmt::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use campfire_camp::{Camp, Epoch, Tls, UdpSockets, sleep_until};
use campfire_fire::io::Input;
use campfire_fire::netcheck::{Nat, Netcheck, Outcome, Outside, Targets, Trial};
use campfire_protocol::carrier::Via;
use campfire_protocol::server::Transport;
use campfire_text::{printable, table};

use crate::show::milliseconds;
use crate::{secrets, underlay};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 2_048;

/// Tries all, for at most 5 s, from sockets of its own.
pub async fn run(targets: Targets, tls: Arc<Tls>) -> Result<Netcheck> {
    let sockets = UdpSockets::open(underlay::keep_out).context("no UDP socket")?;
    let mut camp = Camp::new(tls, None).preparing(underlay::keep_out);
    let mut seed = [0; 32];
    secrets::random(&mut seed)?;
    let clock = Epoch::begin();
    let mut trial = Trial::new(targets, sockets.ids(), seed, clock.now());
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        while let Some(output) = trial.poll_output() {
            if let Some(datagram) = camp.carry_out(output) {
                sockets.send(&datagram);
            }
        }
        let Some(wake) = trial.next_wake() else { return Ok(trial.finish(is_own)) };
        tokio::select! {
            event = camp.next() => trial.handle(clock.now(), event.input()),
            (socket, remote, size) = sockets.receive(&mut buffer) => {
                let message = buffer.get(..size).unwrap_or_default();
                trial.handle(clock.now(), Input::Stun { via: Via::Udp { socket, remote }, message });
            }
            () = sleep_until(Some(clock.at(wake))) => trial.on_wake(clock.now()),
        }
    }
}

/// Whether this host has an address: others cannot be bound to.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// One server at least answers, by whatever.
pub fn answered(found: &Netcheck) -> bool {
    found.servers.iter().flat_map(|server| &server.by).any(|outcome| outcome.problem.is_none())
}

/// For people.
pub fn text(found: &Netcheck) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "  UDP gets out:    {}", udp(found));
    for (family, outside) in [("IPv4", &found.ipv4), ("IPv6", &found.ipv6)] {
        if let Some(outside) = outside {
            let _ = writeln!(out, "  {family} seen as:    {}", seen(outside));
            let _ = writeln!(out, "  {family} NAT:        {}", nat(outside.nat));
        }
    }
    let mut rows = vec![["  SERVER", "BY", "ANSWERS", "AT", "RTT", "SEES", ""].map(String::from).to_vec()];
    for server in &found.servers {
        rows.extend(server.by.iter().map(|outcome| row(&server.id, outcome)));
    }
    out.push_str(&table(&rows, 2));
    if found.left_out > 0 {
        let _ = writeln!(out, "  {} servers more are known, and were not tried", found.left_out);
    }
    out
}

fn udp(found: &Netcheck) -> &'static str {
    let by =
        |udp: bool| found.servers.iter().flat_map(|server| &server.by).filter(move |outcome| (outcome.transport == Transport::Udp) == udp);
    let answers = |outcome: &Outcome| outcome.problem.is_none();
    if by(true).any(answers) {
        "yes"
    } else if by(true).next().is_none() {
        "not known: no server has an address for it"
    } else if by(false).any(answers) {
        "no: servers answer by TCP or TLS alone, so no path can be direct; let UDP out to the servers' port"
    } else {
        "not known: no server answers by anything"
    }
}

fn seen(outside: &Outside) -> String {
    outside.mapped.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn nat(nat: Nat) -> &'static str {
    match nat {
        Nat::None => "none: servers see this host's own address",
        Nat::EndpointIndependent => "the same port for each destination: others can aim at this host",
        Nat::EndpointDependent => "another port for each destination (symmetric): others cannot aim at this host",
        Nat::Unknown => "there is one; it takes the answers of two servers to see whether the port changes",
    }
}

fn row(id: &str, outcome: &Outcome) -> Vec<String> {
    let dash = || "-".to_owned();
    let by = match outcome.transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    };
    vec![
        format!("  {}", printable(id)),
        by.into(),
        if outcome.problem.is_none() { "yes" } else { "no" }.into(),
        outcome.address.map_or_else(dash, |address| address.to_string()),
        milliseconds(outcome.rtt_ms),
        outcome.mapped.map_or_else(dash, |seen| seen.to_string()),
        outcome.problem.as_deref().map(printable).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use campfire_fire::netcheck::Tried;

    use super::*;

    #[test]
    fn what_a_network_lets_through_is_told() {
        let good = |transport, seen: &str| Outcome {
            transport,
            address: Some("192.0.2.1:3478".parse().unwrap()),
            rtt_ms: Some(4.2),
            mapped: Some(seen.parse().unwrap()),
            problem: None,
        };
        let bad = |transport, why: &str| Outcome { transport, address: None, rtt_ms: None, mapped: None, problem: Some(why.into()) };
        let mut found = Netcheck {
            servers: vec![
                Tried { id: "oak".into(), by: vec![good(Transport::Udp, "198.51.100.1:4000"), good(Transport::Tcp, "198.51.100.1:5000")] },
                Tried { id: "elm".into(), by: vec![bad(Transport::Tls, "no \u{1b} connection within 3 s")] },
            ],
            ipv4: Some(Outside { mapped: vec!["198.51.100.1:4000".parse().unwrap()], nat: Nat::Unknown }),
            ipv6: None,
            left_out: 2,
        };
        assert!(answered(&found));
        assert_eq!(
            text(&found),
            "\x20 UDP gets out:    yes
  IPv4 seen as:    198.51.100.1:4000
  IPv4 NAT:        there is one; it takes the answers of two servers to see whether the port changes
  SERVER  BY   ANSWERS  AT              RTT     SEES
  oak     UDP  yes      192.0.2.1:3478  4.2 ms  198.51.100.1:4000
  oak     TCP  yes      192.0.2.1:3478  4.2 ms  198.51.100.1:5000
  elm     TLS  no       -               -       -                  no ? connection within 3 s
  2 servers more are known, and were not tried
"
        );
        found.servers[0].by[0] = bad(Transport::Udp, "no answer within 3 s");
        assert!(udp(&found).starts_with("no: servers answer by TCP or TLS alone"));
        found.servers[0].by.truncate(1);
        assert!(udp(&found).starts_with("not known: no server answers") && !answered(&found));
        found.servers.remove(0);
        assert!(udp(&found).contains("no server has an address"));
    }

    #[test]
    fn only_addresses_of_this_host_are_its_own() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.77".parse().unwrap()));
    }
}
