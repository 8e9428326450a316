//! Announcements: what is sealed opens again, for that room, member and key alone.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::announce::{Announcement, AnnouncementError, MAX_SEALED, ServerRecord, Session, display_name};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::{Fingerprint, Keys, Psk};
use campfire_protocol::server::{Server, ServerTag};
use campfire_protocol::time::UnixMillis;
use campfire_protocol::wire::MemberId;

const NONCE: [u8; 24] = [9; 24];
const MEMBER: MemberId = MemberId([3; 16]);

#[test]
fn what_is_sealed_opens_again() {
    for announcement in [full(), least()] {
        let sealed = announcement.seal(&identity(), &keys(), &MEMBER, &NONCE).unwrap();
        assert!(sealed.len() <= MAX_SEALED);
        assert_eq!(Announcement::open(&sealed, &keys(), &MEMBER).unwrap(), announcement);
    }
}

#[test]
fn a_usual_announcement_has_about_300_bytes() {
    let usual = Announcement { routes: vec![], record: None, fingerprints: vec![Fingerprint([1; 8])], ..full() };
    let sealed = usual.seal(&identity(), &keys(), &MEMBER, &NONCE).unwrap();
    assert!(sealed.len() < 300, "{}", sealed.len());
}

#[test]
fn another_room_member_or_key_does_not_open_it() {
    let sealed = full().seal(&identity(), &keys(), &MEMBER, &NONCE).unwrap();
    let other = MemberId([4; 16]);
    assert_eq!(Announcement::open(&sealed, &keys(), &other), Err(AnnouncementError::Sealed));
    let another_key = Psk::from_bytes([2; 32]).derive();
    assert_eq!(Announcement::open(&sealed, &another_key, &MEMBER), Err(AnnouncementError::Sealed));
    let mut another_room = keys();
    another_room.room = another_key.room;
    assert_eq!(Announcement::open(&sealed, &another_room, &MEMBER), Err(AnnouncementError::Sealed));
    for index in 0..sealed.len() {
        let mut bent = sealed.clone();
        bent[index] ^= 1;
        assert_eq!(Announcement::open(&bent, &keys(), &MEMBER), Err(AnnouncementError::Sealed));
    }
}

#[test]
fn names_are_sanitised() {
    assert_eq!(display_name(" web\u{202e}-1\n\u{200b}\u{7} \"x\"\\ é "), "web-1 \"x\"\\ é");
    assert_eq!(display_name(&"x".repeat(100)), "x".repeat(63));
}

fn keys() -> Keys {
    Psk::from_bytes([1; 32]).derive()
}

fn identity() -> Identity {
    Identity::from_seed(&[5; 32])
}

fn least() -> Announcement {
    Announcement {
        public_key: identity().public(),
        session: Session::default(),
        sequence: 0,
        sent_at: UnixMillis(0),
        name: String::new(),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![],
        servers: vec![],
        routes: vec![],
        ipv4: None,
        features: 0,
        record: None,
    }
}

fn full() -> Announcement {
    let record = vec!["turn.example.com".parse::<Server>().unwrap(), "b=turns:[2001:db8::1]:443".parse().unwrap()];
    Announcement {
        session: Session { started: UnixMillis(1_800_000_000_000), nonce: 77 },
        sequence: 3,
        sent_at: UnixMillis(1_800_000_000_123),
        name: "web-0".into(),
        namespace: "shop".into(),
        cluster: "east".into(),
        fingerprints: vec![Fingerprint([1; 8]), Fingerprint([2; 8])],
        servers: vec![ServerTag([3; 8]), ServerTag([4; 8])],
        routes: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ipv4: Some("100.64.0.7".parse().unwrap()),
        features: 1,
        record: Some(ServerRecord { version: 9, servers: record }),
        ..least()
    }
}
