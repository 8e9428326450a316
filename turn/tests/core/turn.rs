//! Standard service: Binding (RFC 8489) and TURN (RFC 8656).

use crate::world::*;
use campfire_protocol::credential;
use campfire_protocol::key::RelaySecret;
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, TransactionId};
use campfire_turn::Config;
use campfire_turn::config::PeerPolicy;
use campfire_turn::io::{Forward, Input, Output, RelayId};

const PEER: &str = "203.0.113.1:9000";
const CLIENT: &str = "198.51.100.1:4000";

fn world() -> World {
    World::new(Config { relay_ipv6: true, ..Config::default() })
}

fn allocated() -> (World, User, RelayId) {
    let mut world = world();
    let mut alice = User::alice(udp(CLIENT));
    alice.allocate(&mut world).unwrap();
    let opened = world.sent.iter().find_map(|output| if let Output::OpenRelay { relay, .. } = output { Some(*relay) } else { None });
    world.sent.clear();
    (world, alice, opened.unwrap())
}

fn datagram(world: &mut World, relay: RelayId, from: &str, payload: &[u8]) {
    world.input(Input::RelayDatagram { relay, from: from.parse().unwrap(), payload });
}

#[test]
fn binding_tells_the_source_its_address_in_few_bytes() {
    let mut world = world();
    for (via, size) in [(udp(CLIENT), 32), (udp("[2001:db8::7]:4000"), 44), (stream(1, CLIENT), 32)] {
        let request = Builder::new(Class::Request, Method::BINDING, world.transaction()).finish();
        let answer = world.ask(via, &request).unwrap();
        assert_eq!(answer.len(), size);
        assert_eq!(Message::parse(&answer).unwrap().xor_address(Attribute::XOR_MAPPED_ADDRESS).unwrap(), Some(via.remote()));
    }
}

#[test]
fn a_wrong_fingerprint_is_dropped_and_a_right_one_answered_with_one() {
    let mut world = world();
    let mut request = Builder::new(Class::Request, Method::BINDING, TransactionId([7; 12])).finish();
    request[3] = 8;
    let crc = 0x5354_554E ^ crc32(&request);
    request.extend_from_slice(&[0x80, 0x28, 0, 4]);
    request.extend_from_slice(&crc.to_be_bytes());
    let answer = world.ask(udp(CLIENT), &request).unwrap();
    assert_eq!(answer.len(), 40);
    let (body, fingerprint) = answer.split_at(32);
    assert_eq!(fingerprint, [&[0x80, 0x28, 0, 4][..], &(0x5354_554E ^ crc32(body)).to_be_bytes()].concat());
    *request.last_mut().unwrap() ^= 1;
    assert_eq!(world.ask(udp(CLIENT), &request), None);
    assert_eq!(world.stats().dropped_fingerprint, 1);
}

#[test]
fn unknown_attributes_and_methods_are_named() {
    let mut world = world();
    let request = Builder::new(Class::Request, Method::BINDING, world.transaction()).u32(Attribute(0x7777), 1).finish();
    let answer = Message::parse(&world.ask(udp(CLIENT), &request).unwrap()).unwrap();
    assert_eq!(answer.error_code().unwrap().0, 420);
    assert_eq!(answer.get(Attribute::UNKNOWN_ATTRIBUTES), Some(&[0x77, 0x77][..]));
    let request = Builder::new(Class::Request, Method(0x0AB), world.transaction()).finish();
    let answer = Message::parse(&world.ask(udp(CLIENT), &request).unwrap()).unwrap();
    assert_eq!(answer.error_code().unwrap().0, 400);
    let mut alice = User::alice(udp(CLIENT));
    alice.allocate(&mut world).unwrap();
    let refresh = alice.request(&mut world, Method::REFRESH, &[(Attribute(0x7777), b"?")]);
    assert_eq!(refresh.unwrap_err(), 420);
}

