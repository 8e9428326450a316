//! Whatever comes in, nothing panics, nothing grows, and nothing that was not said is believed.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::announce::Announcement;
use campfire_protocol::certificate::Chain;
use campfire_protocol::control::{Control, MAX_CONTROL};
use campfire_protocol::credential::parse_user_name;
use campfire_protocol::key::{Keys, Psk, RoomId};
use campfire_protocol::server::Server;
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method, StunError, TransactionId};
use campfire_protocol::uri::CampUri;
use campfire_protocol::wire::{
    Auth, BindRequest, CampRequest, CampSuccess, Cursor, Ember, Failure, FindRequest, KNOWN, MAX_ENTRIES, MemberId, MemberToken,
    SignalRequest, decode_entries,
};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..1_500)) {
        read_everything(&bytes);
    }

    #[test]
    fn any_attributes_in_a_well_formed_message_are_read_without_a_panic(
        class in 0..4_u8, method in method(), attributes in vec((attribute(), vec(any::<u8>(), 0..64)), 0..40)
    ) {
        let class = [Class::Request, Class::Indication, Class::Success, Class::Error][usize::from(class)];
        let mut builder = Builder::new(class, method, TransactionId([7; 12]));
        for (attribute, value) in &attributes {
            builder = builder.attribute(*attribute, value);
        }
        let bytes = builder.finish_sha256(b"key");
        match Message::parse(&bytes) {
            Ok(message) => {
                prop_assert!(attributes.len() < 32);
                prop_assert_eq!((message.class(), message.method()), (class, method));
                let forged = attributes.iter().any(|(attribute, _)| *attribute == Attribute::MESSAGE_INTEGRITY_SHA256);
                prop_assert_eq!(message.verify_sha256(b"key").is_ok(), !forged);
                read_everything(&bytes);
            }
            Err(error) => {
                prop_assert!(attributes.len() >= 32);
                prop_assert_eq!(error, StunError::Attributes);
            }
        }
    }

    #[test]
    fn one_changed_byte_breaks_integrity_or_framing(index in any::<prop::sample::Index>(), change in 1..=255_u8, sha1 in any::<bool>()) {
        let builder = Builder::new(Class::Request, Method::CAMP, TransactionId([7; 12])).attribute(Attribute::CAMP_ROOM, &[1; 32]);
        let mut bytes = if sha1 { builder.finish_sha1(b"key") } else { builder.finish_sha256(b"key") };
        let index = index.index(bytes.len());
        bytes[index] ^= change;
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.verify_sha256(b"key").is_err());
            prop_assert!(message.verify_sha1(b"key").is_err());
        }
    }

    #[test]
    fn any_camp_survives(
        room: [u8; 32], token: [u8; 16], lifetime: u32, unix_millis: u64, incarnation: u64, sequence: u64,
        announcement in prop::option::of(vec(any::<u8>(), 1..=700)), tags in vec(any::<[u8; 8]>(), 0..=8), first: bool
    ) {
        let camp = CampRequest {
            room: RoomId(room), token: MemberToken(token), lifetime, unix_millis, announcement,
            tags: tags.into_iter().map(campfire_protocol::key::Tag).collect(), cursor: Cursor { incarnation, sequence },
        };
        let auth = Auth { user_name: "1:a", nonce: (!first).then_some("nonce"), key: &[1; 32] };
        let bytes = camp.encode(TransactionId([2; 12]), &auth);
        prop_assert!(bytes.len() <= 1_200);
        prop_assert_eq!(CampRequest::decode(&Message::parse(&bytes).unwrap()).unwrap(), camp);
    }

    #[test]
    fn any_bytes_as_control_give_nothing_or_a_message_whose_answer_is_no_larger(bytes in vec(any::<u8>(), 0..100), kind in 0..8_u8) {
        let array = [&[0x84, kind], bytes.as_slice()].concat();
        for bytes in [bytes, array] {
            if let Ok(Some(control)) = Control::decode(&bytes) {
                prop_assert_eq!(Control::decode(&control.encode()), Ok(Some(control.clone())));
                if let Control::Probe { size, .. } = control {
                    prop_assert!(usize::from(size) <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn any_text_is_no_server_or_one_with_an_id_and_an_address(text in ".{0,80}", spelled in "([a-z]{1,3}=)?(turns?:)?[a-zA-Z0-9.:\\[\\]-]{0,20}(\\?[a-z=&]{0,20})?") {
        for text in [text, spelled] {
            if let Ok(server) = text.parse::<Server>() {
                prop_assert!(!server.addresses.is_empty() && !server.id.as_str().is_empty());
                prop_assert!(server.addresses.iter().all(|address| address.port != 0));
            }
        }
    }

    #[test]
    fn any_text_is_no_uri_or_one_that_survives(
        text in ".{0,120}",
        path in "(([a-c]=)?[a-c](:(99|443|3478|5349))?/){0,5}([a-c]=)?[a-c](:5349)?",
        query in "(&?net=0123456789)?(&transport=(udp|tcp|tls|tls,udp|tcp,udp,tls))?(&cert=A{43})?"
    ) {
        let _ = text.parse::<CampUri>();
        let text = format!("camp://{path}?{query}#{}", "A".repeat(43));
        let mut uri: CampUri = text.parse().unwrap();
        let mut again: CampUri = uri.to_text().parse().unwrap();
        uri.servers.iter_mut().chain(&mut again.servers).for_each(|server| server.addresses.sort());
        prop_assert_eq!(again, uri);
    }

    #[test]
    fn any_text_is_no_key_or_that_key(text in ".{0,70}", bytes: [u8; 32]) {
        if let Err(error) = text.parse::<Psk>() {
            prop_assert!(text.trim().chars().count() < 4 || !error.to_string().contains(text.trim()));
        }
        let psk = Psk::from_bytes(bytes);
        prop_assert_eq!(&psk.to_text().parse::<Psk>().unwrap(), &psk);
        let debug = format!("{psk:?}{:?}", psk.derive());
        prop_assert!(!debug.contains(psk.to_text().as_str()));
        let _ = parse_user_name(&text);
    }
}

#[test]
fn framing_that_is_off_by_anything_is_refused() {
    let good = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).attribute(Attribute::USERNAME, b"name").finish();
    assert!(Message::parse(&good).is_ok());
    for length in 0..good.len() {
        assert!(Message::parse(&good[..length]).is_err());
    }
    assert_eq!(Message::parse(&[good.as_slice(), &[0]].concat()).unwrap_err(), StunError::NotStun);
    assert_eq!(Message::parse(&[good.as_slice(), &[0; 4]].concat()).unwrap_err(), StunError::NotStun);
    let change = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        Message::parse(&bytes).unwrap_err()
    };
    assert_eq!(change(0, 0x40), StunError::NotStun);
    assert_eq!(change(0, 0x80), StunError::NotStun);
    assert_eq!(change(3, 4), StunError::NotStun);
    assert_eq!(change(4, 0x20), StunError::NotStun);
    assert_eq!(change(23, 5), StunError::Attributes);
    assert_eq!(change(22, 1), StunError::Attributes);
}

#[test]
fn a_message_may_have_32_attributes_and_no_more() {
    let with = |count| {
        let start = Builder::new(Class::Request, Method::BINDING, TransactionId::default());
        (0..count).fold(start, |builder, _| builder.attribute(Attribute::DATA, &[])).finish()
    };
    assert!(Message::parse(&with(32)).is_ok());
    assert_eq!(Message::parse(&with(33)).unwrap_err(), StunError::Attributes);
    // The largest message there is, all of it empty attributes.
    assert_eq!(Message::parse(&with(16_370)).unwrap_err(), StunError::Attributes);
}

#[test]
fn attributes_behind_an_integrity_attribute_do_not_count() {
    let start = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).attribute(Attribute::USERNAME, b"a");
    let mut bytes = start.finish_sha256(b"key");
    bytes.extend_from_slice(&[0x00, 0x06, 0, 1, b'b', 0, 0, 0, 0x00, 0x15, 0, 0, 0x4C, 0x7F, 0, 0]);
    let length = u16::try_from(bytes.len() - 20).unwrap();
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let message = Message::parse(&bytes).unwrap();
    message.verify_sha256(b"key").unwrap();
    assert_eq!(message.all(Attribute::USERNAME).collect::<Vec<_>>(), [b"a"]);
    assert_eq!(message.get(Attribute::NONCE), None);
    assert_eq!(message.unknown_required(&[]), []);
}

#[test]
fn a_truncated_or_doubled_integrity_attribute_is_refused() {
    let start = || Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).attribute(Attribute::USERNAME, b"a");
    let good = start().finish_sha256(b"key");
    let mac = &good[good.len() - 32..];
    for length in [0, 4, 16, 28] {
        let truncated = start().attribute(Attribute::MESSAGE_INTEGRITY_SHA256, &mac[..length]).finish();
        assert_eq!(Message::parse(&truncated).unwrap().verify_sha256(b"key"), Err(StunError::Integrity));
    }
    let doubled = start().attribute(Attribute::MESSAGE_INTEGRITY_SHA256, &[0; 32]).finish_sha256(b"key");
    assert_eq!(Message::parse(&doubled).unwrap().verify_sha256(b"key"), Err(StunError::Integrity));
}

