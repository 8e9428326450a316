//! What only somebody who holds the key can send: it opens, and must still be judged.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::key::Psk;

const MEMBER: MemberId = MemberId([3; 16]);

type Entry = (u64, Vec<u8>);

#[test]
fn a_hand_made_announcement_is_read() {
    let announcement = read(&least()).unwrap();
    assert_eq!((announcement.sequence, announcement.public_key), (7, identity().public()));
}

#[test]
fn a_signature_counts_for_its_room_member_key_and_bytes_alone() {
    let content = map(&least());
    let sign =
        |identity: &Identity, keys: &Keys, member: &MemberId, content: &[u8]| identity.sign(&bound(SIGNATURE_LABEL, keys, member, content));
    let read = |signature| Announcement::read_signed(&outer(&content, &signature), &keys(), &MEMBER);
    assert!(read(sign(&identity(), &keys(), &MEMBER, &content)).is_ok());
    let mut other_room = keys();
    other_room.room.0[31] ^= 1;
    for signature in [
        sign(&identity(), &other_room, &MEMBER, &content),
        sign(&identity(), &keys(), &MemberId([4; 16]), &content),
        sign(&Identity::from_seed(&[6; 32]), &keys(), &MEMBER, &content),
        sign(&identity(), &keys(), &MEMBER, &map(&[least(), vec![(12, vec![1])]].concat())),
        identity().sign(&bound(SEAL_LABEL, &keys(), &MEMBER, &content)),
        identity().sign(&content),
        [0; 64],
    ] {
        assert_eq!(read(signature), Err(AnnouncementError::Signature));
    }
}

#[test]
fn a_sealed_but_wrongly_signed_announcement_is_refused_as_such() {
    let content = map(&least());
    let outer = outer(&content, &Identity::from_seed(&[6; 32]).sign(&bound(SIGNATURE_LABEL, &keys(), &MEMBER, &content)));
    let aad = bound(SEAL_LABEL, &keys(), &MEMBER, &[]);
    let cipher = XChaCha20Poly1305::new((&*keys().announce).into());
    let sealed = cipher.encrypt(&[0; 24].into(), Payload { msg: &outer, aad: &aad }).unwrap();
    let sealed = [[0; 24].as_slice(), &sealed].concat();
    assert_eq!(Announcement::open(&sealed, &keys(), &MEMBER), Err(AnnouncementError::Signature));
    assert_eq!(Announcement::open(&sealed[..39], &keys(), &MEMBER), Err(AnnouncementError::Sealed));
    assert_eq!(Announcement::open(&vec![0; MAX_SEALED + 1], &keys(), &MEMBER), Err(AnnouncementError::TooLarge));
}

#[test]
fn unknown_keys_are_ignored_and_signed() {
    let entries = [least(), vec![(14, vec![0x41, 1]), (1_000_000, vec![0x82, 0xF6, 0xA1, 1, 2])]].concat();
    assert_eq!(read(&entries).unwrap(), read(&least()).unwrap());
    let signature = identity().sign(&bound(SIGNATURE_LABEL, &keys(), &MEMBER, &map(&least())));
    let stripped = Announcement::read_signed(&outer(&map(&entries), &signature), &keys(), &MEMBER);
    assert_eq!(stripped, Err(AnnouncementError::Signature));
}

#[test]
fn what_is_missing_doubled_out_of_order_or_of_another_version_is_malformed() {
    for left_out in 0..5 {
        let mut entries = least();
        entries.remove(left_out);
        assert_eq!(read(&entries), Err(AnnouncementError::Malformed), "without {left_out}");
    }
    for (index, entry) in least().into_iter().enumerate() {
        let mut entries = least();
        entries.insert(index, entry);
        assert_eq!(read(&entries), Err(AnnouncementError::Malformed), "doubled {index}");
    }
    let mut swapped = least();
    swapped.swap(3, 4);
    assert_eq!(read(&swapped), Err(AnnouncementError::Malformed));
    assert_eq!(read(&with(0, vec![3])), Err(AnnouncementError::Malformed));
}