#[test]
fn the_challenge_is_small_and_says_all_that_a_client_needs() {
    let mut world = World::new(Config { software: Some("campfire-turn".into()), ..Config::default() });
    let request =
        Builder::new(Class::Request, Method::ALLOCATE, world.transaction()).attribute(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let bytes = world.ask(udp(CLIENT), &request.finish()).unwrap();
    assert!(bytes.len() <= 140, "{} bytes", bytes.len());
    let answer = Message::parse(&bytes).unwrap();
    assert_eq!(answer.error_code(), Some((401, "Unauthorized")));
    assert_eq!(answer.text(Attribute::REALM).unwrap(), Some("campfire"));
    assert!(answer.text(Attribute::NONCE).unwrap().unwrap().starts_with("obMatJos2"));
    assert_eq!(answer.get(Attribute::PASSWORD_ALGORITHMS), Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    assert_eq!(answer.get(Attribute::SOFTWARE), None);
    let mut alice = User::alice(udp(CLIENT));
    let success = alice.allocate_with(&mut world, &[]).unwrap();
    assert_eq!(success.text(Attribute::SOFTWARE).unwrap(), Some("campfire-turn"));
}

#[test]
fn static_users_and_rest_credentials_allocate_with_old_and_new_integrity() {
    let mut world = world();
    let rest = format!("{}:carol", START / 1_000 + 60);
    let password = credential::password(&RelaySecret::from_text("other system"), &rest).to_string();
    for (n, (name, password)) in [("alice", "wonderland"), (&rest, &password)].into_iter().enumerate() {
        for (m, proof) in [Proof::Sha1Md5, Proof::Sha256].into_iter().enumerate() {
            let mut user = User::new(source(2 * n + m), name, password);
            user.proof = proof;
            user.allocate(&mut world).unwrap();
        }
    }
    assert_eq!(world.stats().allocations, 4);
}

#[test]
fn a_call_outlives_the_credential_that_began_it_and_no_other_begins() {
    let mut world = world();
    let secret = RelaySecret::from_text("other system");
    // Both forms of the draft's user names.
    for (n, identity) in [":carol", ""].into_iter().enumerate() {
        let name = format!("{}{identity}", (START / 1_000) + 300 + 20_000 * n as u64);
        let password = credential::password(&secret, &name).to_string();
        let mut carol = User::new(source(n), &name, &password);
        carol.allocate(&mut world).unwrap();
        // Nonces are renewed meanwhile, long after the credential has expired.
        for _ in 0..40 {
            world.pass(seconds(500));
            assert_eq!(carol.refresh(&mut world, 600), Ok(600), "{name}");
            carol.permit(&mut world, "198.51.100.9:9").unwrap();
            carol.bind(&mut world, "198.51.100.9:9", 0x4001).unwrap();
        }
        assert_eq!(User::new(source(9), &name, &password).allocate(&mut world), Err(401), "a new one needs a new credential");
        carol.refresh(&mut world, 0).unwrap();
        assert_eq!(carol.allocate(&mut world), Err(401), "also where the old one was");
    }
}

#[test]
fn wrong_expired_and_foreign_credentials_are_refused() {
    let mut world = world();
    let secret = RelaySecret::from_text("other system");
    let expired = format!("{}:carol", START / 1_000 - 1);
    let campfire = credential::user_name(START / 1_000 + 100, psk(1).fingerprint);
    let cases = [
        ("alice", "wrong".to_owned(), 401),
        ("mallory", "wonderland".to_owned(), 401),
        ("", String::new(), 401),
        (&expired, credential::password(&secret, &expired).to_string(), 401),
        (&campfire, credential::password(&psk(1).relay, &campfire).to_string(), 403),
        (&campfire, "wrong".to_owned(), 401),
    ];
    for (n, (name, password, code)) in cases.into_iter().enumerate() {
        assert_eq!(User::new(source(n), name, &password).allocate(&mut world).unwrap_err(), code, "{name}");
    }
    assert_eq!((world.stats().allocations, world.stats().refused_expired, world.stats().refused_campfire), (0, 1, 1));
    assert_eq!(world.stats().clients, 0);
}

#[test]
fn a_nonce_of_another_source_or_of_long_ago_is_stale() {
    let (mut world, alice, _) = allocated();
    let mut elsewhere = User::alice(udp("198.51.100.2:4000"));
    elsewhere.nonce.clone_from(&alice.nonce);
    let request = elsewhere.sign(Builder::new(Class::Request, Method::REFRESH, world.transaction()));
    let answer = Message::parse(&world.ask(elsewhere.via, &request).unwrap()).unwrap();
    assert_eq!(answer.error_code().unwrap().0, 438);
    assert!(answer.get(Attribute::NONCE).is_some());
    world.pass(seconds(3_601));
    let mut late = User::alice(udp(CLIENT));
    late.nonce.clone_from(&alice.nonce);
    let request = late.sign(Builder::new(Class::Request, Method::REFRESH, world.transaction()));
    assert_eq!(Message::parse(&world.ask(late.via, &request).unwrap()).unwrap().error_code().unwrap().0, 438);
}

#[test]
fn whoever_bids_down_the_password_algorithms_is_found_out() {
    let (mut world, alice, _) = allocated();
    let offers: [&[u8]; 3] = [&[0, 1, 0, 0], &[0, 1, 0, 0, 0, 2, 0, 0], &[]];
    for offered in offers {
        let builder = Builder::new(Class::Request, Method::REFRESH, world.transaction())
            .attribute(Attribute::USERNAME, b"alice")
            .attribute(Attribute::REALM, b"campfire")
            .attribute(Attribute::NONCE, alice.nonce.as_bytes())
            .attribute(Attribute::PASSWORD_ALGORITHMS, offered)
            .attribute(Attribute::PASSWORD_ALGORITHM, &[0, 1, 0, 0]);
        let request = builder.finish_sha256(credential::long_term_key_md5("alice", "campfire", "wonderland").as_ref());
        assert_eq!(Message::parse(&world.ask(alice.via, &request).unwrap()).unwrap().error_code().unwrap().0, 400);
    }
}

#[test]
fn integrity_without_name_realm_or_nonce_is_malformed() {
    let mut world = world();
    let request = Builder::new(Class::Request, Method::ALLOCATE, world.transaction()).finish_sha1(b"key");
    assert_eq!(Message::parse(&world.ask(udp(CLIENT), &request).unwrap()).unwrap().error_code().unwrap().0, 400);
}

#[test]
fn a_retransmitted_allocate_is_answered_the_same_and_another_one_is_a_mismatch() {
    let mut world = world();
    let mut alice = User::alice(udp(CLIENT));
    alice.request(&mut world, Method::REFRESH, &[]).unwrap_err();
    let request = alice.sign(
        Builder::new(Class::Request, Method::ALLOCATE, world.transaction()).attribute(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]),
    );
    world.opens = false;
    assert_eq!(world.ask(alice.via, &request), None, "no answer before the socket is open");
    assert_eq!(world.ask(alice.via, &request), None);
    assert!(matches!(world.sent[..], [Output::OpenRelay { .. }]), "one socket: {:?}", world.sent);
    world.input(Input::RelayOpened { relay: RelayId(1), address: "192.0.2.9:50001".parse().unwrap() });
    let first = world.received(alice.via);
    assert_eq!(world.ask(alice.via, &request).as_ref(), first.first());
    assert_eq!(alice.allocate(&mut world).unwrap_err(), 437);
    let mut bob = User::new(alice.via, "bob", "builder");
    assert_eq!(bob.allocate(&mut world).unwrap_err(), 437);
    assert_eq!(world.stats().allocations, 1);
}

#[test]
fn what_an_allocate_may_ask_for() {
    let mut world = world();
    let cases: [(&[Given<'_>], u16); 13] = [
        (&[(Attribute::REQUESTED_TRANSPORT, &[6, 0, 0, 0])], 442),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17])], 400),
        (&[], 400),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::DONT_FRAGMENT, &[])], 420),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])], 440),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0])], 400),
        (
            &[
                (Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]),
                (Attribute::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]),
                (Attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            ],
            400,
        ),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::EVEN_PORT, &[0x80])], 508),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::EVEN_PORT, &[0, 0])], 400),
        (
            &[
                (Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]),
                (Attribute::EVEN_PORT, &[0x80]),
                (Attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            ],
            400,
        ),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::RESERVATION_TOKEN, &[1; 8])], 508),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::RESERVATION_TOKEN, &[1; 8]), (Attribute::EVEN_PORT, &[0])], 400),
        (&[(Attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), (Attribute::LIFETIME, &[1])], 400),
    ];
    let mut alice = User::alice(udp(CLIENT));
    for (n, (attributes, code)) in cases.into_iter().enumerate() {
        assert_eq!(alice.request(&mut world, Method::ALLOCATE, attributes).unwrap_err(), code, "case {n}");
    }
    let even = alice.allocate_with(&mut world, &[(Attribute::EVEN_PORT, &[0])]).unwrap();
    assert_eq!(even.xor_address(Attribute::XOR_RELAYED_ADDRESS).unwrap().unwrap().port() % 2, 0);
    assert_eq!(even.xor_address(Attribute::XOR_MAPPED_ADDRESS).unwrap(), Some(alice.via.remote()));
    assert_eq!(even.u32(Attribute::LIFETIME).unwrap(), Some(600));
}

