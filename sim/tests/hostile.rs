//! Members and bystanders that mean harm.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::sync::Arc;

use campfire_fire::io::Notice;
use campfire_protocol::announce::{Announcement, Session};
use campfire_protocol::credential::{campfire_key, push_key, user_name};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::Keys;
use campfire_protocol::stun::{Message, TransactionId};
use campfire_protocol::time::UnixMillis;
use campfire_protocol::wire::{
    Auth, BindRequest, CampRequest, CampSuccess, Cursor, Ember, Entry, Failure, MemberId, MemberToken, SignalRequest,
};
use campfire_sim::overlay::Echo;
use campfire_sim::{EPOCH, FlowRef, Nat, NodeId, Packet, PeerRef, Place, ServerRef, World, millis, secs, seed};

#[test]
fn anothers_announcement_in_ones_own_seat_changes_nothing() {
    let mut case = Case::new();
    let mut intruder = Intruder::new(&mut case.world, 0);
    let entries = intruder.camp(&mut case.world, None).entries;
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let mut other = Intruder::new(&mut case.world, 0);
        other.camp(&mut case.world, entry.announcement);
    }
    case.assert_unharmed();
}

#[test]
fn announcements_for_another_room_or_seat_and_garbage_are_dropped() {
    let mut case = Case::new();
    let evil = Identity::from_seed(&[66; 32]);
    let (this, other) = (case.world.keys(0), case.world.keys(1));
    // Under which room's keys, for whose seat. (That a wrong signature does not open is the protocol crate's to show.)
    for (keys, own_seat) in [(&other, true), (&this, false)] {
        let mut intruder = Intruder::new(&mut case.world, 0);
        let seat = if own_seat { intruder.token.id() } else { MemberId([9; 16]) };
        let sealed = announcement(&case.world, &evil, 1).seal(&evil, keys, &seat, &[5; 24]).unwrap();
        intruder.camp(&mut case.world, Some(sealed));
    }
    // Not even an announcement: what does not open, and what opens to nothing.
    for bytes in [vec![0; 300], vec![7; 700], vec![1]] {
        Intruder::new(&mut case.world, 0).camp(&mut case.world, Some(bytes));
    }
    case.world.run_for(secs(5));
    assert!(case.peers.iter().all(|&peer| case.world.status(peer).peers.iter().all(|peer| peer.name != "evil")));
    case.assert_unharmed();
}

#[test]
fn an_announcement_from_the_future_is_dropped_and_one_from_a_minute_ahead_is_not() {
    for (ahead, met) in [(11 * 60, false), (60, true)] {
        let mut case = Case::new();
        let identity = Identity::from_seed(&[66; 32]);
        let mut intruder = Intruder::new(&mut case.world, 0);
        let sealed =
            announcement(&case.world, &identity, ahead).seal(&identity, &case.world.keys(0), &intruder.token.id(), &[5; 24]).unwrap();
        intruder.camp(&mut case.world, Some(sealed));
        case.world.run_for(secs(3));
        assert_eq!(case.world.status(case.peers[0]).peers.iter().any(|peer| peer.name == "evil"), met, "{ahead} s ahead");
        case.assert_unharmed();
    }
}

#[test]
fn nobody_signals_or_binds_from_anothers_seat() {
    let mut case = Case::new();
    let mut intruder = Intruder::new(&mut case.world, 0);
    let entries = intruder.camp(&mut case.world, None).entries;
    let (one, other) = (entries[0].member, entries[1].member);
    let signal = SignalRequest { from: one, to: other, data: vec![1, 0, 0, 0] };
    let code = intruder.ask(&mut case.world, |auth| signal.encode(TransactionId([1; 12]), auth));
    assert!(matches!(code, Some(403 | 404)), "{code:?}");
    let bind = BindRequest { from: one, to: other, channel: 0x4001, release: false };
    let code = intruder.ask(&mut case.world, |auth| bind.encode(TransactionId([2; 12]), auth));
    assert!(matches!(code, Some(403 | 404)), "{code:?}");
    case.assert_unharmed();
}

