//! State is given back to the last byte.

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
    let keys = Psk::from_bytes([1; 32]).derive();
    let name = user_name(WALL.0 / 1_000 + 60, keys.fingerprint);
    let key = campfire_key(&keys.relay, &name);
    let mut secrets = Secrets::new();
    secrets.add_campfire(keys.fingerprint, keys.relay.clone());
    let mut server = Server::new(Config::default(), secrets, [7; 32], Time::default(), WALL);
    let via = Via::Udp { listener: ListenerId(0), remote: ([192, 0, 2, 1], 4_000).into() };
    for (announcement, tags) in [(b"one", vec![Tag([1; 8]); 8]), (b"two", vec![])] {
        let camp = CampRequest {
            room: keys.room,
            token: MemberToken([1; 16]),
            lifetime: 60,
            unix_millis: WALL.0,
            announcement: Some(announcement.to_vec()),
            tags,
            cursor: Cursor::default(),
        };
        let bytes = camp.encode(TransactionId([1; 12]), &Auth { user_name: &name, nonce: None, key: &key });
        server.handle(Time::default(), WALL, Input::Message { via, bytes: &bytes });
        assert_eq!(server.stats().seats, 1);
    }
    assert!(server.stats().memory > 0);
    server.handle(Time::default() + Duration::from_secs(61), WALL, Input::Wake);
    assert_eq!((server.stats().seats, server.stats().memory), (0, 0));
}