#[test]
fn allocations_of_either_family_or_both() {
    let mut world = world();
    let relayed = |answer: &Message| -> Vec<bool> {
        answer.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).unwrap().iter().map(std::net::SocketAddr::is_ipv6).collect()
    };
    let v6 = User::alice(source(1)).allocate_with(&mut world, &[(Attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])]).unwrap();
    assert_eq!(relayed(&v6), [true]);
    let mut both = User::alice(source(2));
    let answer = both.allocate_with(&mut world, &[(Attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])]).unwrap();
    assert_eq!(relayed(&answer), [false, true]);
    both.permit(&mut world, PEER).unwrap();
    both.bind(&mut world, "[2001:db8::1]:9000", 0x4000).unwrap();
    let gone =
        both.request(&mut world, Method::REFRESH, &[(Attribute::LIFETIME, &[0; 4]), (Attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])]);
    gone.unwrap();
    assert_eq!(both.permit(&mut world, "[2001:db8::1]:9000").unwrap_err(), 443);
    assert_eq!(world.forward(both.via, 0x4000, b"x").0, Forward::Drop);
    both.permit(&mut world, PEER).unwrap();
    assert_eq!(world.stats().permissions, 1);
    both.refresh(&mut world, 0).unwrap();
    assert_eq!((world.stats().permissions, world.stats().channels, world.stats().allocations), (0, 0, 1));
}

