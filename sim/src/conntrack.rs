//! Linux masquerade: what nf_conntrack and nf_nat do to UDP, as far as hole punching can see it.
//!
//! Measured against nftables in network namespaces: the source port is kept where the reply tuple is free, else a random one is taken;
//! an unsolicited packet that INPUT accepts makes an entry of its own, whose tuple a later outbound flow then finds
//! taken; entries live 30 s, or 120 s once they are streams (answered, and two seconds old).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use campfire_protocol::time::Time;

use crate::nat::Unsolicited;
use crate::random::Random;

/// Age from which an answered flow counts as a stream (net/netfilter/nf_conntrack_proto_udp.c).
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// The flows that a masquerading gateway tracks.
#[derive(Debug)]
pub struct Conntrack {
    fully_random: bool,
    unsolicited: Unsolicited,
    timeout_unreplied: Duration,
    timeout_stream: Duration,
    /// By original direction: inside address and remote.
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    /// By reply direction: remote and outside port. Local entries (accepted by INPUT) take their place here too.
    replies: HashMap<(SocketAddr, u16), Reply>,
    purge_at: usize,
}

#[derive(Debug)]
struct Flow {
    port: u16,
    created: Time,
    replied: bool,
    expires: Time,
}

#[derive(Debug)]
enum Reply {
    /// To this inside address.
    Inside(SocketAddr),
    /// To the gateway itself, until then.
    Local(Time),
}

impl Conntrack {
    /// An empty table.
    pub fn new(fully_random: bool, unsolicited: Unsolicited, timeout_unreplied: Duration, timeout_stream: Duration) -> Self {
        let (flows, replies) = (HashMap::new(), HashMap::new());
        Self { fully_random, unsolicited, timeout_unreplied, timeout_stream, flows, replies, purge_at: 64 }
    }

    /// The outside port of a packet that leaves.
    pub fn outbound(&mut self, now: Time, inside: SocketAddr, remote: SocketAddr, random: &mut Random) -> Option<u16> {
        self.purge(now);
        let key = (inside, remote);
        if self.flows.get(&key).is_some_and(|flow| flow.expires <= now) {
            self.forget(&key);
        }
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.refresh(now, self.timeout_unreplied, self.timeout_stream);
            return Some(flow.port);
        }
        let port = self.choose_port(now, inside.port(), remote, random)?;
        self.replies.insert((remote, port), Reply::Inside(inside));
        self.flows.insert(key, Flow { port, created: now, replied: false, expires: now + self.timeout_unreplied });
        Some(port)
    }

    /// Where a packet that arrives goes.
    pub fn inbound(&mut self, now: Time, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
        if self.is_free(now, remote, port) {
            if self.unsolicited == Unsolicited::Accept {
                self.replies.insert((remote, port), Reply::Local(now + self.timeout_unreplied));
            }
            return None;
        }
        match self.replies.get_mut(&(remote, port))? {
            Reply::Local(expires) => {
                *expires = now + self.timeout_unreplied;
                None
            }
            Reply::Inside(inside) => {
                let inside = *inside;
                let flow = self.flows.get_mut(&(inside, remote))?;
                flow.replied = true;
                flow.refresh(now, self.timeout_unreplied, self.timeout_stream);
                Some(inside)
            }
        }
    }

    fn choose_port(&mut self, now: Time, wanted: u16, remote: SocketAddr, random: &mut Random) -> Option<u16> {
        if !self.fully_random && self.is_free(now, remote, wanted) {
            return Some(wanted);
        }
        (0..128).map(|_| 1_024 + random.below(64_512) as u16).find(|&port| self.is_free(now, remote, port))
    }

    fn is_free(&mut self, now: Time, remote: SocketAddr, port: u16) -> bool {
        let key = match self.replies.get(&(remote, port)) {
            None => return true,
            Some(Reply::Local(expires)) => {
                let lapsed = *expires <= now;
                if lapsed {
                    self.replies.remove(&(remote, port));
                }
                return lapsed;
            }
            Some(Reply::Inside(inside)) => (*inside, remote),
        };
        let lapsed = self.flows.get(&key).is_none_or(|flow| flow.expires <= now);
        if lapsed {
            self.forget(&key);
        }
        lapsed
    }

    fn forget(&mut self, key: &(SocketAddr, SocketAddr)) {
        if let Some(flow) = self.flows.remove(key) {
            self.replies.remove(&(key.1, flow.port));
        }
    }

    fn purge(&mut self, now: Time) {
        if self.replies.len() < self.purge_at {
            return;
        }
        self.flows.retain(|_, flow| flow.expires > now);
        let flows = &self.flows;
        self.replies.retain(|&(remote, _), reply| match reply {
            Reply::Inside(inside) => flows.contains_key(&(*inside, remote)),
            Reply::Local(expires) => *expires > now,
        });
        self.purge_at = 64.max(self.replies.len() * 2);
    }
}

impl Flow {
    fn refresh(&mut self, now: Time, unreplied: Duration, stream: Duration) {
        let is_stream = self.replied && now.since(self.created) >= STREAM_AFTER;
        self.expires = now + if is_stream { stream } else { unreplied };
    }
}
