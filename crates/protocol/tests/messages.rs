//! Every message of the wire survives its own encoding, within its bounds and under its key.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::key::{RoomId, Tag};
use campfire_protocol::stun::{Attribute, Builder, Class, MAX_MESSAGE, Message, Method, StunError, TransactionId};
use campfire_protocol::wire::{
    Auth, BindRequest, CampRequest, CampSuccess, Cursor, Ember, Entry, Failure, FindRequest, MAX_ENTRIES, MemberId, MemberToken,
    SignalRequest, decode_entries, encode_success,
};

const KEY: [u8; 32] = [7; 32];
const TRANSACTION: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

#[test]
fn a_first_camp_is_padded_to_1200_bytes_and_a_later_one_is_not() {
    let camp = camp();
    let first = camp.encode(TRANSACTION, &Auth { user_name: "1893456000:0011223344556677", nonce: None, key: &KEY });
    assert_eq!(first.len(), MAX_MESSAGE);
    let later = camp.encode(TRANSACTION, &auth());
    assert!(later.len() < MAX_MESSAGE);
    for bytes in [first, later] {
        let message = checked(&bytes);
        assert_eq!(message.text(Attribute::USERNAME).unwrap(), Some("1893456000:0011223344556677"));
        assert_eq!(CampRequest::decode(&message).unwrap(), camp);
    }
}

#[test]
fn the_largest_camp_fits_in_1200_bytes() {
    let camp = CampRequest { announcement: Some(vec![9; 700]), tags: vec![Tag([1; 8]); 8], ..camp() };
    let nonce = "n".repeat(128);
    let bytes = camp.encode(TRANSACTION, &Auth { user_name: "18934560000:0011223344556677", nonce: Some(&nonce), key: &KEY });
    assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
    assert_eq!(CampRequest::decode(&checked(&bytes)).unwrap(), camp);
}

#[test]
fn a_camp_success_survives_and_knows_its_length() {
    for success in [success(), CampSuccess { server_id: None, reset: false, leaving: true, large: false, entries: vec![], ..success() }] {
        let bytes = success.encode(TRANSACTION, &KEY);
        assert_eq!(bytes.len(), success.encoded_len());
        assert_eq!(CampSuccess::decode(&checked(&bytes)).unwrap(), success);
    }
}

#[test]
fn a_page_is_filled_up_to_1200_bytes_and_20_entries() {
    for size in [0, 1, 250, 700] {
        let entry = Entry { member: MemberId([5; 16]), announcement: (size > 0).then(|| vec![1; size]) };
        let mut success = CampSuccess { entries: vec![], ..success() };
        let mut ember = Ember { entries: vec![], ..ember() };
        while success.fits(&entry) {
            success.entries.push(entry.clone());
        }
        while ember.fits(&entry) {
            ember.entries.push(entry.clone());
        }
        let page = success.encode(TRANSACTION, &KEY);
        let push = ember.encode(TRANSACTION, &KEY);
        assert_eq!(CampSuccess::decode(&checked(&page)).unwrap(), success);
        assert_eq!(Ember::decode(&checked(&push)).unwrap(), ember);
        for (bytes, count) in [(page, success.entries.len()), (push, ember.entries.len())] {
            assert!(bytes.len() <= MAX_MESSAGE);
            assert!(count == MAX_ENTRIES || bytes.len() + entry.encoded_len() > MAX_MESSAGE);
        }
    }
}

#[test]
fn an_ember_survives() {
    let bytes = ember().encode(TRANSACTION, &KEY);
    assert_eq!(bytes.len(), ember().encoded_len());
    assert_eq!(Ember::decode(&checked(&bytes)).unwrap(), ember());
}

#[test]
fn find_signal_and_bind_survive() {
    let (from, to) = (MemberId([1; 16]), MemberId([2; 16]));
    let find = FindRequest { from, tags: vec![Tag([3; 8]); 16] };
    assert_eq!(FindRequest::decode(&checked(&find.encode(TRANSACTION, &auth()))).unwrap(), find);
    let signal = SignalRequest { from, to, data: vec![4; 1_000] };
    let bytes = signal.encode(TRANSACTION, &auth());
    assert!(bytes.len() <= MAX_MESSAGE);
    assert_eq!(SignalRequest::decode(&checked(&bytes)).unwrap(), signal);
    for release in [false, true] {
        let bind = BindRequest { from, to, channel: 0x4FFF, release };
        assert_eq!(BindRequest::decode(&checked(&bind.encode(TRANSACTION, &auth()))).unwrap(), bind);
    }
}

