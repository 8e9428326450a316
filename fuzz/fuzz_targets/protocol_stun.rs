//! Any bytes as a STUN message: framing, every way to read an attribute, integrity.
#![no_main]

use campfire_protocol::stun::{Attribute, Message};
use campfire_protocol::wire::KNOWN;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::parse(bytes) else { return };
    assert_eq!(message.as_bytes(), bytes);
    let _ = (message.class(), message.method(), message.transaction(), message.error_code());
    let _ = (message.verify_sha256(b"key"), message.verify_sha1(b"key"));
    let _ = message.unknown_required(&KNOWN);
    for attribute in (0..0x30).chain(0x4C00..0x4C12).chain(0x8000..0x8030).map(Attribute) {
        let _ = (message.u32(attribute), message.text(attribute), message.xor_address(attribute), message.xor_addresses(attribute));
    }
});