#[test]
fn wrong_sizes_of_attributes_are_refused() {
    let request = |attribute: Attribute, value: &[u8]| {
        let all: [(Attribute, &[u8]); 6] = [
            (Attribute::CAMP_ROOM, &[1; 32]),
            (Attribute::CAMP_TOKEN, &[1; 16]),
            (Attribute::LIFETIME, &[1; 4]),
            (Attribute::CAMP_TIME, &[1; 8]),
            (Attribute::CAMP_CURSOR, &[1; 16]),
            (Attribute::CAMP_TAGS, &[1; 8]),
        ];
        let mut builder = Builder::new(Class::Request, Method::CAMP, TransactionId::default()).attribute(attribute, value);
        for (attribute, value) in all {
            builder = builder.attribute(attribute, value);
        }
        CampRequest::decode(&Message::parse(&builder.finish()).unwrap())
    };
    assert!(request(Attribute::USERNAME, b"a").is_ok());
    for (attribute, size) in [
        (Attribute::CAMP_ROOM, 31),
        (Attribute::CAMP_ROOM, 33),
        (Attribute::CAMP_TOKEN, 0),
        (Attribute::LIFETIME, 8),
        (Attribute::CAMP_TIME, 4),
        (Attribute::CAMP_CURSOR, 15),
        (Attribute::CAMP_TAGS, 7),
        (Attribute::CAMP_TAGS, 72),
        (Attribute::CAMP_ANNOUNCEMENT, 0),
        (Attribute::CAMP_ANNOUNCEMENT, 701),
    ] {
        assert_eq!(request(attribute, &vec![1; size]), Err(StunError::Malformed(attribute.0)), "{attribute:?} of {size}");
    }
    assert_eq!(request(Attribute::DATA, &[1; 1_200]), Err(StunError::Unexpected));
}

