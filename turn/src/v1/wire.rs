//! Version 1's messages, as far as a server has to understand them (docs/campfire-v1.md).

use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// The longest datagram that is taken: a session description with a hundred candidates.
pub(super) const MAX_DATAGRAM: usize = 8 * 1_024;
/// Characters of a user fragment.
const UFRAG: usize = 4;
/// Characters of a password.
const PASSWORD: usize = 109;

/// The message (proto3), which `prost` reads. No `Debug`: it has the credentials of both sides in clear.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct Fields {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(string, tag = "3")]
    lufrag: String,
    #[prost(string, tag = "4")]
    lpwd: String,
    #[prost(string, tag = "5")]
    rufrag: String,
    #[prost(string, tag = "6")]
    rpwd: String,
    #[prost(bytes = "vec", tag = "7")]
    data: Vec<u8>,
}

/// Which negotiation: the UUID that the joiner chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id([u8; 16]);

impl Id {
    pub const MAX: Self = Self([0xFF; 16]);

    /// From its text: 32 hex digits, in groups of 8, 4, 4, 4 and 12 (RFC 9562 §4).
    fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let dashes = [8, 13, 18, 23];
        if text.len() != 36 || dashes.iter().any(|at| text.get(*at) != Some(&b'-')) {
            return None;
        }
        let mut digits = text.iter().enumerate().filter(|(at, _)| !dashes.contains(at)).map(|(_, digit)| *digit as char);
        let mut id = [0; 16];
        for byte in &mut id {
            *byte = (digits.next()?.to_digit(16)? << 4 | digits.next()?.to_digit(16)?) as u8;
        }
        Some(Self(id))
    }
}

/// One side of a campfire, in one hour: a hash of the credentials that it calls its own and those that it calls the other's.
/// The credentials themselves are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Side([u8; 16]);

impl Side {
    /// Texts of fixed lengths, so that no two lists of them have one hash.
    fn of(texts: [&str; 4]) -> Self {
        let mut hash = Sha256::new();
        for text in texts {
            hash.update(text);
        }
        let hash: [u8; 32] = hash.finalize().into();
        Self(*hash.first_chunk().unwrap_or(&[0; 16]))
    }
}

/// A message with what it is routed by. `own` is the sender's side, `other` the receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Announce { own: Side },
    Offer { id: Id, other: Side },
    Answer { id: Id, own: Side },
    Candidate { id: Id, own: Side, other: Side },
}

/// Whether a datagram claims to be a message of version 1: its first field is the type, one of the four. STUN begins with
/// 0 to 3, ChannelData with 0x40 to 0x4F.
pub(crate) fn claims(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=4, ..])
}

/// Reads a message; `None` if it is none that a node of version 1 sends.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    if bytes.len() > MAX_DATAGRAM {
        return None;
    }
    let Fields { kind, id, lufrag, lpwd, rufrag, rpwd, data } = Fields::decode(bytes).ok()?;
    if [&lufrag, &rufrag].iter().any(|text| text.len() != UFRAG) || [&lpwd, &rpwd].iter().any(|text| text.len() != PASSWORD) {
        return None;
    }
    // Only an announcement, which is to nobody in particular, has nothing sealed in it.
    if (kind == 1) != data.is_empty() {
        return None;
    }
    let own = || Side::of([&lufrag, &lpwd, &rufrag, &rpwd]);
    let other = || Side::of([&rufrag, &rpwd, &lufrag, &lpwd]);
    match kind {
        1 => Some(Message::Announce { own: own() }),
        2 => Some(Message::Offer { id: Id::parse(&id)?, other: other() }),
        3 => Some(Message::Answer { id: Id::parse(&id)?, own: own() }),
        4 => Some(Message::Candidate { id: Id::parse(&id)?, own: own(), other: other() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_text_of_a_uuid() {
        let text = "00112233-4455-4677-8899-aabbCCddeeff";
        let id = Id::parse(text).expect("an id");
        assert_eq!(id.0, [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x46, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        for wrong in
            ["", "00112233445546778899aabbccddeeff", &text[1..], &text.replace('-', "+"), &text.replace('4', "x"), &format!("{text}0")]
        {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Id::parse(&text.replace("00", "é")), None, "digits are counted in bytes");
    }

    #[test]
    fn what_no_node_sends_is_not_read() {
        let good = fields(2);
        assert!(read(&good.encode_to_vec()).is_some());
        for kind in [-1, 0, 5, i32::MAX] {
            assert!(read(&Fields { kind, ..good.clone() }.encode_to_vec()).is_none(), "{kind}");
        }
        let wrong = [
            Fields { id: String::new(), ..good.clone() },
            Fields { lufrag: "abc".into(), ..good.clone() },
            Fields { rufrag: "abcde".into(), ..good.clone() },
            Fields { lpwd: "p".repeat(108), ..good.clone() },
            Fields { rpwd: String::new(), ..good.clone() },
            Fields { data: Vec::new(), ..good.clone() },
            Fields { kind: 1, ..good.clone() },
            Fields { data: vec![0; MAX_DATAGRAM], ..good.clone() },
        ];
        for (number, wrong) in wrong.iter().enumerate() {
            assert!(read(&wrong.encode_to_vec()).is_none(), "{number}");
        }
        let bytes = good.encode_to_vec();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn a_joiners_other_side_is_the_waiters_own() {
        let offer = fields(2);
        let swapped = Fields {
            lufrag: offer.rufrag.clone(),
            lpwd: offer.rpwd.clone(),
            rufrag: offer.lufrag.clone(),
            rpwd: offer.lpwd.clone(),
            ..fields(1)
        };
        let (Some(Message::Offer { other, .. }), Some(Message::Announce { own })) =
            (read(&offer.encode_to_vec()), read(&swapped.encode_to_vec()))
        else {
            panic!("both can be read")
        };
        assert_eq!(other, own);
        assert_ne!(Some(Message::Announce { own }), read(&fields(1).encode_to_vec()));
    }

    fn fields(kind: i32) -> Fields {
        Fields {
            kind,
            id: "00112233-4455-4677-8899-aabbccddeeff".into(),
            lufrag: "joIn".into(),
            lpwd: "j".repeat(PASSWORD),
            rufrag: "wAit".into(),
            rpwd: "w".repeat(PASSWORD),
            data: if kind == 1 { Vec::new() } else { vec![0; 40] },
        }
    }
}