#[test]
fn forged_departures_end_nothing_whether_the_key_is_right_or_wrong() {
    let mut case = Case::new();
    let mut intruder = Intruder::new(&mut case.world, 0);
    let entries = intruder.camp(&mut case.world, None).entries;
    let tapped = case.pushes();
    let spoofed_from = SocketAddr::new(case.world.net.addresses(case.world.node(case.server)).0.unwrap().into(), 3478);
    for key_is_right in [false, true] {
        for &(_, destination) in &tapped {
            for to in &entries {
                let left = entries.iter().map(|entry| Entry { member: entry.member, announcement: None }).collect();
                let cursor = Cursor { incarnation: 1, sequence: 9 };
                let ember = Ember { to: to.member, previous: Cursor::default(), cursor, entries: left, leaving: key_is_right };
                let mut key = push_key(&case.world.keys(0).relay, &to.member);
                key[0] ^= u8::from(!key_is_right);
                let payload = ember.encode(TransactionId([3; 12]), &key);
                case.world.inject(intruder.host, Packet { source: spoofed_from, destination, payload });
            }
        }
        case.world.run_for(secs(2));
    }
    case.assert_unharmed();
}

#[test]
fn everything_sent_twice_and_late_does_no_harm() {
    let mut case = Case::new();
    case.world.tap();
    for _ in 0..200 {
        case.world.run_for(millis(100));
        for (node, packet) in case.world.tap() {
            case.world.inject(node, packet);
        }
        case.world.tap();
    }
    assert!(case.peers.iter().any(|&peer| case.world.counters(peer).datapath.dropped_replayed > 0));
    case.assert_unharmed();
}

#[test]
fn garbage_and_altered_packets_do_no_harm() {
    let mut case = Case::new();
    let intruder = case.world.host(Place::Internet);
    case.world.tap();
    for _ in 0..100 {
        case.world.run_for(millis(100));
        for (position, (_, mut packet)) in case.world.tap().into_iter().enumerate() {
            let length = packet.payload.len();
            match position % 4 {
                0 => packet.payload[length / 2] ^= 0x10,
                1 => packet.payload.truncate(length / 2),
                2 => packet.payload.extend_from_slice(&[0; 7]),
                _ => packet.payload[0] ^= 0x40,
            }
            case.world.inject(intruder, packet);
        }
        case.world.tap();
    }
    case.assert_unharmed();
}

#[test]
fn a_member_cannot_send_from_anothers_overlay_address() {
    let mut case = Case::new();
    let [victim, target, evil] = case.peers;
    let (source, destination) = (case.world.address(victim), case.world.address(target));
    let forged = Echo { source, destination, is_reply: false, id: u64::MAX, size: 64 };
    for _ in 0..5 {
        case.world.app(evil, &forged);
    }
    case.world.run_for(secs(1));
    assert_eq!(case.world.counters(target).datapath.dropped_source, 5);
    case.assert_unharmed();
}