#[test]
fn more_entries_than_a_message_may_have_are_refused() {
    let decode = |entries| {
        let mut builder = Builder::new(Class::Success, Method::FIND, TransactionId([7; 12]));
        for _ in 0..entries {
            builder = builder.attribute(Attribute::CAMP_ENTRY, &[1; 16]);
        }
        decode_entries(&Message::parse(&builder.finish()).unwrap()).map(|entries| entries.len())
    };
    assert_eq!(decode(MAX_ENTRIES), Ok(MAX_ENTRIES));
    assert_eq!(decode(MAX_ENTRIES + 1), Err(StunError::Malformed(Attribute::CAMP_ENTRY.0)));
}

#[test]
fn a_bind_takes_channels_of_the_range_alone() {
    for (channel, good) in [(0x3FFF, false), (0x4000, true), (0x4FFF, true), (0x5000, false), (0, false)] {
        let bind = BindRequest { from: MemberId([1; 16]), to: MemberId([2; 16]), channel, release: false };
        let bytes = bind.encode(TransactionId::default(), &Auth { user_name: "1:a", nonce: None, key: &[1; 32] });
        assert_eq!(BindRequest::decode(&Message::parse(&bytes).unwrap()).is_ok(), good);
    }
}

#[test]
fn what_a_server_says_to_people_has_no_control_characters() {
    let bytes = Builder::new(Class::Error, Method::CAMP, TransactionId::default())
        .error_code(508, &format!("full\u{1b}[2J\n{}", "x".repeat(500)))
        .finish();
    let failure = Failure::decode(&Message::parse(&bytes).unwrap()).unwrap();
    assert_eq!(failure.reason, format!("full[2J{}", "x".repeat(121)));
}

