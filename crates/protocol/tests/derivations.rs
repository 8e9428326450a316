//! Keys, identities, addresses and credentials: what must hold beside the vectors.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::credential::{long_term_key_md5, long_term_key_sha256, parse_user_name, user_name};
use campfire_protocol::identity::{Identity, PublicKey, ipv4_in_pool};
use campfire_protocol::key::{Fingerprint, Psk};
use campfire_protocol::stun::{Attribute, Message};
use curve25519_dalek::MontgomeryPoint;
use ipnet::Ipv4Net;
use proptest::prelude::*;

#[test]
fn keys_are_read_in_two_forms_and_refused_without_an_echo() {
    let psk = Psk::from_bytes([0xA5; 32]);
    assert_eq!(psk.to_text().len(), 43);
    assert_eq!(format!(" {}\n", *psk.to_text()).parse::<Psk>().unwrap(), psk);
    assert_eq!("a5".repeat(32).parse::<Psk>().unwrap(), psk);
    assert_eq!("A5".repeat(32).parse::<Psk>().unwrap(), psk);
    for text in ["", "correct horse battery staple", &"a".repeat(32), &"a".repeat(42), &"a".repeat(44), &"g".repeat(64), &"+".repeat(43)] {
        let error = text.parse::<Psk>().unwrap_err();
        assert_eq!(error.length, text.len());
        assert!(text.is_empty() || !error.to_string().contains(text));
    }
}

#[test]
fn a_key_whose_last_character_has_stray_bits_is_refused() {
    // 43 characters hold 258 bits: two of them must be zero, or one key would have several texts.
    let text = format!("{}B", "A".repeat(42));
    assert!(text.parse::<Psk>().is_err());
}

#[test]
fn the_wireguard_key_is_the_identity_in_another_form() {
    for seed in 0..20 {
        let identity = Identity::from_seed(&[seed; 32]);
        let public = MontgomeryPoint::mul_base_clamped(*identity.x25519_secret());
        assert_eq!(public.to_bytes(), identity.public().x25519());
    }
}

#[test]
fn small_order_and_invalid_public_keys_are_refused() {
    for text in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ] {
        let bytes: [u8; 32] = hex::decode(text).unwrap().try_into().unwrap();
        assert!(PublicKey::from_bytes(bytes).is_err(), "{text}");
    }
}

#[test]
fn a_malleable_signature_is_refused() {
    let identity = Identity::from_seed(&[1; 32]);
    let mut signature = identity.sign(b"message");
    assert!(identity.public().verify(b"message", &signature));
    assert!(!identity.public().verify(b"massage", &signature));
    // s + L: the same residue, another encoding.
    let order: [u8; 32] = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap().try_into().unwrap();
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert!(!identity.public().verify(b"message", &signature));
}

#[test]
fn both_ends_of_a_pair_derive_the_same_preshared_key() {
    let keys = Psk::from_bytes([1; 32]).derive();
    let (one, other) = (Identity::from_seed(&[1; 32]).public().x25519(), Identity::from_seed(&[2; 32]).public().x25519());
    assert_eq!(keys.wireguard_preshared(&one, &other), keys.wireguard_preshared(&other, &one));
    assert_ne!(keys.wireguard_preshared(&one, &other), Psk::from_bytes([2; 32]).derive().wireguard_preshared(&one, &other));
}

proptest! {
    #[test]
    fn an_address_of_a_pool_is_never_network_gateway_or_broadcast(seed: [u8; 32], base: u32, length in 0..=32_u8) {
        let pool = Ipv4Net::new(base.into(), length).unwrap();
        match ipv4_in_pool(pool, &Identity::from_seed(&seed).public()) {
            None => prop_assert!(length > 29),
            Some(address) => {
                prop_assert!(pool.contains(&address));
                prop_assert!(u32::from(address) - u32::from(pool.network()) >= 2);
                prop_assert_ne!(address, pool.broadcast());
            }
        }
    }
}

#[test]
fn user_names_are_an_expiry_and_an_identity() {
    assert_eq!(user_name(1_893_456_000, Fingerprint([0xAB; 8])), "1893456000:abababababababab");
    assert_eq!(parse_user_name("1893456000:abababababababab"), Some((1_893_456_000, "abababababababab")));
    assert_eq!(parse_user_name("7:a:b"), Some((7, "a:b")));
    assert_eq!(parse_user_name("1795733329"), Some((1_795_733_329, "1795733329")), "the draft's shorter form, as coturn takes it");
    for text in ["", ":", ":a", "+7:a", "-7:a", " 7:a", "+7", "a", "7a", "18446744073709551616", "18446744073709551616:a", "0x7:a"] {
        assert_eq!(parse_user_name(text), None, "{text}");
    }
}

#[test]
fn the_sample_messages_of_rfc_5769_verify() {
    let password = b"VOkJxbRl1RmTxUk/WvJxBt";
    let request = message(
        "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
         000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf",
    );
    request.verify_sha1(password).unwrap();
    assert_eq!(request.text(Attribute::USERNAME).unwrap(), Some("evtj:h6vY"));
    let ipv4 = message(
        "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643\
         000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96",
    );
    ipv4.verify_sha1(password).unwrap();
    assert_eq!(ipv4.xor_address(Attribute::XOR_MAPPED_ADDRESS).unwrap(), Some("192.0.2.1:32853".parse().unwrap()));
    let ipv6 = message(
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
         00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
    );
    ipv6.verify_sha1(password).unwrap();
    let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    assert_eq!(ipv6.xor_address(Attribute::XOR_MAPPED_ADDRESS).unwrap(), Some(address));
    let long_term = message(
        "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000\
         0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f726700\
         00080014f67024656dd64a3e02b8e0712e85c9a28ca89666",
    );
    long_term.verify_sha1(&*long_term_key_md5("マトリックス", "example.org", "TheMatrIX")).unwrap();
}

#[test]
fn the_sample_message_of_rfc_8489_as_corrected_by_erratum_6268_verifies() {
    let request = message(
        "000100902112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704\
         001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c394653547679363473410000000014000b6578616d706c652e6f726700\
         001d000400020000001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65",
    );
    request.verify_sha256(&*long_term_key_sha256("マトリックス", "example.org", "TheMatrIX")).unwrap();
}

fn message(hex: &str) -> Message {
    Message::parse(&hex::decode(hex.replace(' ', "")).unwrap()).unwrap()
}
