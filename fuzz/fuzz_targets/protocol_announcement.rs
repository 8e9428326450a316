//! Any bytes as the inside of a sealed announcement: what only a holder of the key can send.
#![no_main]

use std::sync::LazyLock;

use campfire_protocol::announce::{Announcement, display_name};
use campfire_protocol::key::{Keys, Psk};
use campfire_protocol::wire::MemberToken;
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Psk::from_bytes(std::array::from_fn(|index| index as u8)).derive());

fuzz_target!(|bytes: &[u8]| {
    // Key and member of crates/protocol/vectors/announcements.json: the seeds verify.
    let member = MemberToken(*b"token of member1").id();
    if let Ok(announcement) = Announcement::read_signed(bytes, &KEYS, &member) {
        assert_eq!(display_name(&announcement.name), announcement.name);
        assert!(announcement.routes.len() <= 8 && announcement.servers.len() <= 8 && announcement.fingerprints.len() <= 4);
    }
    let _ = Announcement::open(bytes, &KEYS, &member);
});