#[test]
fn values_beyond_their_bounds_are_malformed() {
    let server = |addresses: &str| format!("8261a1{addresses}");
    let address = "8461610d0001";
    let nine_addresses = |count: usize| format!("820181836161{:02x}{}f6", 0x80 + count, address.repeat(count));
    for (key, value) in [
        (1, "5820".to_owned() + &"00".repeat(32)), // small order
        (1, "5820".to_owned() + "01" + &"00".repeat(31)),
        (1, "5820".to_owned() + "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        (1, "5820".to_owned() + &"ff".repeat(32)), // no point
        (1, "581f".to_owned() + &"01".repeat(31)),
        (2, "4f".to_owned() + &"00".repeat(15)),
        (3, "1b0000000100000000".into()),
        (3, "20".into()),
        (4, "4100".into()),
        (5, "61ff".into()),     // no UTF-8
        (5, "7f6161ff".into()), // indefinite
        (8, "5828".to_owned() + &"00".repeat(40)),
        (8, "4700000000000000".into()),
        (9, "5848".to_owned() + &"00".repeat(72)),
        (10, "9f45000000000008ff".into()),
        (10, "89".to_owned() + &"450a00000008".repeat(9)),
        (10, "81450a00000021".into()), // /33
        (10, "81440a000000".into()),
        (10, "9bffffffffffffffff".into()),
        (11, "430a0000".into()),
        (12, "1b0000000100000000".into()),
        (13, "a0".into()),
        (13, "8201".to_owned() + "89" + &server("f6").repeat(9)),
        (13, "82018183616180f6".into()),                            // no address
        (13, "820181836161818461200d0001f6".into()),                // host " "
        (13, "820181836161818461610000 01f6".replace(' ', "")),     // port 0
        (13, "8201818361618184616101".to_owned() + "0301f6"),       // transport 3
        (13, "8201818361618184616101".to_owned() + "0002f6"),       // scope 2
        (13, "820181836120818461610d0001f6".into()),                // id " "
        (13, "82018183616181846161 0d00 01 4101".replace(' ', "")), // pin of one byte
        (13, nine_addresses(5)),
    ] {
        let value = hex::decode(&value).unwrap();
        assert_eq!(read(&with(key, value)), Err(AnnouncementError::Malformed), "key {key}");
    }
    assert!(read(&with(13, hex::decode(nine_addresses(4)).unwrap())).is_ok());
}

#[test]
fn framing_around_content_and_signature_is_exact() {
    let content = map(&least());
    let signature = identity().sign(&bound(SIGNATURE_LABEL, &keys(), &MEMBER, &content));
    let good = outer(&content, &signature);
    let read = |bytes: &[u8]| Announcement::read_signed(bytes, &keys(), &MEMBER);
    assert!(read(&good).is_ok());
    for length in 0..good.len() {
        assert_eq!(read(&good[..length]), Err(AnnouncementError::Malformed));
    }
    assert_eq!(read(&[good.as_slice(), &[0]].concat()), Err(AnnouncementError::Malformed));
    let mut trailing = content.clone();
    trailing.push(0);
    let signature = identity().sign(&bound(SIGNATURE_LABEL, &keys(), &MEMBER, &trailing));
    assert_eq!(read(&outer(&trailing, &signature)), Err(AnnouncementError::Malformed));
}

#[test]
fn names_are_sanitised_on_reading_too() {
    let name = "a\u{202e}b\u{7}";
    let value = [&[0x60 + name.len() as u8], name.as_bytes()].concat();
    assert_eq!(read(&with(5, value)).unwrap().name, "ab");
}

#[test]
fn routes_lose_their_host_bits() {
    let announcement = read(&with(10, hex::decode("81450a01020308").unwrap())).unwrap();
    assert_eq!(announcement.routes, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
}

#[test]
fn what_would_be_too_large_is_not_sealed() {
    let seal = |announcement: Announcement| announcement.seal(&identity(), &keys(), &MEMBER, &[0; 24]).map(|_| ());
    let least = || read(&least()).unwrap();
    assert_eq!(seal(least()), Ok(()));
    let route: IpNet = "10.0.0.0/8".parse().unwrap();
    assert_eq!(seal(Announcement { routes: vec![route; 9], ..least() }), Err(AnnouncementError::TooLarge));
    assert_eq!(seal(Announcement { fingerprints: vec![Fingerprint([0; 8]); 5], ..least() }), Err(AnnouncementError::TooLarge));
    assert_eq!(seal(Announcement { servers: vec![ServerTag([0; 8]); 9], ..least() }), Err(AnnouncementError::TooLarge));
    let long: Server = format!("{}.example.com", "a".repeat(63)).parse().unwrap();
    let record = |servers| Some(ServerRecord { version: 1, servers });
    assert_eq!(seal(Announcement { record: record(vec![long.clone()]), ..least() }), Ok(()));
    assert_eq!(seal(Announcement { record: record(vec![long; 8]), ..least() }), Err(AnnouncementError::TooLarge));
    assert_eq!(seal(Announcement { public_key: Identity::from_seed(&[6; 32]).public(), ..least() }), Err(AnnouncementError::Signature));
}

fn keys() -> Keys {
    Psk::from_bytes([1; 32]).derive()
}

fn identity() -> Identity {
    Identity::from_seed(&[5; 32])
}

/// Version, public key, session, sequence, sent-at.
fn least() -> Vec<Entry> {
    let public = [&[0x58, 32], identity().public().as_bytes().as_slice()].concat();
    vec![(0, vec![2]), (1, public), (2, [[0x50].as_slice(), &[0; 16]].concat()), (3, vec![7]), (4, vec![8])]
}

fn with(key: u64, value: Vec<u8>) -> Vec<Entry> {
    let mut entries = least();
    entries.retain(|(other, _)| *other != key);
    entries.push((key, value));
    entries.sort();
    entries
}

fn map(entries: &[Entry]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(entries.len() as u64).unwrap();
    for (key, value) in entries {
        encoder.u64(*key).unwrap();
        encoder.writer_mut().extend_from_slice(value);
    }
    encoder.into_writer()
}

fn outer(content: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(2).unwrap().bytes(content).unwrap().bytes(signature).unwrap();
    encoder.into_writer()
}

fn read(entries: &[Entry]) -> Result<Announcement, AnnouncementError> {
    let content = map(entries);
    let signature = identity().sign(&bound(SIGNATURE_LABEL, &keys(), &MEMBER, &content));
    Announcement::read_signed(&outer(&content, &signature), &keys(), &MEMBER)
}
