//! TCP and TLS connections between peers and servers: frames that arrive whole, in order, late when something was lost, or
//! not at all when the way is broken.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use campfire_fire::io as fire;
use campfire_mesh::io::Input;
use campfire_protocol::carrier;
use campfire_protocol::server::Transport;
use campfire_protocol::time::Time;
use campfire_turn::io as turn;

use crate::net::TcpWay;
use crate::server::{PORT, TLS_PORT};
use crate::trace::Line;
use crate::world::{Event, PeerRef, ServerRef, World};

/// A SYN that is never answered is given up after this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unsent data is tried again this often …
const RETRY: Duration = Duration::from_millis(300);
/// … for this long.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Bytes queued while the way is broken.
const QUEUE: usize = 256 << 10;

/// A connection.
pub(crate) struct Connection {
    way: TcpWay,
    peer: PeerRef,
    peer_run: u32,
    stream: carrier::StreamId,
    server: ServerRef,
    server_run: u32,
    server_stream: turn::StreamId,
    client_open: bool,
    server_open: bool,
    /// To the client, to the server.
    directions: [Direction; 2],
}

#[derive(Default)]
struct Direction {
    last_arrival: Time,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    waiting_since: Option<Time>,
}

/// What happens to a connection.
#[derive(Debug)]
pub(crate) enum Happening {
    ServerOpen(usize),
    ClientOpen(usize),
    Frame { connection: usize, to_server: bool, frame: Vec<u8> },
    Retry { connection: usize, to_server: bool },
    ClientClosed { connection: usize, reason: &'static str },
    ServerClosed(usize),
    Refused { peer: PeerRef, run: u32, stream: carrier::StreamId, reason: &'static str },
}

impl World {
    pub(crate) fn connect(&mut self, peer: PeerRef, stream: carrier::StreamId, remote: SocketAddr, transport: Transport) {
        let now = self.now;
        let host = &self.peers[peer.0];
        let run = host.run;
        let refuse = |reason| Event::Stream(Happening::Refused { peer, run, stream, reason });
        let way = self.net.tcp_way(host.node, remote, &mut self.random);
        let Some(way) = way.filter(|way| self.net.tcp_whole(way)) else {
            self.queue.push(now + CONNECT_TIMEOUT, refuse("connect timed out"));
            return;
        };
        let delay = self.net.tcp_delay(&way, &mut self.random);
        let wanted = if transport == Transport::Tls { TLS_PORT } else { PORT };
        let server = self.servers.iter().position(|server| server.node == way.server && server.core.is_some());
        let Some(server) = server.filter(|_| remote.port() == wanted) else {
            self.queue.push(now + 2 * delay, refuse("connection refused"));
            return;
        };
        let connection = self.connections.len();
        self.connections.push(Connection {
            way,
            peer,
            peer_run: run,
            stream,
            server: ServerRef(server),
            server_run: self.servers[server].run,
            server_stream: turn::StreamId(connection as u64),
            client_open: true,
            server_open: true,
            directions: Default::default(),
        });
        self.peers[peer.0].streams.insert(stream, connection);
        let round_trips = if transport == Transport::Tls { 2 } else { 1 };
        self.queue.push(now + (2 * round_trips - 1) * delay, Event::Stream(Happening::ServerOpen(connection)));
        self.queue.push(now + 2 * round_trips * delay, Event::Stream(Happening::ClientOpen(connection)));
    }

    /// Sends a frame; frames of one direction arrive in order.
    pub(crate) fn stream_send(&mut self, connection: usize, to_server: bool, frame: Vec<u8>) {
        let now = self.now;
        let Some(open) = self.connections.get_mut(connection) else { return };
        let direction = &mut open.directions[usize::from(to_server)];
        let whole = direction.waiting.is_empty() && self.net.tcp_whole(&open.way) && self.net.tcp_known(&open.way);
        if whole {
            let arrival = (now + self.net.tcp_delay(&open.way, &mut self.random)).max(direction.last_arrival);
            direction.last_arrival = arrival;
            self.queue.push(arrival, Event::Stream(Happening::Frame { connection, to_server, frame }));
        } else if direction.waiting_bytes + frame.len() <= QUEUE {
            direction.waiting_bytes += frame.len();
            direction.waiting.push_back(frame);
            if direction.waiting_since.is_none() {
                direction.waiting_since = Some(now);
                self.queue.push(now + RETRY, Event::Stream(Happening::Retry { connection, to_server }));
            }
        }
    }

    pub(crate) fn stream_happening(&mut self, happening: Happening) {
        match happening {
            Happening::ServerOpen(connection) => {
                let Some(via) = self.server_via(connection) else { return };
                let open = &self.connections[connection];
                let (server, stream) = (open.server, open.server_stream);
                self.servers[server.0].streams.insert(stream, connection);
                self.server_input(server, turn::Input::StreamOpened { via });
            }
            Happening::ClientOpen(connection) => {
                if let Some((peer, stream)) = self.client_end(connection) {
                    self.tell(peer, Input::Fire(fire::Input::StreamOpened { stream }));
                }
            }
            Happening::Frame { connection, to_server, frame } => self.stream_frame(connection, to_server, frame),
            Happening::Retry { connection, to_server } => self.stream_retry(connection, to_server),
            Happening::ClientClosed { connection, reason } => {
                let Some((peer, stream)) = self.client_end(connection) else { return };
                self.connections[connection].client_open = false;
                self.peers[peer.0].streams.remove(&stream);
                self.tell(peer, Input::Fire(fire::Input::StreamClosed { stream, reason }));
            }
            Happening::ServerClosed(connection) => {
                let Some(via) = self.server_via(connection) else { return };
                let open = &mut self.connections[connection];
                open.server_open = false;
                let (server, stream) = (open.server, open.server_stream);
                self.servers[server.0].streams.remove(&stream);
                self.server_input(server, turn::Input::StreamClosed { via });
            }
            Happening::Refused { peer, run, stream, reason } => {
                if self.peers[peer.0].run == run {
                    self.tell(peer, Input::Fire(fire::Input::StreamClosed { stream, reason }));
                }
            }
        }
    }

    fn stream_frame(&mut self, connection: usize, to_server: bool, frame: Vec<u8>) {
        let head = [frame.first().copied().unwrap_or(0), frame.get(1).copied().unwrap_or(0)];
        self.trace.add(self.now, Line::Frame { connection, to_server, size: frame.len(), head });
        if to_server {
            let Some(via) = self.server_via(connection) else {
                self.plan_client_close(connection, "connection reset by peer");
                return;
            };
            let server = self.connections[connection].server;
            let counters = &mut self.servers[server.0].counters;
            counters.received += 1;
            counters.received_bytes += frame.len() as u64;
            self.server_message(server, via, frame);
        } else if let Some((peer, stream)) = self.client_end(connection) {
            let now = self.now;
            if let Some(living) = &mut self.peers[peer.0].peer {
                living.frame(now, stream, &frame);
                self.settle(peer);
            }
        }
    }

    fn stream_retry(&mut self, connection: usize, to_server: bool) {
        let now = self.now;
        let open = &mut self.connections[connection];
        let direction = &mut open.directions[usize::from(to_server)];
        let Some(since) = direction.waiting_since else { return };
        let (whole, known) = (self.net.tcp_whole(&open.way), self.net.tcp_known(&open.way));
        if whole && known {
            direction.waiting_since = None;
            direction.waiting_bytes = 0;
            for frame in std::mem::take(&mut direction.waiting) {
                self.stream_send(connection, to_server, frame);
            }
        } else if whole && to_server {
            // The gateway, or the server behind it, knows nothing of this connection.
            self.plan_client_close(connection, "connection reset by peer");
        } else if now.since(since) >= GIVE_UP {
            let happening =
                if to_server { Happening::ClientClosed { connection, reason: "timed out" } } else { Happening::ServerClosed(connection) };
            self.stream_happening(happening);
        } else {
            self.queue.push(now + RETRY, Event::Stream(Happening::Retry { connection, to_server }));
        }
    }

    /// The client closed its end, or its process is gone.
    pub(crate) fn client_ended(&mut self, connection: usize) {
        let open = &mut self.connections[connection];
        open.client_open = false;
        if self.net.tcp_whole(&open.way) && self.net.tcp_known(&open.way) {
            let arrival = (self.now + self.net.tcp_delay(&open.way, &mut self.random)).max(open.directions[1].last_arrival);
            self.queue.push(arrival, Event::Stream(Happening::ServerClosed(connection)));
        }
    }

    /// The server closed its end, or its process is gone.
    pub(crate) fn server_ended(&mut self, connection: usize, tell_client: bool) {
        self.connections[connection].server_open = false;
        if tell_client {
            self.plan_client_close(connection, "closed by the server");
        }
    }

    fn plan_client_close(&mut self, connection: usize, reason: &'static str) {
        let open = &self.connections[connection];
        if self.net.tcp_whole(&open.way) {
            let arrival = (self.now + self.net.tcp_delay(&open.way, &mut self.random)).max(open.directions[0].last_arrival);
            self.queue.push(arrival, Event::Stream(Happening::ClientClosed { connection, reason }));
        }
    }

    /// The server's end, if it is open and the server is the one that it was.
    fn server_via(&self, connection: usize) -> Option<turn::Via> {
        let open = &self.connections[connection];
        let host = &self.servers[open.server.0];
        let lives = open.server_open && host.run == open.server_run && host.core.is_some();
        lives.then_some(turn::Via::Stream { stream: open.server_stream, remote: open.way.seen_as })
    }

    fn client_end(&self, connection: usize) -> Option<(PeerRef, carrier::StreamId)> {
        let open = &self.connections[connection];
        let host = &self.peers[open.peer.0];
        (open.client_open && host.run == open.peer_run).then_some((open.peer, open.stream))
    }
}
