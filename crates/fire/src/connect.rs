//! Reaching a server: names, then UDP, TCP and TLS a little after one another; the first that answers is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use campfire_protocol::carrier::{SocketId, StreamId, Via};
use campfire_protocol::server::{Scope, Server, ServerAddress, Transport};
use campfire_protocol::time::Time;

/// Between two addresses of one transport (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// How much sooner UDP is tried than TCP, and TCP than TLS.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long TCP waits where there are addresses for UDP and no socket yet (sockets of the two families open one after the
/// other).
const NO_SOCKET: Duration = Duration::from_millis(50);
/// How long a name may take.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a stream may take to open.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a resolved name is believed when the server is to be reached again.
const NAME_AGE: Duration = Duration::from_secs(30);
/// Most addresses tried for one transport.
const MAX_PER_TRANSPORT: usize = 4;
/// Most addresses kept for one name.
const MAX_PER_NAME: usize = 8;

/// The UDP sockets that are open, with the addresses under which other hosts of the same network reach them.
pub(crate) type Sockets = BTreeMap<SocketId, Vec<SocketAddr>>;

/// The socket that carries conversations with servers of this family.
pub(crate) fn socket_for(sockets: &Sockets, remote: SocketAddr) -> Option<SocketId> {
    let socket = SocketId(u16::from(remote.is_ipv6()));
    sockets.contains_key(&socket).then_some(socket)
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Begins then.
    Planned(Time),
    /// A stream is being opened, until then at most.
    Opening(StreamId, Time),
    /// A Camp is under way.
    Asked(Via),
    /// Came to nothing.
    Failed,
}

/// One way that is tried.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) transport: Transport,
    pub(crate) remote: SocketAddr,
    pub(crate) host: String,
    pub(crate) state: State,
}

/// The server's names and what they mean.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, (Time, Vec<IpAddr>)>,
    asked: Option<(String, Time)>,
    queue: VecDeque<(String, u16)>,
}

impl Names {
    /// Names to look up before this server can be reached; those looked up moments ago are left out.
    pub(crate) fn want(&mut self, now: Time, addresses: &[ServerAddress]) {
        let queued: BTreeSet<String> = self.queue.iter().map(|(host, _)| host.clone()).collect();
        let asked = self.asked.as_ref().map(|(host, _)| host.clone());
        for address in addresses {
            let host = &address.host;
            let fresh = self.known.get(host).is_some_and(|(at, found)| !found.is_empty() && now.since(*at) < NAME_AGE);
            let pending = queued.contains(host) || asked.as_ref() == Some(host) || self.queue.iter().any(|(other, _)| other == host);
            if host.parse::<IpAddr>().is_err() && !fresh && !pending {
                self.queue.push_back((host.clone(), address.port));
            }
        }
    }

    /// The next name to ask for. Answers do not say which name they are for: one at a time.
    pub(crate) fn next(&mut self, now: Time) -> Option<(String, u16)> {
        if self.asked.is_some() {
            return None;
        }
        let (host, port) = self.queue.pop_front()?;
        self.asked = Some((host.clone(), now + RESOLVE_PATIENCE));
        Some((host, port))
    }

    /// The answer. When the name is not found, what it meant before still counts.
    pub(crate) fn resolved(&mut self, now: Time, addresses: &[SocketAddr]) {
        let Some((host, _)) = self.asked.take() else { return };
        if addresses.is_empty() {
            return;
        }
        let addresses = addresses.iter().map(SocketAddr::ip).take(MAX_PER_NAME).collect();
        self.known.insert(host, (now, addresses));
    }

    /// When to give up waiting for an answer.
    pub(crate) fn due(&self) -> Option<Time> {
        self.asked.as_ref().map(|(_, until)| *until)
    }

    /// Nothing is being looked up.
    pub(crate) fn settled(&self) -> bool {
        self.asked.is_none() && self.queue.is_empty()
    }

    fn of(&self, host: &str) -> Vec<IpAddr> {
        host.parse().map_or_else(|_| self.known.get(host).map(|(_, found)| found.clone()).unwrap_or_default(), |ip| vec![ip])
    }
}

/// Loopback, link-local (cloud metadata among them), unspecified or broadcast, embedded in IPv6 or not.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// A round of attempts.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) started: Time,
    pub(crate) attempts: Vec<Attempt>,
    /// Why the last stream did not come up, for people.
    pub(crate) failure: Option<String>,
    /// It answered a Binding, though not (yet) a Camp.
    pub(crate) binding_answered: bool,
}

/// A server's addresses in the order in which they are tried, those that cannot be reached from here left out.
pub(crate) fn preferred(server: &Server, in_cluster: bool) -> Vec<ServerAddress> {
    let mut addresses: Vec<ServerAddress> = server.addresses.clone();
    let external = addresses.iter().any(|address| address.scope == Scope::External);
    if !in_cluster && external {
        addresses.retain(|address| address.scope == Scope::External);
    }
    addresses.sort_by_key(|address| (address.transport, (address.scope == Scope::Cluster) != in_cluster));
    addresses
}