#[test]
fn a_family_that_the_server_has_not_is_refused_or_left_out() {
    let mut world = World::new(Config::default());
    let v6 = User::alice(source(1)).allocate_with(&mut world, &[(Attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])]);
    assert_eq!(v6.unwrap_err(), 440);
    let both = User::alice(source(2)).allocate_with(&mut world, &[(Attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])]).unwrap();
    assert_eq!(both.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).unwrap().len(), 1);
    assert_eq!(both.get(Attribute::ADDRESS_ERROR_CODE), Some(&[2, 0, 4, 40][..]));
}

#[test]
fn no_port_no_allocation() {
    let mut world = world();
    world.opens = false;
    let mut alice = User::alice(udp(CLIENT));
    alice.request(&mut world, Method::REFRESH, &[]).unwrap_err();
    let udp_transport: &[u8] = &[17, 0, 0, 0];
    let start = Builder::new(Class::Request, Method::ALLOCATE, world.transaction());
    let request = alice.sign(start.attribute(Attribute::REQUESTED_TRANSPORT, udp_transport));
    assert_eq!(world.ask(alice.via, &request), None);
    world.input(Input::RelayFailed { relay: RelayId(1) });
    let answer = Message::parse(&world.received(alice.via)[0]).unwrap();
    alice.verify(&answer);
    assert_eq!(answer.error_code().unwrap().0, 508);
    assert_eq!((world.stats().allocations, world.stats().clients, world.stats().memory), (0, 0, 0));
    world.input(Input::RelayOpened { relay: RelayId(1), address: "192.0.2.9:50001".parse().unwrap() });
    assert!(matches!(world.sent.last(), Some(Output::CloseRelay { relay: RelayId(1) })), "nobody wants it any more");
}

#[test]
fn refresh_lengthens_and_ends_an_allocation() {
    let (mut world, mut alice, relay) = allocated();
    assert_eq!(alice.refresh(&mut world, 7_200).unwrap(), 3_600, "at most an hour");
    assert_eq!(alice.refresh(&mut world, 1).unwrap(), 600, "at least ten minutes");
    let mut bob = User::new(alice.via, "bob", "builder");
    bob.nonce.clone_from(&alice.nonce);
    assert_eq!(bob.refresh(&mut world, 600).unwrap_err(), 441);
    assert_eq!(alice.refresh(&mut world, 0).unwrap(), 0);
    assert!(world.sent.contains(&Output::CloseRelay { relay }));
    assert_eq!(alice.refresh(&mut world, 0).unwrap_err(), 437);
    assert_eq!((world.stats().allocations, world.stats().memory, world.stats().clients), (0, 0, 0));
}

