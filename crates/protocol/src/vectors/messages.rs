//! Messages on STUN, announcements, control messages.

use serde_json::{Value, json};

use super::{hex, identity, psk, secret};
use crate::announce::{Announcement, AnnouncementError, SEAL_LABEL, SIGNATURE_LABEL, ServerRecord, Session, bound};
use crate::control::Control;
use crate::credential::{campfire_key, push_key, user_name};
use crate::key::Fingerprint;
use crate::server::{Server, ServerTag};
use crate::stun::{Message, TransactionId};
use crate::time::{UnixMillis, UnixSeconds};
use crate::wire::{
    Auth, BindRequest, CampRequest, CampSuccess, Cursor, Ember, Entry, Failure, FindRequest, MemberId, MemberToken, SignalRequest,
    decode_entries, encode_success,
};

const TRANSACTION: TransactionId = TransactionId(*b"transaction!");
const TOKEN: MemberToken = MemberToken(*b"token of member1");
const OTHER: MemberId = MemberId(*b"another member's");

#[expect(clippy::too_many_lines, reason = "a list of messages")]
pub fn messages() -> Value {
    let keys = secret();
    let name = user_name(1_893_456_000, keys.fingerprint);
    let key = campfire_key(&keys.relay, &name);
    let push = push_key(&keys.relay, &TOKEN.id());
    let nonce = "0123456789abcdef0123456789abcdef";
    let first = Auth { user_name: &name, nonce: None, key: &key };
    let auth = Auth { nonce: Some(nonce), ..first };
    let entries = vec![
        Entry { member: OTHER, announcement: Some(b"opaque to servers".to_vec()) },
        Entry { member: MemberId([7; 16]), announcement: None },
    ];
    let cursor = Cursor { incarnation: 0x0102_0304_0506_0708, sequence: 41 };
    let camp = CampRequest {
        room: keys.room,
        token: TOKEN,
        lifetime: 60,
        unix_millis: 1_800_000_000_123,
        announcement: Some(b"opaque to servers, too".to_vec()),
        tags: vec![keys.tag("fdde:ad00:beef::1"), keys.tag("web-0")],
        cursor: Cursor::default(),
    };
    let refresh = CampRequest { announcement: None, tags: vec![], cursor, ..camp.clone() };
    let leave = CampRequest { lifetime: 0, ..refresh.clone() };
    let success = CampSuccess {
        lifetime: 60,
        server_id: Some("east-1".into()),
        instance: *b"instance",
        unix_millis: 1_800_000_000_456,
        observed: "192.0.2.7:51820".parse().unwrap(),
        nonce: nonce.into(),
        members: 3,
        reset: true,
        cursor,
        head: 43,
        entries: entries.clone(),
        large: false,
        leaving: false,
    };
    let large = CampSuccess {
        server_id: None,
        observed: "[2001:db8::7]:51820".parse().unwrap(),
        members: 10_000,
        reset: false,
        head: 41,
        entries: vec![],
        large: true,
        leaving: true,
        ..success.clone()
    };
    let previous = Cursor { sequence: 39, ..cursor };
    let ember = Ember { to: TOKEN.id(), previous, cursor, entries: entries.clone(), leaving: false };
    let leaving = Ember { previous: cursor, entries: vec![], leaving: true, ..ember.clone() };
    let find = FindRequest { from: TOKEN.id(), tags: vec![keys.tag("web-0")] };
    let signal = SignalRequest { from: TOKEN.id(), to: OTHER, data: b"a WireGuard message".to_vec() };
    let indication = SignalRequest { from: OTHER, to: TOKEN.id(), data: b"a WireGuard message".to_vec() };
    let bind = BindRequest { from: TOKEN.id(), to: OTHER, channel: 0x4001, release: false };
    let release = BindRequest { release: true, ..bind.clone() };
    let unproven = Failure { code: 401, reason: "Unauthorized".into(), nonce: Some(nonce.into()), unix_millis: Some(1_800_000_000_456) };
    let absent = Failure { code: 404, reason: "No such member".into(), nonce: None, unix_millis: None };

    let read = |bytes: &[u8], key: &[u8; 32]| {
        let message = Message::parse(bytes).unwrap();
        message.verify_sha256(key).unwrap();
        message
    };
    let mut list = Vec::new();
    let mut add = |name: &str, key: &str, bytes: &[u8]| list.push(json!({"name": name, "integrity_key": key, "bytes": hex(bytes)}));

    for (name, camp, auth) in
        [("camp_first", &camp, &first), ("camp_with_nonce", &camp, &auth), ("camp_refresh", &refresh, &auth), ("camp_leave", &leave, &auth)]
    {
        let bytes = camp.encode(TRANSACTION, auth);
        assert_eq!(CampRequest::decode(&read(&bytes, &key)).unwrap(), *camp);
        add(name, "campfire_key", &bytes);
    }
    for (name, success) in [("camp_success", &success), ("camp_success_of_a_large_room", &large)] {
        let bytes = success.encode(TRANSACTION, &key);
        assert_eq!(CampSuccess::decode(&read(&bytes, &key)).unwrap(), *success);
        add(name, "campfire_key", &bytes);
    }
    for (name, ember) in [("ember", &ember), ("ember_leaving", &leaving)] {
        let bytes = ember.encode(TRANSACTION, &push);
        assert_eq!(Ember::decode(&read(&bytes, &push)).unwrap(), *ember);
        add(name, "push_key", &bytes);
    }
    let bytes = find.encode(TRANSACTION, &auth);
    let request = read(&bytes, &key);
    assert_eq!(FindRequest::decode(&request).unwrap(), find);
    add("find", "campfire_key", &bytes);
    let bytes = encode_success(&request, &entries[..1], &key);
    assert_eq!(decode_entries(&read(&bytes, &key)).unwrap(), entries[..1]);
    add("find_success", "campfire_key", &bytes);
    let bytes = signal.encode(TRANSACTION, &auth);
    let request = read(&bytes, &key);
    assert_eq!(SignalRequest::decode(&request).unwrap(), signal);
    add("signal", "campfire_key", &bytes);
    add("signal_success", "campfire_key", &encode_success(&request, &[], &key));
    let bytes = indication.encode_indication(TRANSACTION, &push);
    assert_eq!(SignalRequest::decode(&read(&bytes, &push)).unwrap(), indication);
    add("signal_indication", "push_key", &bytes);
    for (name, bind) in [("bind", &bind), ("bind_release", &release)] {
        let bytes = bind.encode(TRANSACTION, &auth);
        let request = read(&bytes, &key);
        assert_eq!(BindRequest::decode(&request).unwrap(), *bind);
        add(name, "campfire_key", &bytes);
        add(&format!("{name}_success"), "campfire_key", &encode_success(&request, &[], &key));
    }
    let bytes = unproven.encode(&read(&camp.encode(TRANSACTION, &first), &key), None);
    assert_eq!(Failure::decode(&Message::parse(&bytes).unwrap()).unwrap(), unproven);
    add("camp_failure_unproven", "none", &bytes);
    let bytes = absent.encode(&request, Some(&key));
    assert_eq!(Failure::decode(&read(&bytes, &key)).unwrap(), absent);
    add("signal_failure_no_such_member", "campfire_key", &bytes);

    let json_entries = json!([
        {"member": hex(OTHER.0), "announcement": hex("opaque to servers")},
        {"member": hex([7; 16]), "announcement": null},
    ]);
    let json_cursor = |sequence: u64| json!({"incarnation": "0102030405060708", "sequence": sequence});
    json!({
        "psk_fingerprint": keys.fingerprint.to_string(),
        "transaction": hex(TRANSACTION.0),
        "user_name": name,
        "nonce": nonce,
        "campfire_key": hex(*key),
        "push_key": hex(*push),
        "member_token": hex(TOKEN.0),
        "member_id": hex(TOKEN.id().0),
        "other_member_id": hex(OTHER.0),
        "fields": {
            "camp_first, camp_with_nonce": {
                "room": hex(keys.room.0), "lifetime": 60, "unix_millis": camp.unix_millis, "cursor": "zero",
                "announcement": hex("opaque to servers, too"), "tags_of": ["fdde:ad00:beef::1", "web-0"],
            },
            "camp_refresh, camp_leave": {"lifetime": [60, 0], "cursor": json_cursor(41)},
            "camp_success": {
                "lifetime": 60, "server_id": "east-1", "instance": hex(success.instance), "unix_millis": success.unix_millis, "observed": "192.0.2.7:51820", "members": 3,
                "reset": true, "cursor": json_cursor(41), "head": 43, "entries": json_entries,
            },
            "camp_success_of_a_large_room": {
                "observed": "[2001:db8::7]:51820", "members": 10_000, "large": true, "head": 41, "leaving": true,
            },
            "ember": {"previous": json_cursor(39), "cursor": json_cursor(41), "entries": json_entries},
            "ember_leaving": {"previous": json_cursor(41), "cursor": json_cursor(41), "leaving": true},
            "find": {"tags_of": ["web-0"]},
            "find_success": {"entries": "the first of ember's"},
            "signal, signal_indication": {"data": hex("a WireGuard message")},
            "bind, bind_release": {"channel": 0x4001},
            "camp_failure_unproven": {"code": 401, "reason": "Unauthorized", "unix_millis": 1_800_000_000_456_u64},
            "signal_failure_no_such_member": {"code": 404, "reason": "No such member"},
        },
        "messages": list,
    })
}