impl Connecting {
    pub(crate) fn new(now: Time) -> Self {
        Self { started: now, attempts: Vec::new(), binding_answered: false, failure: None }
    }

    /// Adds attempts for addresses that are known by now. `hurry`: UDP is known not to work from here, so nothing waits for
    /// it (it is tried all the same). `hearsay`: hosts that other members told us of; they shall not make us knock at our own
    /// or our neighbours' doors.
    pub(crate) fn plan(
        &mut self,
        now: Time,
        addresses: &[ServerAddress],
        names: &Names,
        sockets: &Sockets,
        hurry: bool,
        hearsay: &BTreeSet<String>,
    ) {
        for address in addresses {
            let mut found = names.of(&address.host);
            if hearsay.contains(&address.host) {
                found.retain(|ip| !is_local(*ip));
            }
            // Families take turns (RFC 8305 §4), the one that the name gave first first.
            let first_is_v6 = found.first().is_some_and(IpAddr::is_ipv6);
            let (first, second): (Vec<IpAddr>, Vec<IpAddr>) = found.drain(..).partition(|ip| ip.is_ipv6() == first_is_v6);
            let mut turns: Vec<(usize, IpAddr)> = first.into_iter().enumerate().map(|(n, ip)| (2 * n, ip)).collect();
            turns.extend(second.into_iter().enumerate().map(|(n, ip)| (2 * n + 1, ip)));
            turns.sort_by_key(|(turn, _)| *turn);
            for (_, ip) in turns {
                let udp = addresses.iter().any(|other| other.transport == Transport::Udp) && !hurry;
                self.add(now, address, SocketAddr::new(ip, address.port), sockets, udp);
            }
        }
    }

    fn add(&mut self, now: Time, address: &ServerAddress, remote: SocketAddr, sockets: &Sockets, udp: bool) {
        let transport = address.transport;
        let same = self.attempts.iter().filter(|attempt| attempt.transport == transport).count();
        let known = self.attempts.iter().any(|attempt| attempt.transport == transport && attempt.remote == remote);
        let usable = !remote.ip().is_unspecified() && !remote.ip().is_multicast() && remote.port() != 0;
        if known || same >= MAX_PER_TRANSPORT || !usable || (transport == Transport::Udp && socket_for(sockets, remote).is_none()) {
            return;
        }
        let tried = |other: Transport| self.attempts.iter().any(|attempt| attempt.transport == other);
        let wait_for = |other: Transport, wanted: bool| match (wanted, tried(other)) {
            (false, _) => Duration::ZERO,
            (true, false) => NO_SOCKET,
            (true, true) => HEAD_START,
        };
        let wait = match transport {
            Transport::Udp => Duration::ZERO,
            Transport::Tcp => wait_for(Transport::Udp, udp),
            Transport::Tls => wait_for(Transport::Udp, udp) + wait_for(Transport::Tcp, tried(Transport::Tcp)),
        };
        let state = State::Planned(now + wait + STAGGER * u32::try_from(same).unwrap_or(0));
        self.attempts.push(Attempt { transport, remote, host: address.host.clone(), state });
    }

    /// The attempts whose time has come.
    pub(crate) fn begin(&mut self, now: Time) -> Vec<usize> {
        let due = |attempt: &Attempt| matches!(attempt.state, State::Planned(at) if at <= now);
        self.attempts.iter().enumerate().filter(|(_, attempt)| due(attempt)).map(|(index, _)| index).collect()
    }

    /// Streams that took too long to open; they are given up.
    pub(crate) fn late(&mut self, now: Time) -> Vec<StreamId> {
        let mut late = Vec::new();
        for attempt in &mut self.attempts {
            if let State::Opening(stream, until) = attempt.state
                && until <= now
            {
                attempt.state = State::Failed;
                late.push(stream);
            }
        }
        late
    }

    /// A stream is being opened for an attempt.
    pub(crate) fn opening(now: Time, stream: StreamId) -> State {
        State::Opening(stream, now + OPEN_PATIENCE)
    }

