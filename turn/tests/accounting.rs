//! State is charged to the memory limit, and given back to the last byte.

use std::time::Duration;

use campfire_protocol::credential::{campfire_key, user_name};
use campfire_protocol::key::{Psk, Tag};
use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::{Time, UnixMillis};
use campfire_protocol::wire::{Auth, CampRequest, Cursor, MemberToken};
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Input, ListenerId, Via};
use campfire_turn::{Config, Server};

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

#[test]
fn a_member_that_changes_its_tags_leaves_nothing_behind() {
    let mut server = server();
    camp(&mut server, 1, 60, b"one", vec![Tag([1; 8]); 8]);
    camp(&mut server, 1, 60, b"two", vec![]);
    assert_eq!(server.stats().seats, 1);
    assert!(server.stats().memory > 0);
    server.handle(Time::default() + Duration::from_secs(61), WALL, Input::Wake);
    assert_eq!((server.stats().seats, server.stats().memory), (0, 0));
}

#[test]
fn departures_are_charged_as_long_as_they_are_remembered() {
    let mut server = server();
    camp(&mut server, 1, 60, b"stays", vec![]);
    let alone = server.stats().memory;
    for member in 2..12 {
        camp(&mut server, member, 60, b"goes", vec![]);
        camp(&mut server, member, 0, b"goes", vec![]);
    }
    assert_eq!(server.stats().seats, 1);
    let remembered = server.stats().memory - alone;
    assert!((10 * 40..10 * 200).contains(&remembered), "{remembered} bytes for ten");
    server.handle(Time::default() + Duration::from_secs(61), WALL, Input::Wake);
    assert_eq!((server.stats().seats, server.stats().memory), (0, 0));
}

fn server() -> Server {
    let keys = Psk::from_bytes([1; 32]).derive();
    let mut secrets = Secrets::new();
    secrets.add_campfire(keys.fingerprint, keys.relay.clone());
    Server::new(Config::default(), secrets, [7; 32], Time::default(), WALL)
}

fn camp(server: &mut Server, member: u8, lifetime: u32, announcement: &[u8], tags: Vec<Tag>) {
    let keys = Psk::from_bytes([1; 32]).derive();
    let name = user_name(WALL.0 / 1_000 + 60, keys.fingerprint);
    let camp = CampRequest {
        room: keys.room,
        token: MemberToken([member; 16]),
        lifetime,
        unix_millis: WALL.0,
        announcement: Some(announcement.to_vec()),
        tags,
        cursor: Cursor::default(),
    };
    let key = campfire_key(&keys.relay, &name);
    let bytes = camp.encode(TransactionId([1; 12]), &Auth { user_name: &name, nonce: None, key: &key });
    let via = Via::Udp { listener: ListenerId(0), remote: ([192, 0, 2, member], 4_000).into() };
    server.handle(Time::default(), WALL, Input::Message { via, bytes: &bytes });
}
