//! Keys, identities, addresses, credentials.

use serde_json::{Value, json};

use super::{hex, identity, psk, psks, secret};
use crate::credential::{campfire_key, long_term_key_md5, long_term_key_sha256, password, push_key, user_name};
use crate::identity::{Identity, NetworkId, PublicKey, ipv4_in_pool};
use crate::key::Psk;
use crate::wire::{MemberId, MemberToken};

pub fn keys() -> Value {
    let derived = psks().map(|psk| {
        let keys = psk.derive();
        json!({
            "psk": psk_hex(&psk),
            "text": *psk.to_text(),
            "derive": {
                "room": hex(keys.room.0),
                "server": hex(*keys.server),
                "announce": hex(*keys.announce),
                "signal": hex(*keys.signal),
                "tag": hex(*keys.tag),
                "wireguard": hex(*keys.wireguard),
            },
            "fingerprint": keys.fingerprint.to_string(),
            "network_id": keys.network.to_string(),
            "relay_secret": keys.relay.text(),
        })
    });
    let accepted = [psk().to_text().to_string(), psk_hex(&psk()), psk_hex(&psk()).to_uppercase(), format!(" {}\n", *psk().to_text())];
    for text in &accepted {
        assert_eq!(text.parse::<Psk>().unwrap(), psk());
    }
    let refused = [
        String::new(),
        "correct horse battery staple".into(),
        "0123456789abcdef0123456789abcdef".into(),
        psk().to_text()[..42].to_owned(),
        format!("{}=", *psk().to_text()),
        format!("{}B", "A".repeat(42)),
        "g".repeat(64),
    ];
    for text in &refused {
        assert!(text.parse::<Psk>().is_err(), "{text}");
    }
    let tags = ["fdde:ad00:beef::1", "web-0", ""].map(|what| json!({"what": what, "tag": hex(secret().tag(what).0)}));
    json!({
        "derived": derived,
        "texts_of_the_first": accepted,
        "texts_refused": refused,
        "tags_of_the_first": tags,
    })
}

pub fn identities() -> Value {
    let network = NetworkId([0x01, 0x23, 0x45, 0x67, 0x89]);
    let pools = ["10.0.0.0/8", "100.64.0.0/10", "192.0.2.0/24", "192.0.2.8/29", "192.0.2.8/30"];
    let identities = [1, 2, 3].map(|seed| {
        let identity = identity(seed);
        let key = identity.public();
        let ipv4 = pools.map(|pool| json!({"pool": pool, "address": ipv4_in_pool(pool.parse().unwrap(), &key)}));
        json!({
            "seed": hex(*identity.seed()),
            "public_key": key.to_string(),
            "x25519_secret": hex(*identity.x25519_secret()),
            "x25519_public": hex(key.x25519()),
            "address": network.address(&key),
            "ipv4": ipv4,
            "signature_of_the_text_message": hex(identity.sign(b"message")),
        })
    });
    let refused = [
        ("0100000000000000000000000000000000000000000000000000000000000000", "small order"),
        ("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "small order"),
        ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "small order"),
        ("0200000000000000000000000000000000000000000000000000000000000000", "not a point"),
        ("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "not canonical"),
    ];
    for (key, why) in refused {
        assert!(PublicKey::from_bytes(hex::decode(key).unwrap().try_into().unwrap()).is_err(), "{why}");
    }
    let pair = |one: &Identity, other: &Identity| {
        let (one, other) = (one.public().x25519(), other.public().x25519());
        json!({
            "psk": psk_hex(&psk()),
            "one": hex(one),
            "other": hex(other),
            "preshared": hex(*secret().wireguard_preshared(&one, &other)),
        })
    };
    json!({
        "network_id": network.to_string(),
        "prefix": network.prefix(),
        "identities": identities,
        "public_keys_refused": refused.map(|(key, why)| json!({"public_key": key, "why": why})),
        "wireguard_preshared": [pair(&identity(1), &identity(2)), pair(&identity(3), &identity(2))],
    })
}

pub fn credentials() -> Value {
    let keys = secret();
    let name = user_name(1_893_456_000, keys.fingerprint);
    let password = password(&keys.relay, &name);
    let token = MemberToken(std::array::from_fn(|index| 0xA0 + index as u8));
    let MemberId(member) = token.id();
    json!({
        "relay_secret": keys.relay.text(),
        "expiry": 1_893_456_000,
        "user_name": name,
        "password": *password,
        "realm": "example.org",
        "long_term_key_md5": hex(*long_term_key_md5(&name, "example.org", &password)),
        "long_term_key_sha256": hex(*long_term_key_sha256(&name, "example.org", &password)),
        "campfire_key": hex(*campfire_key(&keys.relay, &name)),
        "member_token": hex(token.0),
        "member_id": hex(member),
        "push_key": hex(*push_key(&keys.relay, &token.id())),
    })
}

fn psk_hex(psk: &Psk) -> String {
    use base64::Engine as _;
    hex::encode(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(psk.to_text().as_str()).unwrap())
}