    /// The attempt that uses this via.
    pub(crate) fn by_via(&mut self, via: Via) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| match attempt.state {
            State::Asked(asked) => asked == via,
            State::Opening(stream, _) => Via::Stream(stream) == via,
            State::Planned(_) | State::Failed => false,
        })
    }

    /// When nothing is under way, the next attempt need not wait for its time.
    pub(crate) fn advance(&mut self, now: Time) {
        if self.attempts.iter().any(|attempt| matches!(attempt.state, State::Opening(..) | State::Asked(_))) {
            return;
        }
        let next = self.attempts.iter_mut().filter(|attempt| matches!(attempt.state, State::Planned(_)));
        if let Some(next) = next.min_by_key(|attempt| if let State::Planned(at) = attempt.state { at } else { Time::default() })
            && next.state != State::Planned(now)
            && matches!(next.state, State::Planned(at) if at > now)
        {
            next.state = State::Planned(now);
        }
    }

    /// Everything has been tried.
    pub(crate) fn exhausted(&self) -> bool {
        self.attempts.iter().all(|attempt| attempt.state == State::Failed)
    }

    /// A UDP attempt had time enough to be answered and was not.
    pub(crate) fn udp_unanswered(&self, now: Time) -> bool {
        !self.binding_answered
            && now.since(self.started) >= Duration::from_millis(900)
            && self.attempts.iter().any(|a| a.transport == Transport::Udp && matches!(a.state, State::Asked(_) | State::Failed))
    }

    /// The next time at which something is to be done.
    pub(crate) fn due(&self) -> Option<Time> {
        let times = self.attempts.iter().filter_map(|attempt| match attempt.state {
            State::Planned(at) | State::Opening(_, at) => Some(at),
            State::Asked(_) | State::Failed => None,
        });
        times.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_has_a_head_start_over_tcp_and_tcp_over_tls() {
        let connecting = planned("192.0.2.1", false);
        let times: Vec<_> = connecting.attempts.iter().map(|attempt| (attempt.transport, millis(attempt))).collect();
        assert_eq!(times, [(Transport::Udp, 0), (Transport::Tcp, 1_000), (Transport::Tls, 2_000)]);
    }

    #[test]
    fn where_udp_is_blocked_nothing_waits_for_it() {
        let times: Vec<_> = planned("192.0.2.1", true).attempts.iter().map(millis).collect();
        assert_eq!(times, [0, 0, 1_000]);
    }

    #[test]
    fn without_a_socket_of_its_family_udp_is_left_out_and_tcp_starts_almost_at_once() {
        let connecting = planned("2001:db8::1", false);
        let times: Vec<_> = connecting.attempts.iter().map(|attempt| (attempt.transport, millis(attempt))).collect();
        assert_eq!(times, [(Transport::Tcp, 50), (Transport::Tls, 1_050)]);
    }

    #[test]
    fn when_one_way_fails_the_next_does_not_wait() {
        let mut connecting = planned("192.0.2.1", false);
        connecting.attempts[0].state = State::Failed;
        connecting.advance(at(100));
        assert_eq!(connecting.begin(at(100)), [1]);
        assert!(!connecting.exhausted());
    }

    #[test]
    fn cluster_addresses_come_first_inside_and_are_left_out_outside() {
        let mut server: Server = "inside.example:3478".parse().unwrap();
        let mut outside = server.clone();
        outside.addresses.iter_mut().for_each(|address| address.host = "outside.example".into());
        server.addresses.iter_mut().for_each(|address| address.scope = Scope::Cluster);
        server.addresses.extend(outside.addresses);
        let hosts = |inside| preferred(&server, inside).into_iter().map(|address| address.host).take(2).collect::<Vec<_>>();
        assert_eq!(hosts(true), ["inside.example", "outside.example"]);
        assert_eq!(hosts(false), ["outside.example", "outside.example"]);
    }

    #[test]
    fn a_name_is_asked_for_once_and_an_old_answer_counts_when_the_new_one_is_empty() {
        let server: Server = "turn.example:3478".parse().unwrap();
        let mut names = Names::default();
        names.want(at(0), &server.addresses);
        assert_eq!(names.next(at(0)), Some(("turn.example".into(), 3478)));
        assert_eq!(names.next(at(0)), None);
        names.resolved(at(10), &["192.0.2.7:3478".parse().unwrap()]);
        assert!(names.settled());
        names.want(at(100_000), &server.addresses);
        assert!(names.next(at(100_000)).is_some());
        names.resolved(at(100_010), &[]);
        assert_eq!(names.of("turn.example"), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_others_say_does_not_lead_to_our_own_host() {
        for (host, heard, tried) in
            [("127.0.0.1", true, 0), ("127.0.0.1", false, 1), ("::ffff:169.254.169.254", true, 0), ("192.0.2.1", true, 1)]
        {
            let addresses = [ServerAddress { host: host.into(), port: 3478, transport: Transport::Tcp, scope: Scope::External }];
            let hearsay = heard.then(|| host.to_owned()).into_iter().collect();
            let mut connecting = Connecting::new(at(0));
            connecting.plan(at(0), &addresses, &Names::default(), &Sockets::new(), false, &hearsay);
            assert_eq!(connecting.attempts.len(), tried, "{host}");
        }
    }

    fn planned(host: &str, hurry: bool) -> Connecting {
        let address = |transport| ServerAddress { host: host.into(), port: 3478, transport, scope: Scope::External };
        let addresses: Vec<_> = [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter().map(address).collect();
        let mut connecting = Connecting::new(at(0));
        let sockets = Sockets::from([(SocketId(0), Vec::new())]);
        connecting.plan(at(0), &addresses, &Names::default(), &sockets, hurry, &BTreeSet::new());
        connecting
    }

    fn millis(attempt: &Attempt) -> u64 {
        match attempt.state {
            State::Planned(at) => at.as_micros() / 1_000,
            _ => u64::MAX,
        }
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }
}
