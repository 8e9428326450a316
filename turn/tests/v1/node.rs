//! Nodes of version 1, scripted after docs/campfire-v1.md with nothing of the server's code: what they derive, what they
//! send, and what they make of what they hear.

use std::collections::BTreeMap;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockEncryptMut as _, KeyIvInit as _};
use aes_gcm::aead::Aead as _;
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use base64::Engine as _;

pub const PSK: &str = "abcdefghijklmnopqrstuvwx12345678";
/// Candidates that every node has.
pub const CANDIDATES: usize = 2;

pub const ANNOUNCE: u8 = 1;
pub const OFFER: u8 = 2;
pub const ANSWER: u8 = 3;
pub const CANDIDATE: u8 = 4;

/// One side's credentials in one hour.
#[derive(Clone)]
pub struct Side {
    pub secret: Vec<u8>,
    pub ufrag: String,
    pub pwd: String,
}

/// The sides of the waiter (`local`) and of joiners (`remote`).
pub fn sides(psk: &str, unix: u64) -> [Side; 2] {
    [1, 0].map(|first| {
        let mut secret = hour(unix).into_bytes();
        secret.resize(16 + psk.len(), 0);
        let length = secret.len();
        let mut iv = [0; 16];
        iv[0] = first;
        let cipher = cbc::Encryptor::<Aes256>::new(psk.as_bytes().into(), &iv.into());
        cipher.encrypt_padded_mut::<NoPadding>(&mut secret, length).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(hex::encode(&secret));
        Side { secret, ufrag: text[15..19].to_owned(), pwd: text[19..].to_owned() }
    })
}

/// The hour in which a time (seconds since 1970) is, as nodes write it.
pub fn hour(unix: u64) -> String {
    // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let days = unix / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:00:00", unix % 86_400 / 3_600)
}

/// A message as protobuf writes it.
pub fn message(kind: u8, id: &str, own: &Side, other: &Side, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x08, kind];
    let texts = [id, &own.ufrag, &own.pwd, &other.ufrag, &other.pwd].map(str::as_bytes);
    for (number, value) in (2..).zip(texts.into_iter().chain([data])) {
        if !value.is_empty() {
            bytes.push(number << 3 | 2);
            let mut length = value.len();
            while length > 0x7F {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend_from_slice(value);
        }
    }
    bytes
}

/// The fields of a message of such, by number (the type left out).
pub fn fields(bytes: &[u8]) -> BTreeMap<u8, &[u8]> {
    let mut fields = BTreeMap::new();
    let mut rest = &bytes[2..];
    while let Some((tag, mut tail)) = rest.split_first() {
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let (byte, behind) = tail.split_first().unwrap();
            tail = behind;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (value, behind) = tail.split_at(length);
        fields.insert(tag >> 3, value);
        rest = behind;
    }
    fields
}

pub fn seal(psk: &str, plain: &str) -> Vec<u8> {
    Aes256Gcm::new(psk.as_bytes().into()).encrypt(&Nonce::default(), plain.as_bytes()).unwrap()
}

/// What was sealed, if it was sealed with this key.
pub fn open(psk: &str, sealed: &[u8]) -> Option<String> {
    String::from_utf8(Aes256Gcm::new(psk.as_bytes().into()).decrypt(&Nonce::default(), sealed).ok()?).ok()
}

/// What a node knows of another.
#[derive(Default)]
struct Other {
    described: bool,
    candidates: usize,
}

/// A node that waits, or joins.
pub struct Node {
    psk: String,
    own: Side,
    other: Side,
    /// A joiner's own negotiation.
    id: Option<String>,
    others: BTreeMap<String, Other>,
}

impl Node {
    /// One that waits from now (seconds since 1970) until the hour is over.
    pub fn waiter(psk: &str, unix: u64) -> Self {
        let [own, other] = sides(psk, unix);
        Self { psk: psk.to_owned(), own, other, id: None, others: BTreeMap::new() }
    }

    /// One that joins now, under an id of its own for each number.
    pub fn joiner(psk: &str, unix: u64, number: u32) -> Self {
        let [other, own] = sides(psk, unix);
        let id = format!("{number:08x}-1111-4222-8333-444444444444");
        Self { psk: psk.to_owned(), own, other, id: Some(id), others: BTreeMap::new() }
    }

    /// What it sends at first, once.
    pub fn begins(&self) -> Vec<Vec<u8>> {
        match &self.id {
            None => vec![message(ANNOUNCE, "", &self.own, &self.other, &[])],
            Some(id) => self.describes(OFFER, id),
        }
    }

    /// A datagram comes: what it sends then.
    pub fn hears(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let fields = fields(bytes);
        let text = |number| std::str::from_utf8(fields[&number]).unwrap();
        assert_eq!([text(3), text(4)], [&self.other.ufrag, &self.other.pwd], "from the other side");
        assert_eq!([text(5), text(6)], [&self.own.ufrag, &self.own.pwd], "to this side");
        let id = text(2).to_owned();
        assert!(open(&self.psk, fields[&7]).is_some(), "as it was sealed");
        let other = self.others.entry(id.clone()).or_default();
        match (bytes[1], &self.id) {
            (OFFER, None) => {
                assert!(!std::mem::replace(&mut other.described, true), "an offer comes once");
                return self.describes(ANSWER, &id);
            }
            (ANSWER, Some(own)) if *own == id => other.described = true,
            (CANDIDATE, own) if own.as_ref().is_none_or(|own| *own == id) => {
                assert!(other.described, "a candidate before the session's description is of no use");
                other.candidates += 1;
            }
            (kind, own) => panic!("type {kind} of {id} at {own:?}"),
        }
        Vec::new()
    }

    /// With how many it could connect now.
    pub fn met(&self) -> usize {
        self.others.values().filter(|other| other.described && other.candidates == CANDIDATES).count()
    }

    fn describes(&self, kind: u8, id: &str) -> Vec<Vec<u8>> {
        let session = format!(r#"{{"type":"{}","sdp":"{}"}}"#, if kind == OFFER { "offer" } else { "answer" }, "a=b\\r\\n".repeat(100));
        let candidates =
            (0..CANDIDATES).map(|port| format!(r#"{{"candidate":"candidate:1 1 udp 2130706431 192.0.2.1 4000{port} typ host"}}"#));
        let described = message(kind, id, &self.own, &self.other, &seal(&self.psk, &session));
        let candidates = candidates.map(|text| message(CANDIDATE, id, &self.own, &self.other, &seal(&self.psk, &text)));
        std::iter::once(described).chain(candidates).collect()
    }
}
