//! Requests under way: what was asked, retransmission (RFC 8489 §6.2.1, quicker at first).

use std::time::Duration;

use campfire_protocol::carrier::{SocketId, Via};
use campfire_protocol::key::Tag;
use campfire_protocol::time::Time;
use campfire_protocol::wire::{Failure, MemberId};
use zeroize::Zeroizing;

use crate::roster::Version;

/// First wait for an answer on UDP; doubles up to [`RTO_MAX`].
const RTO: Duration = Duration::from_millis(250);
const RTO_MAX: Duration = Duration::from_secs(1);
/// A request goes out at 0, 0.25, 0.75, 1.75, 2.75 s and is given up at 3.75 s.
const SENDS: u8 = 5;
/// How long an answer is waited for on a stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
/// How long the answer to a request that is not retransmitted is of interest.
const ONCE_PATIENCE: Duration = Duration::from_secs(3);

/// Why a Binding is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Whether the server still answers.
    Watch,
    /// Whether UDP works again.
    Upgrade,
    /// Whether it answers at all where Camp is not answered; and how it sees us.
    Look,
    /// How it sees another socket.
    Observe(SocketId),
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Take or refresh a seat, or leave it.
    Camp {
        room: u8,
        version: Option<Version>,
        leave: bool,
    },
    /// See [`Purpose`].
    Binding(Purpose),
    Find {
        room: u8,
        tags: Vec<Tag>,
    },
    Signal {
        room: u8,
        to: MemberId,
        data: Vec<u8>,
    },
    Bind {
        room: u8,
        to: MemberId,
        channel: u16,
        release: bool,
    },
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) ask: Ask,
    pub(crate) via: Via,
    pub(crate) bytes: Vec<u8>,
    /// Integrity key of request and answer; `None`: Binding has none.
    pub(crate) key: Option<Zeroizing<[u8; 32]>>,
    /// A nonce was sent along: the source is proven.
    pub(crate) proven: bool,
    /// Challenges answered so far.
    pub(crate) challenges: u8,
    /// A refusal without integrity: anybody on the path could have sent it.
    pub(crate) refused: Option<Failure>,
    pub(crate) sent: Time,
    pub(crate) due: Time,
    sends: u8,
    rto: Duration,
}

/// What to do about a request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send it again; this was the n-th time.
    Resend(u8),
    /// Give up.
    Failed,
}

impl Exchange {
    pub(crate) fn new(now: Time, ask: Ask, via: Via, bytes: Vec<u8>, rtt: Option<Duration>) -> Self {
        let (sends, rto) = match (&ask, via) {
            (Ask::Binding(Purpose::Watch), _) => (SENDS, ONCE_PATIENCE),
            (_, Via::Stream(_)) => (SENDS, STREAM_PATIENCE),
            (_, Via::Udp { .. }) => (1, RTO.max(rtt.unwrap_or_default() * 3 / 2).min(RTO_MAX)),
        };
        Self { ask, via, bytes, key: None, proven: false, challenges: 0, refused: None, sent: now, due: now + rto, sends, rto }
    }

    /// Its time has come.
    pub(crate) fn on_due(&mut self, now: Time) -> Due {
        if self.sends >= SENDS {
            return Due::Failed;
        }
        self.sends += 1;
        self.rto = (self.rto * 2).min(RTO_MAX);
        self.due = now + self.rto;
        Due::Resend(self.sends)
    }

    /// A refusal without integrity is all that came, though the question was sent twice: it is believed. On a stream at once.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some() && (self.sends >= 2 || matches!(self.via, Via::Stream(_)))
    }

    /// Whether the answer's round trip is that of one packet (not retransmitted).
    pub(crate) fn clean(&self) -> bool {
        self.sends == 1 || matches!(self.via, Via::Stream(_)) || matches!(self.ask, Ask::Binding(Purpose::Watch))
    }

    /// The room it is about.
    pub(crate) fn room(&self) -> Option<u8> {
        match self.ask {
            Ask::Camp { room, .. } | Ask::Find { room, .. } | Ask::Signal { room, .. } | Ask::Bind { room, .. } => Some(room),
            Ask::Binding(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use campfire_protocol::carrier::StreamId;

    #[test]
    fn a_request_on_udp_goes_out_five_times_in_three_seconds() {
        let udp = Via::Udp { socket: SocketId(0), remote: "192.0.2.1:3478".parse().unwrap() };
        let mut exchange = Exchange::new(Time::default(), Ask::Binding(Purpose::Look), udp, Vec::new(), None);
        let mut times = Vec::new();
        while let Due::Resend(_) = exchange.on_due(exchange.due) {
            times.push(exchange.due.as_micros() / 1_000);
        }
        assert_eq!(times, [750, 1_750, 2_750, 3_750]);
    }

    #[test]
    fn nothing_is_sent_twice_on_a_stream() {
        let mut exchange = Exchange::new(Time::default(), Ask::Binding(Purpose::Look), Via::Stream(StreamId(1)), Vec::new(), None);
        assert_eq!(exchange.on_due(exchange.due), Due::Failed);
    }
}
