//! The UDP sockets: those that the server listens on, and the relay sockets of allocations.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use campfire_sys::udp::{BATCH, Buffers, Socket};
use campfire_turn::io::{ListenerId, RelayId};
use rand_core::RngCore;

use super::config::Settings;
use super::descriptors::Descriptors;
use super::outbox::{Route, SocketKey};

/// Buffers of a listening socket: what arrives while the packet thread is not scheduled for some ten milliseconds.
const LISTENER_BUFFER: usize = 8 << 20;
/// Buffers of a relay socket, which serves one client.
const RELAY_BUFFER: usize = 1 << 20;
/// Local addresses told apart on sockets that are bound to all of them.
const MAX_LOCAL: usize = 4096;
/// Ports tried at random before all of the range are tried in turn.
const RANDOM_TRIES: u32 = 32;

/// A UDP socket ready for the packet thread.
fn bind(address: SocketAddr, buffer: usize) -> io::Result<Socket> {
    Socket::bind(address, Buffers { receive: buffer, send: buffer })
}

/// A socket that clients send to.
pub struct Listener {
    socket: Socket,
    /// Bound to all addresses: each datagram tells which one it came to.
    wildcard: bool,
    ids: HashMap<Option<IpAddr>, ListenerId>,
    last: Option<(Option<IpAddr>, ListenerId)>,
    /// Datagrams to be received with one call: fewer when they are long trains, for the sake of the caches.
    pub batch: usize,
}

impl Listener {
    /// Binds it.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = bind(address, LISTENER_BUFFER)?;
        let wildcard = address.ip().is_unspecified();
        if wildcard {
            socket.tell_local_addresses()?;
        }
        let got = socket.receive_buffer().unwrap_or(0);
        if got < LISTENER_BUFFER / 8 {
            tracing::info!(
                bytes = got,
                "the receive buffer of {address} is small: bursts will be lost; raise net.core.rmem_max to 8388608, or grant CAP_NET_ADMIN"
            );
        }
        Ok(Self { socket, wildcard, ids: HashMap::new(), last: None, batch: BATCH })
    }

    /// What it is bound to.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// The socket and local address that stand behind a [`ListenerId`].
#[derive(Clone, Copy)]
struct Origin {
    listener: usize,
    local: Option<IpAddr>,
}

/// All UDP sockets.
pub struct UdpSockets {
    listeners: Vec<Listener>,
    /// By [`ListenerId`]: a listening socket that is bound to all addresses has an id for each one that was used, so that
    /// answers leave from where the request came to, and the core tells the 5-tuples apart.
    origins: Vec<Origin>,
    relays: HashMap<u64, Socket>,
    own: OwnAddresses,
}

/// Relay sockets whose clients are told another address than theirs, behind a one-to-one NAT: by both. What one of our clients sends to
/// another's is delivered here, for few NATs turn such packets round.
#[derive(Default)]
struct OwnAddresses {
    by_relay: HashMap<u64, (SocketAddr, SocketAddr)>,
    inside: HashMap<SocketAddr, SocketAddr>,
    outside: HashMap<SocketAddr, SocketAddr>,
}

impl OwnAddresses {
    fn add(&mut self, relay: u64, told: SocketAddr, local: SocketAddr) {
        let local = match local.ip() {
            IpAddr::V4(any) if any.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local.port()),
            IpAddr::V6(any) if any.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), local.port()),
            IpAddr::V4(_) | IpAddr::V6(_) => local,
        };
        if told != local {
            self.by_relay.insert(relay, (told, local));
            self.inside.insert(told, local);
            self.outside.insert(local, told);
        }
    }

    fn remove(&mut self, relay: u64) {
        if let Some((told, local)) = self.by_relay.remove(&relay) {
            self.inside.remove(&told);
            self.outside.remove(&local);
        }
    }
}

