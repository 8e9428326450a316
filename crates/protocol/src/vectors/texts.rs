//! Server texts, scores, URIs.

use serde_json::{Value, json};

use super::{hex, identity, psk, psks};
use crate::certificate::{Issuer, Mandate, Namespaces, Rights, RootKey, Scope};
use crate::server::{Server, ServerId, Transport, merge, score, tag};
use crate::time::UnixSeconds;
use crate::uri::CampUri;

pub fn servers() -> Value {
    let texts = [
        "turn.example.com",
        "Turn.Example.COM:443",
        "192.0.2.1",
        "[2001:DB8:0:0::1]",
        "[2001:db8::1]:443",
        "turn:turn.example.com",
        "turn:turn.example.com:3479?transport=udp",
        "turn:turn.example.com?transport=tcp",
        "turns:turn.example.com",
        "turns:turn.example.com:443?transport=tcp",
        "turns:turn.example.com:3478",
        "turns:192.0.2.1?cert=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        "east-1=turn:192.0.2.1",
    ];
    let texts: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut value = server(&text.parse().unwrap());
            value["text"] = json!(text);
            value
        })
        .collect();
    let refused = [
        "",
        "host:",
        "host:0",
        "host:65536",
        "2001:db8::1",
        "[2001:db8::1",
        "[host]:1",
        "ho st",
        "1.2.3",
        "a..b",
        "=host",
        "a b=host",
        "turn:host?transport=tls",
        "turns:host?transport=udp",
        "host?transport=udp",
        "host?cert=short",
    ];
    for text in refused {
        assert!(text.parse::<Server>().is_err(), "{text}");
    }
    let one = ["turn:host", "other", "turns:host"];
    let ids = ["turn-0.example.com:3478", "turn-1.example.com:3478", "turn-2.example.com:3478", "east-1", "[2001:db8::1]:3478"];
    let scores = psks().map(|psk| {
        let keys = psk.derive();
        let mut scores: Vec<_> = ids
            .iter()
            .map(|id| {
                let id = ServerId::new(id).unwrap();
                (score(&keys, &id), tag(&keys, &id), id)
            })
            .collect();
        scores.sort_by_key(|(score, ..)| std::cmp::Reverse(*score));
        let ranked: Vec<Value> =
            scores.iter().map(|(score, tag, id)| json!({"id": id.as_str(), "score": hex(score), "tag": hex(tag.0)})).collect();
        json!({"fingerprint": keys.fingerprint.to_string(), "best_first": ranked})
    });
    json!({
        "texts": texts,
        "texts_refused": refused,
        "merged": {"texts": one, "servers": list(&merge(one.map(|text| text.parse().unwrap())))},
        "scores": scores,
    })
}

pub fn uris() -> Value {
    let key = psk().to_text();
    let pin = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    let (root, issuer) = delegation();
    let other = RootKey::from_seed(&[2; 32]).public();
    let texts = [
        format!("camp://turn.example.com#{}", *key),
        format!("CAMP://Turn.Example.com:3478/192.0.2.1:443/[2001:db8::1]?net=0123456789#{}", *key),
        format!("camp://a/b:443?transport=tcp,tls#{}", *key),
        format!("camp://a/b:443/?transport=tcp&transport=tls&unknown=1#{}", *key),
        format!("camp://a/b?cert={pin}#{}", *key),
        format!("camp://a/b?cert=,{pin}#{}", *key),
        format!("camp://east-1=a/east-1=b/c#{}", *key),
        "camp://a#000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".into(),
        format!("camp://a?root={root}#{}", *key),
        format!("camp://a?root={other}&root={root},{other}#{}.{}", *key, *issuer.to_text()),
        "camp://a#0123456789abcdef0123456789abcd.f".into(),
        "camp://turn.example.com:3478?fingerprint=ignored#0123456789abcdef0123456789abcd%25%21".into(),
    ];
    let texts = texts.map(|text| {
        let uri: CampUri = text.parse().unwrap();
        let again: CampUri = uri.to_text().parse().unwrap();
        assert_eq!((&again.servers, again.network, &again.psk), (&uri.servers, uri.network, &uri.psk));
        assert_eq!((&again.roots, &again.issuer), (&uri.roots, &uri.issuer));
        json!({
            "uri": text,
            "servers": list(&uri.servers),
            "network_id": uri.network.map(|network| network.to_string()),
            "fingerprint": uri.psk.derive().fingerprint.to_string(),
            "roots": uri.roots.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "issuer": uri.issuer.as_ref().map(|issuer| issuer.certificate().key.to_string()),
            "version_1": uri.version1,
            "written": *uri.to_text(),
        })
    });
    let refused = [
        String::new(),
        format!("http://turn.example.com#{}", *key),
        "camp://turn.example.com".into(),
        "camp://turn.example.com#".into(),
        "camp://turn.example.com#correct-horse".into(),
        format!("camp://#{}", *key),
        format!("camp://a//b#{}", *key),
        format!("camp://a?net=01234567#{}", *key),
        format!("camp://a?net=0123456789&net=0123456789#{}", *key),
        format!("camp://a?transport=quic#{}", *key),
        format!("camp://a?cert=short#{}", *key),
        format!("camp://a/b/c?cert={pin},{pin}#{}", *key),
        format!("camp://{}a#{}", "a/".repeat(16), *key),
        format!("camp://a?root=short#{}", *key),
        format!("camp://a?root={root},{other},{}#{}", RootKey::from_seed(&[3; 32]).public(), *key),
        format!("camp://a#{}.{}", *key, *issuer.to_text()),
        format!("camp://a?root={other}#{}.{}", *key, *issuer.to_text()),
        format!("camp://a?root={root}#{}.{}", *key, &issuer.to_text()[..200]),
        format!("camp://a?root={root}#{}.", *key),
    ];
    for text in &refused {
        let error = text.parse::<CampUri>().unwrap_err();
        let shown = error.to_string();
        assert!(!shown.contains(key.as_str()) && !shown.contains(&issuer.to_text()[..40]), "{shown}");
    }
    json!({"uris": texts, "refused": refused})
}

/// A root, and what it lets a laptop do.
fn delegation() -> (crate::certificate::RootPublic, Issuer) {
    let root = RootKey::from_seed(&[1; 32]);
    let mandate = Mandate {
        scope: Scope::External("laptop".into()),
        rights: Rights { certify: true, ..Rights::default() },
        namespaces: Namespaces::Only(vec![]),
        routes: vec![],
        from: UnixSeconds(1_800_000_000),
        until: UnixSeconds(1_802_592_000),
    };
    (root.public(), root.delegate(identity(4), mandate).unwrap())
}

fn list(servers: &[Server]) -> Value {
    servers.iter().map(server).collect()
}

pub fn server(server: &Server) -> Value {
    let addresses: Vec<Value> = server
        .addresses
        .iter()
        .map(|address| {
            let transport = match address.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
                Transport::Tls => "tls",
            };
            json!({"host": address.host, "port": address.port, "transport": transport})
        })
        .collect();
    json!({"id": server.id.as_str(), "addresses": addresses, "certificate_pin": server.certificate_pin.map(hex::encode)})
}