#[test]
fn an_allocation_ends_by_itself_and_with_its_stream() {
    let (mut world, _, relay) = allocated();
    world.pass(seconds(599));
    assert_eq!(world.stats().allocations, 1);
    world.pass(seconds(1));
    assert_eq!(world.stats().allocations, 0);
    assert!(world.sent.contains(&Output::CloseRelay { relay }));
    let mut alice = User::alice(stream(1, CLIENT));
    alice.allocate(&mut world).unwrap();
    world.input(Input::StreamClosed { via: alice.via });
    assert_eq!((world.stats().allocations, world.stats().memory, world.stats().clients), (0, 0, 0));
}

#[test]
fn indications_go_both_ways_where_a_permission_is() {
    let (mut world, mut alice, relay) = allocated();
    alice.send(&mut world, PEER, b"early");
    datagram(&mut world, relay, PEER, b"early");
    assert!(world.sent.is_empty());
    assert_eq!(world.stats().dropped_no_permission, 2);
    alice.permit(&mut world, PEER).unwrap();
    alice.send(&mut world, PEER, b"out");
    assert_eq!(world.relayed(), vec![(relay, PEER.parse().unwrap(), b"out".to_vec())]);
    // The permission is of the address; the port does not matter.
    datagram(&mut world, relay, "203.0.113.1:7", b"in");
    let data = Message::parse(&world.received(alice.via)[0]).unwrap();
    assert_eq!((data.class(), data.method()), (Class::Indication, Method::DATA));
    assert_eq!(data.xor_address(Attribute::XOR_PEER_ADDRESS).unwrap(), Some("203.0.113.1:7".parse().unwrap()));
    assert_eq!(data.get(Attribute::DATA), Some(&b"in"[..]));
    datagram(&mut world, relay, "203.0.113.2:9000", b"other");
    assert!(world.sent.is_empty());
    world.pass(seconds(300));
    alice.send(&mut world, PEER, b"late");
    datagram(&mut world, relay, PEER, b"late");
    assert!(world.sent.is_empty(), "permissions last five minutes");
    assert_eq!(world.stats().permissions, 0);
}

#[test]
fn send_asks_for_nothing_that_is_not_understood() {
    let (mut world, mut alice, _) = allocated();
    alice.permit(&mut world, PEER).unwrap();
    let start = |world: &mut World| Builder::new(Class::Indication, Method::SEND, world.transaction());
    let with_peer = |builder: Builder| builder.xor_address(Attribute::XOR_PEER_ADDRESS, PEER.parse().unwrap());
    let bad = [
        with_peer(start(&mut world)).finish(),
        start(&mut world).attribute(Attribute::DATA, b"x").finish(),
        with_peer(start(&mut world)).attribute(Attribute::DONT_FRAGMENT, b"").attribute(Attribute::DATA, b"x").finish(),
        with_peer(start(&mut world)).attribute(Attribute(0x7777), b"").attribute(Attribute::DATA, b"x").finish(),
    ];
    for bytes in bad {
        world.message(alice.via, &bytes);
    }
    assert!(world.sent.is_empty());
    assert_eq!(world.stats().dropped_malformed, 4);
    User::alice(udp("198.51.100.99:1")).send(&mut world, PEER, b"x");
    assert_eq!(world.stats().dropped_no_allocation, 1);
}

#[test]
fn channels_go_both_ways() {
    let (mut world, mut alice, relay) = allocated();
    alice.bind(&mut world, PEER, 0x4000).unwrap();
    let peer = PEER.parse().unwrap();
    assert_eq!(world.forward(alice.via, 0x4000, b"out").0, Forward::Peer { relay, to: peer, length: 3 });
    let mut frame_in = [vec![0; 4], b"back".to_vec()].concat();
    assert_eq!(world.server.forward_relayed(world.now, relay, peer, &mut frame_in), Forward::Client { via: alice.via });
    assert_eq!(frame_in, frame(0x4000, b"back"));
    datagram(&mut world, relay, PEER, b"slow");
    assert_eq!(world.received(alice.via), vec![frame(0x4000, b"slow")]);
    let other = "203.0.113.1:9001".parse().unwrap();
    assert_eq!(world.server.forward_relayed(world.now, relay, other, &mut frame_in), Forward::Slow, "a Data indication");
    assert_eq!(world.forward(alice.via, 0x4001, b"x").0, Forward::Drop);
    assert_eq!((world.stats().frames_to_peer, world.stats().frames_to_client), (1, 2));
    assert_eq!((world.stats().bytes_to_peer, world.stats().bytes_to_client), (3, 8));
}