#[test]
fn a_signal_indication_may_carry_a_relayed_frame_and_a_request_may_not() {
    let (from, to) = (MemberId([1; 16]), MemberId([2; 16]));
    let frame = SignalRequest { from, to, data: vec![4; 1_420] };
    let bytes = frame.encode_indication(TRANSACTION, &KEY);
    assert_eq!(SignalRequest::decode(&checked(&bytes)).unwrap(), frame);
    let longer = SignalRequest { data: vec![4; 1_421], ..frame.clone() };
    assert!(SignalRequest::decode(&checked(&longer.encode_indication(TRANSACTION, &KEY))).is_err());
    let request = SignalRequest { data: vec![4; 1_001], ..frame };
    assert!(SignalRequest::decode(&checked(&request.encode(TRANSACTION, &auth()))).is_err());
}

#[test]
fn a_find_answer_leaves_out_what_does_not_fit() {
    let find = FindRequest { from: MemberId([1; 16]), tags: vec![Tag([3; 8])] };
    let request = checked(&find.encode(TRANSACTION, &auth()));
    let entries: Vec<Entry> = (0..10).map(|n| Entry { member: MemberId([n; 16]), announcement: Some(vec![n; 300]) }).collect();
    let bytes = encode_success(&request, &entries, &KEY);
    assert!(bytes.len() <= MAX_MESSAGE);
    assert_eq!(decode_entries(&checked(&bytes)).unwrap(), entries[..3]);
}

#[test]
fn a_failure_says_nonce_and_time_in_140_bytes() {
    let request = checked(&camp().encode(TRANSACTION, &auth()));
    let failure = Failure { code: 401, reason: "Unauthorized".into(), nonce: Some("0".repeat(56)), unix_millis: Some(1_800_000_000_000) };
    let bytes = failure.encode(&request, None);
    assert!(bytes.len() <= 140, "{}", bytes.len());
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(Failure::decode(&message).unwrap(), failure);
    assert_eq!(message.verify_sha256(&KEY), Err(StunError::Integrity));
    assert_eq!(Failure::decode(&checked(&failure.encode(&request, Some(&KEY)))).unwrap(), failure);
}

#[test]
fn a_message_of_another_method_or_class_is_refused() {
    let camp = checked(&camp().encode(TRANSACTION, &auth()));
    assert_eq!(FindRequest::decode(&camp), Err(StunError::Unexpected));
    assert_eq!(BindRequest::decode(&camp), Err(StunError::Unexpected));
    assert_eq!(SignalRequest::decode(&camp), Err(StunError::Unexpected));
    assert_eq!(CampSuccess::decode(&camp), Err(StunError::Unexpected));
    assert_eq!(Ember::decode(&camp), Err(StunError::Unexpected));
    assert_eq!(Failure::decode(&camp), Err(StunError::Unexpected));
    let success = Message::parse(&Builder::answer(Class::Success, &camp).finish()).unwrap();
    assert_eq!(CampRequest::decode(&success), Err(StunError::Unexpected));
    assert_eq!((success.method(), success.transaction()), (Method::CAMP, TRANSACTION));
}

fn camp() -> CampRequest {
    CampRequest {
        room: RoomId([0xAB; 32]),
        token: MemberToken([0xCD; 16]),
        lifetime: 60,
        unix_millis: 1_800_000_000_123,
        announcement: Some(vec![0xEF; 251]),
        tags: vec![Tag([1; 8]), Tag([2; 8])],
        cursor: Cursor { incarnation: 0x0102_0304_0506_0708, sequence: 42 },
    }
}

fn success() -> CampSuccess {
    CampSuccess {
        lifetime: 60,
        server_id: Some("turn-1".into()),
        instance: [5; 8],
        unix_millis: 1_800_000_000_456,
        observed: "[2001:db8::1]:51820".parse().unwrap(),
        nonce: "some nonce".into(),
        members: 300,
        reset: true,
        cursor: Cursor { incarnation: 1, sequence: 2 },
        head: 3,
        entries: entries(),
        large: true,
        leaving: false,
    }
}

fn ember() -> Ember {
    Ember {
        to: MemberId([4; 16]),
        previous: Cursor { incarnation: 1, sequence: 2 },
        cursor: Cursor { incarnation: 1, sequence: 4 },
        entries: entries(),
        leaving: true,
    }
}

fn entries() -> Vec<Entry> {
    vec![Entry { member: MemberId([5; 16]), announcement: Some(vec![6; 333]) }, Entry { member: MemberId([7; 16]), announcement: None }]
}

fn auth() -> Auth<'static> {
    Auth { user_name: "1893456000:0011223344556677", nonce: Some("bm9uY2U"), key: &KEY }
}

fn checked(bytes: &[u8]) -> Message {
    let message = Message::parse(bytes).unwrap();
    message.verify_sha256(&KEY).unwrap();
    message
}