impl UdpSockets {
    /// These listeners and no relay sockets.
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self { listeners, origins: Vec::new(), relays: HashMap::new(), own: OwnAddresses::default() }
    }

    /// How many listeners there are.
    pub fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// A listener.
    pub fn listener_mut(&mut self, index: usize) -> Option<&mut Listener> {
        self.listeners.get_mut(index)
    }

    /// One of them all, if it is open.
    pub fn socket(&self, key: SocketKey) -> Option<&Socket> {
        match key {
            SocketKey::Listener(index) => self.listeners.get(index).map(|listener| &listener.socket),
            SocketKey::Relay(relay) => self.relays.get(&relay),
        }
    }

    /// The id of a listener's local address.
    pub fn listener_id(&mut self, index: usize, local: Option<IpAddr>) -> Option<ListenerId> {
        let listener = self.listeners.get_mut(index)?;
        let mut local = local.filter(|_| listener.wildcard);
        if let Some((last, id)) = listener.last
            && last == local
        {
            return Some(id);
        }
        if listener.ids.len() >= MAX_LOCAL && !listener.ids.contains_key(&local) {
            local = None;
        }
        let id = if let Some(id) = listener.ids.get(&local) {
            *id
        } else {
            let id = ListenerId(u16::try_from(self.origins.len()).ok()?);
            self.origins.push(Origin { listener: index, local });
            listener.ids.insert(local, id);
            id
        };
        listener.last = Some((local, id));
        Some(id)
    }

    /// How to reach a client over UDP.
    pub fn route(&self, listener: ListenerId, remote: SocketAddr) -> Option<Route> {
        let origin = self.origins.get(usize::from(listener.0))?;
        Some(Route { socket: SocketKey::Listener(origin.listener), to: remote, from: origin.local })
    }

    /// Binds a relay socket; what clients are to be told.
    pub fn open_relay(
        &mut self,
        relay: u64,
        ipv6: bool,
        even: bool,
        settings: &RelaySettings,
        rng: &mut impl RngCore,
    ) -> io::Result<SocketAddr> {
        let address = if ipv6 { settings.v6 } else { settings.v4 };
        let Some((local, external)) = address else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let (first, last) = (u32::from(*settings.ports.start()), u32::from(*settings.ports.end()));
        let span = last - first + 1;
        let random = |rng: &mut dyn RngCore| first + rng.next_u32() % span;
        let start = random(rng);
        let candidates = (0..RANDOM_TRIES).map(|_| random(rng)).collect::<Vec<_>>().into_iter();
        let mut error = io::Error::from(io::ErrorKind::AddrInUse);
        for port in candidates.chain((0..span).map(|step| first + (start - first + step) % span)) {
            let port = port as u16;
            if even && !port.is_multiple_of(2) {
                continue;
            }
            match bind(SocketAddr::new(local, port), RELAY_BUFFER) {
                Ok(socket) => {
                    self.relays.insert(relay, socket);
                    let told = SocketAddr::new(external, port);
                    self.own.add(relay, told, SocketAddr::new(local, port));
                    return Ok(told);
                }
                Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => error = cause,
                Err(cause) => return Err(cause),
            }
        }
        Err(error)
    }

    /// Closes a relay socket.
    pub fn close_relay(&mut self, relay: u64) {
        self.relays.remove(&relay);
        self.own.remove(relay);
    }

    /// How many relay sockets are open.
    pub fn relays(&self) -> usize {
        self.relays.len()
    }

    /// The way from a relay socket to a peer.
    pub fn relay_route(&self, relay: RelayId, to: SocketAddr) -> Route {
        let to = self.own.inside.get(&to).copied().unwrap_or(to);
        Route { socket: SocketKey::Relay(relay.0), to, from: None }
    }

    /// As which peer clients know who sent from there.
    pub fn seen_from(&self, from: SocketAddr) -> SocketAddr {
        self.own.outside.get(&from).copied().unwrap_or(from)
    }
}

/// Where relay sockets live.
pub struct RelaySettings {
    /// IPv4: bound to, and told to clients.
    v4: Option<(IpAddr, IpAddr)>,
    /// IPv6.
    v6: Option<(IpAddr, IpAddr)>,
    ports: RangeInclusive<u16>,
    /// What is left for relay sockets.
    pub descriptors: Descriptors,
}

impl RelaySettings {
    /// Out of the settings.
    pub fn new(settings: &Settings, descriptors: Descriptors) -> Self {
        Self {
            descriptors,
            v4: settings.relay_v4.map(|address| (address.bind, address.external)),
            v6: settings.relay_v6.map(|address| (address.bind, address.external)),
            ports: settings.relay_ports.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_wildcard_listener_has_an_id_for_each_local_address_and_answers_from_it() {
        let mut sockets = UdpSockets::new(vec![Listener::bind("0.0.0.0:0".parse().unwrap()).unwrap()]);
        let (one, two) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let id = sockets.listener_id(0, Some(one)).unwrap();
        assert_ne!(sockets.listener_id(0, Some(two)).unwrap(), id);
        assert_eq!(sockets.listener_id(0, Some(one)).unwrap(), id);
        assert_eq!(sockets.route(id, "127.0.0.1:9".parse().unwrap()).unwrap().from, Some(one));
    }

    #[test]
    fn relay_ports_stay_in_their_range_until_none_is_left() {
        let mut rng = <rand_chacha::ChaCha8Rng as rand_core::SeedableRng>::from_seed([7; 32]);
        let mut sockets = UdpSockets::new(Vec::new());
        let local: IpAddr = "127.0.0.77".parse().unwrap();
        let settings = RelaySettings {
            v4: Some((local, "192.0.2.1".parse().unwrap())),
            v6: None,
            ports: 50_000..=50_007,
            descriptors: Descriptors::new(u64::MAX, Arc::default()),
        };
        let mut ports: Vec<u16> = Vec::new();
        for relay in 0..8 {
            let address = sockets.open_relay(relay, false, relay < 2, &settings, &mut rng).unwrap();
            assert_eq!(address.ip().to_string(), "192.0.2.1");
            ports.push(address.port());
        }
        assert!(ports[0].is_multiple_of(2) && ports[1].is_multiple_of(2));
        ports.sort_unstable();
        assert_eq!(ports, (50_000..=50_007).collect::<Vec<_>>());
        assert!(sockets.open_relay(9, false, false, &settings, &mut rng).is_err());
        assert!(sockets.open_relay(9, true, false, &settings, &mut rng).is_err(), "no IPv6 relay address");
        sockets.close_relay(3);
        assert!(sockets.open_relay(9, false, false, &settings, &mut rng).is_ok());
    }
}