#[test]
fn a_channel_lasts_ten_minutes_and_its_permission_five() {
    let (mut world, mut alice, relay) = allocated();
    alice.refresh(&mut world, 3_600).unwrap();
    alice.bind(&mut world, PEER, 0x4000).unwrap();
    world.pass(seconds(300));
    assert_eq!(world.forward(alice.via, 0x4000, b"x").0, Forward::Drop);
    assert_eq!(world.stats().dropped_no_permission, 1);
    alice.permit(&mut world, PEER).unwrap();
    assert!(matches!(world.forward(alice.via, 0x4000, b"x").0, Forward::Peer { .. }), "a permission opens the channel again");
    world.pass(seconds(299));
    alice.bind(&mut world, PEER, 0x4000).expect("binding again is fine");
    world.pass(seconds(600));
    alice.permit(&mut world, PEER).unwrap();
    assert_eq!(world.forward(alice.via, 0x4000, b"x").0, Forward::Drop);
    datagram(&mut world, relay, PEER, b"in");
    let data = world.received(alice.via);
    assert_eq!(Message::parse(&data[0]).unwrap().method(), Method::DATA, "without the channel, an indication");
}

#[test]
fn a_channel_and_a_peer_belong_together_until_five_minutes_after_their_end() {
    let (mut world, mut alice, _) = allocated();
    alice.refresh(&mut world, 3_600).unwrap();
    alice.bind(&mut world, PEER, 0x4000).unwrap();
    assert_eq!(alice.bind(&mut world, "203.0.113.2:9000", 0x4000).unwrap_err(), 400);
    assert_eq!(alice.bind(&mut world, PEER, 0x4001).unwrap_err(), 400);
    world.pass(seconds(600));
    assert_eq!(alice.bind(&mut world, "203.0.113.2:9000", 0x4000).unwrap_err(), 400, "not reused yet");
    world.pass(seconds(301));
    alice.bind(&mut world, "203.0.113.2:9000", 0x4000).unwrap();
    alice.bind(&mut world, PEER, 0x4001).unwrap();
    assert_eq!(world.stats().channels, 2);
}

#[test]
fn what_a_channel_bind_may_ask_for() {
    let (mut world, mut alice, _) = allocated();
    for (peer, channel, code) in [
        (PEER, 0x3FFF, 400),
        (PEER, 0x8000, 400),
        ("203.0.113.1:0", 0x4000, 400),
        ("127.0.0.1:9000", 0x4000, 403),
        ("[2001:db8::1]:9", 0x4000, 443),
    ] {
        assert_eq!(alice.bind(&mut world, peer, channel).unwrap_err(), code, "{peer} {channel:#x}");
    }
    let missing = alice.request(&mut world, Method::CHANNEL_BIND, &[(Attribute::CHANNEL_NUMBER, &[0x40, 0, 0, 0])]);
    assert_eq!(missing.unwrap_err(), 400);
    assert_eq!(alice.about(&mut world, Method::CHANNEL_BIND, PEER, &[]).unwrap_err(), 400);
}

#[test]
fn peers_inside_are_forbidden_by_default_and_permissions_come_all_or_none() {
    let (mut world, mut alice, _) = allocated();
    for peer in ["127.0.0.1:80", "0.0.0.0:80", "169.254.169.254:80", "10.0.0.1:80", "224.0.0.1:80", "255.255.255.255:80"] {
        assert_eq!(alice.permit(&mut world, peer).unwrap_err(), 403, "{peer}");
    }
    let both = alice.about_all(&mut world, Method::CREATE_PERMISSION, &[PEER, "127.0.0.1:80"], &[]);
    assert_eq!((both.unwrap_err(), world.stats().permissions), (403, 0));
    alice.about_all(&mut world, Method::CREATE_PERMISSION, &[PEER, "203.0.113.2:1"], &[]).unwrap();
    assert_eq!(world.stats().permissions, 2);
    assert_eq!(alice.request(&mut world, Method::CREATE_PERMISSION, &[]).unwrap_err(), 400);
    let mut v6 = User::alice(source(9));
    v6.allocate_with(&mut world, &[(Attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])]).unwrap();
    for peer in ["[::1]:80", "[::]:80", "[::ffff:127.0.0.1]:80", "[64:ff9b::7f00:1]:80", "[fd00:ec2::254]:80", "[fe80::1]:80"] {
        assert_eq!(v6.permit(&mut world, peer).unwrap_err(), 403, "{peer}");
    }
}

