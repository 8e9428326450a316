//! Roots, issuers, chains: what holds and when, and what does not.

use serde_json::{Value, json};

use super::{hex, identity};
use crate::certificate::{Certified, Chain, Issuer, LabelDigest, Mandate, Namespaces, PeerCertificate, Refusal, Rights, RootKey, Scope};
use crate::time::{UnixMillis, UnixSeconds};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

#[expect(clippy::too_many_lines, reason = "a list of chains")]
pub fn certificates() -> Value {
    let [root, other_root] = [1, 2].map(|seed| RootKey::from_seed(&[seed; 32]));
    let roots = [root.public()];
    let mandate = Mandate {
        scope: Scope::Cluster("paris".into()),
        rights: Rights { certify: true, publish: true, revoke: false },
        namespaces: Namespaces::Only(vec!["shop".into(), "bank".into()]),
        routes: vec![],
        from: UnixSeconds(NOW - DAY),
        until: UnixSeconds(NOW + 29 * DAY),
    };
    let pod = PeerCertificate {
        identity: identity(3).public(),
        name: "web-0".into(),
        namespace: "shop".into(),
        cluster: None,
        pod: Some(std::array::from_fn(|index| 0xA0 + index as u8)),
        service_account: Some(LabelDigest::of("", "web")),
        labels: vec![LabelDigest::of("app", "web"), LabelDigest::of("example.com/tier", "")],
        ipv4: Some("100.64.0.7".parse().unwrap()),
        routes: vec![],
        born: UnixSeconds(NOW - 7_200),
        issued: UnixSeconds(NOW - 3_600),
        until: UnixSeconds(NOW + DAY),
    };
    let laptop = PeerCertificate {
        name: "laptop".into(),
        namespace: String::new(),
        pod: None,
        service_account: None,
        labels: vec![],
        ipv4: None,
        routes: vec!["10.20.7.0/24".parse().unwrap(), "2001:db8:7::/48".parse().unwrap()],
        ..pod.clone()
    };
    let delegate = |root: &RootKey, mandate: &Mandate| root.delegate(identity(4), mandate.clone()).unwrap();
    let paris = delegate(&root, &mandate);
    let other = delegate(&root, &Mandate { scope: Scope::Other, namespaces: Namespaces::All, ..mandate.clone() });
    let external = delegate(
        &root,
        &Mandate {
            scope: Scope::External("laptop".into()),
            rights: Rights { certify: true, ..Rights::default() },
            namespaces: Namespaces::Only(vec![]),
            routes: vec!["10.20.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            ..mandate.clone()
        },
    );
    let rome = PeerCertificate { cluster: Some("rome".into()), ..pod.clone() };
    let chains: Vec<Value> = [("a cluster's pod", &paris, &pod), ("another's pod", &other, &rome), ("an external", &external, &laptop)]
        .into_iter()
        .map(|(name, issuer, peer)| {
            let chain = issuer.certify(peer.clone()).unwrap();
            let certified = chain.verify(&roots, &[UnixMillis(NOW * 1_000)]).unwrap();
            json!({"name": name, "chain": hex(chain.to_bytes()), "fields": fields(&certified), "holds": holds(&chain, &certified)})
        })
        .collect();
    let usual = paris.certify(pod.clone()).unwrap().to_bytes();
    let mut bent = usual.clone();
    *bent.last_mut().unwrap() ^= 1;
    let stranger = delegate(&other_root, &mandate).certify(pod.clone()).unwrap().to_bytes();
    let refused = [
        ("another root's", stranger, Refusal::UnknownIssuer),
        ("changed", bent, Refusal::NotCertified),
        (
            "not of its issuer's namespaces",
            beyond(&paris, &PeerCertificate { namespace: "lab".into(), ..pod.clone() }),
            Refusal::OutOfScope,
        ),
        ("routes of a pod", beyond(&paris, &PeerCertificate { routes: laptop.routes.clone(), ..pod.clone() }), Refusal::OutOfScope),
        (
            "another name than the external's",
            beyond(&external, &PeerCertificate { name: "x".into(), ..laptop.clone() }),
            Refusal::OutOfScope,
        ),
        ("an external's address", beyond(&external, &PeerCertificate { ipv4: pod.ipv4, ..laptop.clone() }), Refusal::OutOfScope),
        (
            "a route that was not granted",
            beyond(&external, &PeerCertificate { routes: vec!["10.0.0.0/8".parse().unwrap()], ..laptop.clone() }),
            Refusal::OutOfScope,
        ),
        (
            "ends after its issuer",
            beyond(&paris, &PeerCertificate { until: UnixSeconds(NOW + 30 * DAY), ..pod.clone() }),
            Refusal::OutOfScope,
        ),
    ];
    let refused: Vec<Value> = refused
        .into_iter()
        .map(|(why, bytes, reason)| {
            let chain = Chain::from_bytes(&bytes).unwrap();
            assert_eq!(chain.verify(&roots, &[UnixMillis(NOW * 1_000)]), Err(reason), "{why}");
            json!({"why": why, "chain": hex(bytes), "reason": format!("{reason:?}")})
        })
        .collect();
    let labels = [("", "web"), ("app", "web"), ("example.com/tier", "")];
    json!({
        "root_seed": hex([1; 32]),
        "root": root.public().to_string(),
        "issuer_seed": hex([4; 32]),
        "issuer_text": *paris.to_text(),
        "now": NOW,
        "labels": labels.map(|(key, value)| json!({"key": key, "value": value, "digest": hex(LabelDigest::of(key, value).0)})),
        "chains": chains,
        "refused": refused,
        "malformed": malformed(&usual),
    })
}

/// When a chain holds: at its first and last second, and not around them.
fn holds(chain: &Chain, certified: &Certified) -> Value {
    let (issued, until) = (certified.peer().issued.0, certified.peer().until.0);
    let times = [issued - 901, issued - 900, until + 899, until + 900];
    let roots = [RootKey::from_seed(&[1; 32]).public()];
    times.map(|now| json!({"now": now, "holds": chain.verify(&roots, &[UnixMillis(now * 1_000)]).is_ok()})).into_iter().collect()
}

/// What an issuer signs beyond its mandate: `certify` would not.
fn beyond(issuer: &Issuer, peer: &PeerCertificate) -> Vec<u8> {
    assert!(issuer.certify(peer.clone()).is_err());
    issuer.sign_unchecked(peer.clone()).to_bytes()
}

fn malformed(usual: &[u8]) -> Value {
    let longer = [usual, &[0]].concat();
    // In the usual chain the peer's certificate begins with its version behind this: a map of 13 entries less the two that are empty.
    let peer = usual.windows(4).rposition(|bytes| bytes == [0xAB, 0x00, 0x02, 0x01]).unwrap();
    let mut version = usual.to_vec();
    version[peer + 2] = 3;
    let mut unknown = usual.to_vec();
    // The last key, 12, becomes 13.
    let last = unknown.len() - 66 - 6;
    assert_eq!(unknown[last], 12);
    unknown[last] = 13;
    let all = [("cut", &usual[..usual.len() - 1]), ("a byte behind it", &longer), ("version 3", &version), ("an unknown key", &unknown)];
    for (why, bytes) in all {
        assert!(Chain::from_bytes(bytes).is_err(), "{why}");
    }
    all.map(|(why, bytes)| json!({"why": why, "chain": hex(bytes)})).into_iter().collect()
}

fn fields(certified: &Certified) -> Value {
    let (issuer, peer) = (certified.issuer(), certified.peer());
    let mandate = &issuer.mandate;
    let scope = match &mandate.scope {
        Scope::Cluster(name) => json!({"cluster": name}),
        Scope::Other => json!("other"),
        Scope::External(name) => json!({"external": name}),
    };
    let namespaces = match &mandate.namespaces {
        Namespaces::All => json!(["*"]),
        Namespaces::Only(names) => json!(names),
    };
    let texts = |routes: &[ipnet::IpNet]| routes.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "issuer": {
            "key": issuer.key.to_string(),
            "root": hex(issuer.root.0),
            "scope": scope,
            "rights": {"certify": mandate.rights.certify, "publish": mandate.rights.publish, "revoke": mandate.rights.revoke},
            "namespaces": namespaces,
            "routes": texts(&mandate.routes),
            "from": mandate.from.0,
            "until": mandate.until.0,
        },
        "peer": {
            "identity": peer.identity.to_string(),
            "name": peer.name,
            "namespace": peer.namespace,
            "pod": peer.pod.map(hex),
            "service_account": peer.service_account.map(|digest| hex(digest.0)),
            "labels": peer.labels.iter().map(|label| hex(label.0)).collect::<Vec<_>>(),
            "ipv4": peer.ipv4,
            "routes": texts(&peer.routes),
            "born": peer.born.0,
            "issued": peer.issued.0,
            "until": peer.until.0,
        },
        "cluster": certified.cluster(),
        "since": certified.since().0,
    })
}