pub fn announcements() -> Value {
    let keys = secret();
    let member = TOKEN.id();
    let nonce: [u8; 24] = std::array::from_fn(|index| 0x40 + index as u8);
    let least = Announcement {
        public_key: identity(1).public(),
        session: Session { started: UnixMillis(1_800_000_000_000), nonce: 0x0102_0304_0506_0708 },
        sequence: 0,
        sent_at: UnixMillis(1_800_000_000_123),
        name: String::new(),
        namespace: String::new(),
        cluster: String::new(),
        fingerprints: vec![],
        servers: vec![],
        routes: vec![],
        ipv4: None,
        features: 0,
        record: None,
    };
    let servers: Vec<Server> = vec![
        "turn.example.com".parse().unwrap(),
        "east-1=turns:[2001:db8::1]:443?cert=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".parse().unwrap(),
    ];
    let usual = Announcement {
        sequence: 7,
        name: "web-0".into(),
        namespace: "shop".into(),
        cluster: "east".into(),
        fingerprints: vec![keys.fingerprint, Fingerprint([2; 8])],
        servers: vec![ServerTag([3; 8]), ServerTag([4; 8])],
        ..least.clone()
    };
    let full = Announcement {
        sequence: u32::MAX,
        routes: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ipv4: Some("100.64.0.7".parse().unwrap()),
        features: 1,
        record: Some(ServerRecord { version: 9, servers }),
        ..usual.clone()
    };
    let list: Vec<Value> = [("least", &least), ("usual", &usual), ("full", &full)]
        .into_iter()
        .map(|(name, announcement)| {
            let content = announcement.encode().unwrap();
            let signed = bound(SIGNATURE_LABEL, &keys, &member, &content);
            let sealed = announcement.seal(&identity(1), &keys, &member, &nonce).unwrap();
            assert_eq!(Announcement::open(&sealed, &keys, &member).unwrap(), *announcement);
            json!({
                "name": name,
                "fields": fields(announcement),
                "content": hex(&content),
                "signed": hex(&signed),
                "signature": hex(identity(1).sign(&signed)),
                "plaintext": hex(announcement.write_signed(&identity(1), &keys, &member).unwrap()),
                "sealed": hex(&sealed),
            })
        })
        .collect();
    let sealed = usual.seal(&identity(1), &keys, &member, &nonce).unwrap();
    let mut bent = sealed.clone();
    bent[100] ^= 1;
    for (sealed, member) in [(&bent, member), (&sealed, OTHER)] {
        assert_eq!(Announcement::open(sealed, &keys, &member), Err(AnnouncementError::Sealed));
    }
    json!({
        "psk": psk().to_text().to_string(),
        "seed": hex(*identity(1).seed()),
        "room": hex(keys.room.0),
        "announce_key": hex(*keys.announce),
        "member_id": hex(member.0),
        "nonce": hex(nonce),
        "aad": hex(bound(SEAL_LABEL, &keys, &member, &[])),
        "announcements": list,
        "refused": [
            {"why": "changed", "member_id": hex(member.0), "sealed": hex(bent)},
            {"why": "another member's", "member_id": hex(OTHER.0), "sealed": hex(sealed)},
        ],
    })
}