#[test]
fn routes_count_where_they_are_accepted_and_never_within_the_overlay() {
    let mut world = World::new(seed(1));
    world.server("a");
    let prefix = world.keys(0).network.prefix();
    let victim = world.peer(Place::Internet);
    let within: ipnet::IpNet = format!("{}/128", world.address(victim)).parse().unwrap();
    let router = world.peer_with(Place::Internet, |peer| {
        peer.config.fire.routes =
            vec!["10.7.0.0/16".parse().unwrap(), "10.8.0.0/16".parse().unwrap(), within, prefix.into(), "::/0".parse().unwrap()];
    });
    let accepting = world.peer_with(Place::Internet, |peer| {
        peer.config.accepted_routes = vec!["10.7.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap(), "::/0".parse().unwrap()];
    });
    let peers = [victim, router, accepting];
    world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
    world.run_for(secs(2));
    assert_eq!(world.route(accepting, "10.7.1.1".parse().unwrap()), Some(router));
    assert_eq!(world.route(accepting, "10.8.1.1".parse().unwrap()), None);
    assert_eq!(world.route(accepting, world.address(victim)), Some(victim));
    assert_eq!(world.route(accepting, prefix.hosts().nth(77).unwrap().into()), None, "nothing may overlap the overlay");
    assert_eq!(world.route(victim, "10.7.1.1".parse().unwrap()), None, "not accepted by default");
}

#[test]
fn on_an_ipv4_conflict_the_older_session_keeps_the_address_and_the_newcomer_says_so() {
    let mut world = World::new(seed(1));
    world.server("a");
    // Five addresses, so that some of eight peers want the same.
    let peers: Vec<_> = (0..8)
        .map(|i| {
            world.peer_with(Place::Internet, |peer| {
                peer.config.fire.ipv4_pool = Some("10.99.0.0/29".parse().unwrap());
                peer.after = secs(2 * i);
            })
        })
        .collect();
    world.run_for(secs(30));
    assert!(world.all_connected(&peers));
    let addresses: Vec<_> =
        peers.iter().map(|&peer| world.status(peer).own.addresses.into_iter().find(std::net::IpAddr::is_ipv4)).collect();
    for (position, address) in addresses.iter().enumerate() {
        let wanted = campfire_protocol::identity::ipv4_in_pool("10.99.0.0/29".parse().unwrap(), &world.identity(peers[position]).public());
        let taken = addresses[..position].contains(&wanted.map(Into::into));
        assert_eq!(*address, wanted.map(Into::into).filter(|_| !taken), "peer {position}");
        let said = world
            .camp_notices(peers[position])
            .iter()
            .any(|(_, notice)| matches!(notice, Notice::Problem { text } if text.contains("IPv4")));
        assert_eq!(said, taken, "peer {position}");
    }
}

#[test]
fn a_crowd_of_invented_members_does_not_disturb_the_others() {
    let mut case = Case::new();
    for number in 0..150_u8 {
        let mut intruder = Intruder::new(&mut case.world, 0);
        let mut name = [66; 32];
        name[1] = number;
        let identity = Identity::from_seed(&name);
        let sealed =
            announcement(&case.world, &identity, 0).seal(&identity, &case.world.keys(0), &intruder.token.id(), &[number; 24]).unwrap();
        intruder.send_camp(&mut case.world, Some(sealed));
    }
    case.world.run_for(secs(120));
    case.assert_unharmed();
    let sent = case.peers.map(|peer| case.world.counters(peer).sent_bytes);
    assert!(sent.iter().all(|&bytes| bytes < 4_000_000), "{sent:?} bytes in two minutes");
}

/// Three peers, two of them relayed, with pings among them.
struct Case {
    world: World,
    server: ServerRef,
    peers: [PeerRef; 3],
    flows: Vec<FlowRef>,
}

impl Case {
    fn new() -> Self {
        let mut world = World::new(seed(1));
        let server = world.server("a");
        let peers = [Nat::symmetric(), Nat::symmetric(), Nat::full_cone()].map(|nat| {
            let gateway = world.nat(nat);
            world.peer(gateway)
        });
        world.run_until(secs(5), |world| world.all_connected(&peers)).expect("connected");
        world.run_for(secs(5));
        let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
        let flows = pairs.map(|(one, other)| world.flow(peers[one], peers[other], millis(100))).into();
        Self { world, server, peers, flows }
    }

    /// Addresses to which the server sends.
    fn pushes(&mut self) -> Vec<(NodeId, SocketAddr)> {
        self.world.tap();
        self.world.run_for(secs(1));
        let server = self.world.node(self.server);
        let mut to: Vec<_> =
            self.world.tap().into_iter().filter(|(node, _)| *node == server).map(|(node, packet)| (node, packet.destination)).collect();
        to.sort();
        to.dedup();
        to
    }

    fn assert_unharmed(&mut self) {
        self.world.run_for(secs(5));
        assert!(self.world.all_connected(&self.peers));
        for &flow in &self.flows {
            let report = self.world.report(flow);
            assert_eq!(report.lost(), 0, "{report:?}");
        }
    }
}

/// Somebody who holds the key and speaks the protocol by hand.
struct Intruder {
    host: NodeId,
    token: MemberToken,
    keys: Arc<Keys>,
    user_name: String,
    key: zeroize::Zeroizing<[u8; 32]>,
    nonce: Option<String>,
}

impl Intruder {
    fn new(world: &mut World, key: usize) -> Self {
        let host = world.host(Place::Internet);
        let keys = world.keys(key);
        let user_name = user_name(EPOCH / 1_000 + 86_400, keys.fingerprint);
        let mut token = [77; 16];
        token[..4].copy_from_slice(&host.0.to_be_bytes());
        Self { host, token: MemberToken(token), key: campfire_key(&keys.relay, &user_name), keys, user_name, nonce: None }
    }

    fn send_camp(&mut self, world: &mut World, announcement: Option<Vec<u8>>) {
        let unix_millis = EPOCH + world.now().as_micros() / 1_000;
        let (room, token) = (self.keys.room, self.token);
        let request = CampRequest { room, token, lifetime: 60, unix_millis, announcement, tags: vec![], cursor: Cursor::default() };
        let datagram = request.encode(TransactionId([8; 12]), &self.auth());
        self.send(world, &datagram);
    }

    /// Camps and gives the answer.
    fn camp(&mut self, world: &mut World, announcement: Option<Vec<u8>>) -> CampSuccess {
        self.send_camp(world, announcement.or(Some(vec![0; 100])));
        world.run_for(secs(1));
        let answers = world.mail(self.host);
        let message = answers.iter().find_map(|(_, packet)| Message::parse(&packet.payload).ok()).expect("an answer");
        let success = CampSuccess::decode(&message).unwrap_or_else(|_| panic!("camped: {:?}", Failure::decode(&message)));
        self.nonce = Some(success.nonce.clone());
        success
    }

    /// Asks something and gives the error code of the answer, if it is an error.
    fn ask(&mut self, world: &mut World, request: impl FnOnce(&Auth<'_>) -> Vec<u8>) -> Option<u16> {
        let datagram = request(&self.auth());
        world.mail(self.host);
        self.send(world, &datagram);
        world.run_for(secs(1));
        let answers = world.mail(self.host);
        answers
            .iter()
            .filter_map(|(_, packet)| Message::parse(&packet.payload).ok())
            .find_map(|message| message.error_code().map(|(code, _)| code))
    }

    fn auth(&self) -> Auth<'_> {
        Auth { user_name: &self.user_name, nonce: self.nonce.as_deref(), key: &self.key }
    }

    fn send(&self, world: &mut World, datagram: &[u8]) {
        let server = world.server_named("a").unwrap();
        let address = SocketAddr::new(world.net.addresses(world.node(server)).0.unwrap().into(), 3478);
        world.send(self.host, 5000, address, datagram);
    }
}

/// An announcement that names `identity`, made `ahead` seconds from now.
fn announcement(world: &World, identity: &Identity, ahead: u64) -> Announcement {
    let now = UnixMillis(EPOCH + world.now().as_micros() / 1_000 + ahead * 1_000);
    Announcement {
        public_key: identity.public(),
        session: Session { started: now, nonce: 1 },
        sequence: 1,
        sent_at: now,
        name: "evil".into(),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![world.keys(0).fingerprint],
        servers: vec![],
        routes: vec![],
        ipv4: None,
        features: 0,
        record: None,
    }
}