#[test]
fn a_control_message_is_no_longer_than_its_limit() {
    assert_eq!(Control::Probe { id: 1, size: u16::MAX }.encode().len(), MAX_CONTROL);
    assert!(Control::decode(&[&[0x81, 0x06], vec![0; MAX_CONTROL].as_slice()].concat()).is_err());
    let endless = [0x9F, 0x06, 0xFF];
    assert!(Control::decode(&endless).is_err());
    let many = [[0x9B].as_slice(), &[0xFF; 8], &[0x06]].concat();
    assert_eq!(Control::decode(&many), Ok(Some(Control::Goodbye)));
    let addresses = [[0x84, 0x01, 0x9B].as_slice(), &[0xFF; 8]].concat();
    assert!(Control::decode(&addresses).is_err());
}

#[test]
fn a_builder_leaves_out_what_cannot_be_said() {
    let builder = Builder::new(Class::Indication, Method::DATA, TransactionId::default());
    let bytes = builder.attribute(Attribute::DATA, &vec![0; 65_000]).attribute(Attribute::CAMP_DATA, &vec![0; 70_000]).finish_sha256(b"k");
    assert!(bytes.len() <= 20 + 65_532);
    Message::parse(&bytes).unwrap().verify_sha256(b"k").unwrap();
}

fn read_everything(bytes: &[u8]) {
    let _ = Chain::from_bytes(bytes);
    if let Ok(message) = Message::parse(bytes) {
        let _ = (message.verify_sha256(b"key"), message.verify_sha1(b"key"), message.error_code(), message.unknown_required(&KNOWN));
        let _ = (message.xor_addresses(Attribute::XOR_PEER_ADDRESS), message.xor_address(Attribute::XOR_MAPPED_ADDRESS));
        let _ = (message.text(Attribute::USERNAME), message.u32(Attribute::LIFETIME));
        let _ = (CampRequest::decode(&message), CampSuccess::decode(&message), Ember::decode(&message), Failure::decode(&message));
        let _ = (FindRequest::decode(&message), SignalRequest::decode(&message), BindRequest::decode(&message), decode_entries(&message));
    }
    let member = MemberId([1; 16]);
    assert!(Announcement::open(bytes, &keys(), &member).is_err());
    let _ = Announcement::read_signed(bytes, &keys(), &member);
    let _ = Control::decode(bytes);
}

fn keys() -> Keys {
    Psk::from_bytes([1; 32]).derive()
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![(0..0x1000_u16).prop_map(Method), (0xF1..0xF8_u16).prop_map(Method)]
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let standard = (0..0x30_u16).prop_map(Attribute);
    prop_oneof![prop::sample::select(KNOWN.to_vec()), standard.clone(), standard, any::<u16>().prop_map(Attribute)]
}