pub fn control() -> Value {
    let addresses = vec!["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap()];
    let all = [
        Control::Candidates { addresses: addresses.clone(), symmetric: true, udp_blocked: false, forbidden: false, generation: 9 },
        Control::Candidates { addresses: vec![], symmetric: false, udp_blocked: true, forbidden: true, generation: 0 },
        Control::Punch { attempt: 1 },
        Control::PunchAck { attempt: 1, ready: true },
        Control::PunchAck { attempt: 300, ready: false },
        Control::Probe { id: u64::MAX, size: 0 },
        Control::Probe { id: 5, size: 40 },
        Control::ProbeReply { id: 5, observed: Some(addresses[1]), size: 40 },
        Control::ProbeReply { id: 5, observed: None, size: 0 },
        Control::Goodbye,
        Control::Chain { chain: vec![7; 24], held: None },
        Control::Chain { chain: vec![7], held: Some(UnixSeconds(1_800_000_000)) },
    ];
    let list: Vec<Value> = all
        .into_iter()
        .map(|control| {
            let bytes = control.encode();
            assert_eq!(Control::decode(&bytes), Ok(Some(control.clone())));
            json!({"message": format!("{control:?}"), "bytes": hex(bytes)})
        })
        .collect();
    let accepted = [("8302050700", "Punch with an element more and padding"), ("811863", "unknown kind: ignored")];
    let refused = [
        ("", "empty"),
        ("8102", "too few elements"),
        ("9f06ff", "indefinite length"),
        ("83040518c8", "a probe shorter than its size"),
        (
            "8401894600000000000046000000000000460000000000004600000000000046000000000000460000000000004600000000000046000000000000460000000000000000",
            "nine addresses",
        ),
        ("84018145000000000000", "an address of five bytes"),
        ("830740f6", "an empty chain"),
    ];
    for (bytes, why) in accepted {
        assert!(Control::decode(&hex::decode(bytes).unwrap()).is_ok(), "{why}");
    }
    for (bytes, why) in refused {
        assert!(Control::decode(&hex::decode(bytes).unwrap()).is_err(), "{why}");
    }
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(bytes, why)| json!({"bytes": bytes, "why": why})).collect::<Value>();
    json!({"messages": list, "also_taken": pairs(&accepted), "refused": pairs(&refused)})
}

fn fields(announcement: &Announcement) -> Value {
    let record = announcement.record.as_ref().map(|record| {
        let servers: Vec<Value> = record.servers.iter().map(super::texts::server).collect();
        json!({"version": record.version, "servers": servers})
    });
    json!({
        "public_key": announcement.public_key.to_string(),
        "session": {"started": announcement.session.started.0, "nonce": hex(announcement.session.nonce.to_be_bytes())},
        "sequence": announcement.sequence,
        "sent_at": announcement.sent_at.0,
        "name": announcement.name,
        "namespace": announcement.namespace,
        "cluster": announcement.cluster,
        "fingerprints": announcement.fingerprints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "servers": announcement.servers.iter().map(|tag| hex(tag.0)).collect::<Vec<_>>(),
        "routes": announcement.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ipv4": announcement.ipv4,
        "features": announcement.features,
        "record": record,
    })
}
