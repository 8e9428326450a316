//! The shell around a fire, for whoever camps: the sidecar's control loop, and an operator's seat at each of its Campfires. What
//! [`campfire_fire`] asks for in values is done here, once: streams to servers with their framing and TLS ([`Tls`]), names looked up, UDP
//! sockets bound ([`bind`], [`UdpSockets`]), clocks read ([`Epoch`]), notices written to the log. Knows `fire`, `protocol` and tokio; knows
//! nothing of links, tunnels or clusters.

#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]
#![forbid(unsafe_code)]

mod epoch;
pub mod frames;
mod names;
mod notices;
mod streams;
mod tls;
mod udp;

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use campfire_fire::io::{Input, Output};
use campfire_protocol::carrier::{ServerSlot, SocketId, StreamId, Via};
use tokio::sync::mpsc;
use tracing::debug;

pub use self::epoch::{Epoch, sleep_until, unix_millis};
pub use self::streams::{ChannelSink, StreamCounters};
pub use self::tls::{BadTrust, Tls, Trust, explain};
pub use self::udp::{BindError, UdpSockets, bind};

use self::streams::{Opener, Stream, Target};

/// What streams and look-ups have said and nobody has heard yet, at most.
const EVENTS: usize = 1_024;

/// Carries out what one fire asks for.
///
/// After each call of the fire that takes `now`, drain its outputs and give each to [`carry_out`](Self::carry_out). What comes back is a
/// [`Datagram`] for whoever has the UDP sockets, a data plane or [`UdpSockets`]: the camp has none. Wait for [`next`](Self::next) beside
/// whatever else the loop waits for, and hand what it gives to the fire as [`CampEvent::input`]. At the end, when the fire was shut down and
/// its outputs are carried out, [`close`](Self::close) lets them go out; a camp that is dropped instead breaks its streams off.
pub struct Camp {
    opener: Opener,
    streams: HashMap<StreamId, Stream>,
    events: mpsc::Sender<CampEvent>,
    inbox: mpsc::Receiver<CampEvent>,
}

/// A datagram for a UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// From which of ours.
    pub socket: SocketId,
    /// To where.
    pub remote: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// What streams and look-ups say.
#[allow(missing_docs)] // of fields: the variant says it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CampEvent {
    /// A name was looked up; without addresses where it was not found, or not in time.
    Resolved { server: ServerSlot, addresses: Vec<SocketAddr> },
    /// A stream is up.
    StreamOpened { stream: StreamId },
    /// A stream did not come up, or ended.
    StreamClosed { stream: StreamId, reason: String },
    /// A STUN message came on a stream.
    Stun { stream: StreamId, message: Vec<u8> },
}

impl CampEvent {
    /// The same for the fire.
    pub fn input(&self) -> Input<'_> {
        match self {
            Self::Resolved { server, addresses } => Input::Resolved { server: *server, addresses },
            Self::StreamOpened { stream } => Input::StreamOpened { stream: *stream },
            Self::StreamClosed { stream, reason } => Input::StreamClosed { stream: *stream, reason },
            Self::Stun { stream, message } => Input::Stun { via: Via::Stream(*stream), message },
        }
    }
}

/// What is done with a socket before anything is sent: a stream's, or one of UDP.
pub type Prepare = fn(&socket2::SockRef<'_>);

impl Camp {
    /// A camp that has done nothing yet. `channels` takes the ChannelData of streams; `None` where there is no tunnel.
    pub fn new(tls: Arc<Tls>, channels: Option<Arc<dyn ChannelSink>>) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        let opener = Opener { tls, channels, events: events.clone(), counters: Arc::default(), prepare: |_| {} };
        Self { opener, streams: HashMap::new(), events, inbox }
    }

    /// Each stream's socket is prepared by this before it connects.
    #[must_use]
    pub fn preparing(mut self, prepare: Prepare) -> Self {
        self.opener.prepare = prepare;
        self
    }

    /// Does what the fire asks for, without waiting; gives back what is for a UDP socket.
    #[must_use = "datagrams are for whoever has the UDP sockets"]
    pub fn carry_out(&mut self, output: Output) -> Option<Datagram> {
        match output {
            Output::Send { via: Via::Udp { socket, remote }, datagram } => return Some(Datagram { socket, remote, bytes: datagram }),
            Output::Send { via: Via::Stream(stream), datagram } => {
                // What is lost here is asked again.
                if self.streams.get(&stream).is_some_and(|stream| !stream.send(datagram)) {
                    debug!(stream = stream.0, "a stream takes no more messages");
                }
            }
            Output::Resolve { server, host, port } => names::resolve(self.events.clone(), server, host, port),
            Output::OpenStream { stream, server: _, remote, transport, host, pin } => {
                self.streams.insert(stream, self.opener.open(Target { stream, remote, transport, host, pin }));
            }
            Output::CloseStream { stream } => {
                if let Some(stream) = self.streams.remove(&stream) {
                    stream.close();
                }
            }
            Output::Notice(notice) => notices::log(&notice),
        }
        None
    }

    /// What a stream or a look-up says next. Safe to be cancelled.
    pub async fn next(&mut self) -> CampEvent {
        loop {
            match self.inbox.recv().await {
                Some(event) if self.concerns(&event) => return event,
                Some(_) => {}
                // Does not happen: the camp holds a sender itself.
                None => pending().await,
            }
        }
    }

    /// The same, if it has been said already.
    pub fn try_next(&mut self) -> Option<CampEvent> {
        loop {
            let event = self.inbox.try_recv().ok()?;
            if self.concerns(&event) {
                return Some(event);
            }
        }
    }

    /// Whether the fire has any interest left in it: not in a stream that it closed meanwhile.
    fn concerns(&mut self, event: &CampEvent) -> bool {
        match event {
            CampEvent::Resolved { .. } => true,
            CampEvent::StreamOpened { stream } | CampEvent::Stun { stream, .. } => self.streams.contains_key(stream),
            CampEvent::StreamClosed { stream, reason } => {
                debug!(stream = stream.0, reason, "stream closed");
                self.streams.remove(stream).is_some()
            }
        }
    }

    /// What streams have counted.
    pub fn counters(&self) -> &StreamCounters {
        &self.opener.counters
    }

    /// Lets what streams were given go out, for so long at most, and closes them.
    pub async fn close(mut self, patience: Duration) {
        let ending: Vec<_> = self.streams.drain().map(|(_, stream)| stream.end()).collect();
        // Their last words must not wait for somebody to hear them.
        self.inbox.close();
        let all = async {
            for stream in ending {
                stream.await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }
}