#[test]
fn loopback_peers_can_be_allowed() {
    let peers = PeerPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..PeerPolicy::default() };
    let mut world = World::new(Config { peers, ..Config::default() });
    let mut alice = User::alice(udp(CLIENT));
    alice.allocate(&mut world).unwrap();
    alice.permit(&mut world, "127.0.0.1:80").unwrap();
}

#[test]
fn quotas_hold_for_each_user_and_in_all() {
    let mut config = Config::default();
    (config.limits.allocations_per_user, config.limits.allocations, config.limits.permissions, config.limits.channels) = (2, 3, 2, 1);
    let mut world = World::new(config);
    let mut first = User::alice(source(1));
    first.allocate(&mut world).unwrap();
    User::alice(source(2)).allocate(&mut world).unwrap();
    assert_eq!(User::alice(source(3)).allocate(&mut world).unwrap_err(), 486);
    User::new(source(4), "bob", "builder").allocate(&mut world).unwrap();
    assert_eq!(User::new(source(5), "bob", "builder").allocate(&mut world).unwrap_err(), 508);
    first.permit(&mut world, PEER).unwrap();
    first.bind(&mut world, "203.0.113.2:1", 0x4000).unwrap();
    assert_eq!(first.permit(&mut world, "203.0.113.3:1").unwrap_err(), 508);
    assert_eq!(first.bind(&mut world, PEER, 0x4001).unwrap_err(), 508);
    first.permit(&mut world, PEER).expect("what is there can be refreshed");
    first.refresh(&mut world, 0).unwrap();
    User::alice(source(3)).allocate(&mut world).unwrap();
    let stats = world.stats();
    assert_eq!(
        (stats.limited_allocations_per_user, stats.limited_allocations, stats.limited_permissions, stats.limited_channels),
        (1, 1, 1, 1)
    );
}

#[test]
fn bandwidth_is_limited_for_each_user_when_configured() {
    let mut config = Config::default();
    config.limits.bandwidth_per_user = Some(10_000);
    let mut world = World::new(config);
    let mut alice = User::alice(udp(CLIENT));
    alice.allocate(&mut world).unwrap();
    alice.bind(&mut world, PEER, 0x4000).unwrap();
    let through = (0..100).filter(|_| world.forward(alice.via, 0x4000, &[0; 1_000]).0 != Forward::Drop).count();
    assert_eq!((through, world.stats().dropped_bandwidth), (10, 90));
    world.pass(seconds(1));
    assert!(matches!(world.forward(alice.via, 0x4000, &[0; 1_000]).0, Forward::Peer { .. }));
}

#[test]
fn reloaded_secrets_end_the_allocations_of_those_who_are_gone() {
    let (mut world, _, relay) = allocated();
    let mut bob = User::new(source(2), "bob", "builder");
    bob.allocate(&mut world).unwrap();
    let mut secrets = campfire_turn::auth::Secrets::new();
    secrets.add_user("alice".into(), zeroize::Zeroizing::new("changed".into()));
    secrets.add_user("bob".into(), zeroize::Zeroizing::new("builder".into()));
    world.input(Input::Secrets(secrets));
    assert!(world.sent.contains(&Output::CloseRelay { relay }));
    assert_eq!(world.stats().allocations, 1);
    bob.refresh(&mut world, 600).unwrap();
}

#[test]
fn allocations_can_be_off_and_are_refused_while_draining() {
    let mut off = World::new(Config { allocations: false, ..Config::default() });
    assert_eq!(User::alice(udp(CLIENT)).allocate(&mut off).unwrap_err(), 403);
    let (mut world, mut alice, _) = allocated();
    world.input(Input::Drain);
    assert_eq!(User::alice(source(2)).allocate(&mut world).unwrap_err(), 508);
    alice.refresh(&mut world, 600).expect("who is there goes on");
}

#[test]
fn every_metric_has_a_name_of_its_own() {
    let world = world();
    let mut names: Vec<_> = world.stats().metrics().map(|metric| (metric.name, metric.label)).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// CRC-32 bit by bit, to check the table against.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
