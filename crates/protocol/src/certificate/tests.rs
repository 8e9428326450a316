//! What a chain proves, what it does not, and its bounds.

use ipnet::IpNet;

use super::*;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

#[test]
fn a_pod_is_who_its_clusters_issuer_says() {
    let chain = cluster(&root(1)).certify(pod(7)).unwrap();
    let certified = read(&chain).verify(&[root(9).public(), root(1).public()], &[at(NOW)]).unwrap();
    assert_eq!((certified.peer(), certified.cluster().as_ref()), (&pod(7), "paris"));
    assert_eq!(certified.since(), pod(7).born);
    let other = delegate(&root(1), Mandate { scope: Scope::Other, ..mandate() });
    let chain = other.certify(PeerCertificate { cluster: Some("rome".into()), ..pod(7) }).unwrap();
    assert_eq!(verify(&chain, NOW).unwrap().cluster(), "other/rome");
}

#[test]
fn a_root_that_is_not_known_and_one_that_did_not_sign_are_told_apart() {
    let chain = cluster(&root(1)).certify(pod(7)).unwrap();
    assert_eq!(chain.verify(&[root(2).public()], &[at(NOW)]), Err(Refusal::UnknownIssuer));
    assert_eq!(chain.verify(&[], &[at(NOW)]), Err(Refusal::UnknownIssuer));
    // Whoever names a root needs its signature, and an issuer's word needs the issuer's.
    let (mut claimed, mut borrowed) = (chain.clone(), chain.clone());
    claimed.issuer_signed.signature = cluster(&root(2)).signed.signature;
    borrowed.peer_signed = delegate(&root(1), mandate()).with_key(4).certify(pod(7)).unwrap().peer_signed;
    for forged in [claimed, borrowed] {
        assert_eq!(verify(&read(&forged), NOW), Err(Refusal::NotCertified));
    }
}

#[test]
fn no_byte_of_a_chain_can_be_changed() {
    let bytes = cluster(&root(1)).certify(pod(7)).unwrap().to_bytes();
    for index in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[index] ^= 1;
        let holds = Chain::from_bytes(&bent).is_ok_and(|chain| verify(&chain, NOW).is_ok());
        assert!(!holds, "byte {index}");
        assert!(Chain::from_bytes(&bytes[..index]).is_err(), "cut at {index}");
    }
    assert!(Chain::from_bytes(&[bytes, vec![0]].concat()).is_err());
}

#[test]
fn times_hold_give_or_take_a_quarter_of_an_hour_by_any_clock() {
    let chain = cluster(&root(1)).certify(pod(7)).unwrap();
    let (issued, until) = (pod(7).issued.0, pod(7).until.0);
    for (now, holds) in [(issued - 901, false), (issued - 900, true), (until + 899, true), (until + 900, false)] {
        assert_eq!(verify(&chain, now), if holds { Ok(certified(&chain)) } else { Err(Refusal::CertificateExpired) }, "{now}");
    }
    assert!(chain.verify(&[root(1).public()], &[at(0), at(NOW)]).is_ok(), "one of two clocks suffices");
    assert_eq!(certified(&chain).holds_for(&[at(until), at(until - 60)]), Duration::from_mins(16));
    assert_eq!(certified(&chain).holds_for(&[]), Duration::ZERO);
    // A peer's certificate cannot hold for longer than its issuer's, however far off that ends.
    let late = PeerCertificate { until: UnixSeconds(mandate().until.0 + 1), ..pod(7) };
    assert!(cluster(&root(1)).certify(late).is_err());
    let eternal = Mandate { from: UnixSeconds(0), until: UnixSeconds(u64::MAX), ..mandate() };
    let chain = delegate(&root(1), eternal).certify(PeerCertificate { until: UnixSeconds(u64::MAX), ..pod(7) }).unwrap();
    assert!(chain.verify(&[root(1).public()], &[at(NOW), UnixMillis(u64::MAX)]).is_ok());
}

#[test]
fn an_issuer_says_nothing_beyond_its_mandate() {
    let cluster = cluster(&root(1));
    let only = delegate(&root(1), Mandate { namespaces: Namespaces::Only(vec!["shop".into()]), ..mandate() });
    let other = delegate(&root(1), Mandate { scope: Scope::Other, ..mandate() });
    let mute = delegate(&root(1), Mandate { rights: Rights { publish: true, revoke: true, certify: false }, ..mandate() });
    let elsewhere = PeerCertificate { namespace: "bank".into(), ..pod(7) };
    let nowhere = PeerCertificate { namespace: String::new(), ..pod(7) };
    let router = PeerCertificate { routes: vec![net("10.20.0.0/16")], ..pod(7) };
    let named = PeerCertificate { cluster: Some("rome".into()), ..pod(7) };
    assert!(only.certify(pod(7)).is_ok());
    for (issuer, peer) in
        [(&only, &elsewhere), (&cluster, &nowhere), (&cluster, &router), (&cluster, &named), (&other, &pod(7)), (&mute, &pod(7))]
    {
        assert!(issuer.certify(peer.clone()).is_err());
        assert_eq!(verify(&signed_all_the_same(issuer, peer), NOW), Err(Refusal::OutOfScope), "{peer:?}");
    }
}

#[test]
fn an_external_is_its_name_and_the_routes_that_it_was_granted() {
    let laptop = external();
    let bare = laptop_certificate();
    let router = PeerCertificate { routes: vec![net("10.20.7.0/24"), net("10.20.0.0/16")], ..bare.clone() };
    assert!(laptop.certify(bare.clone()).is_ok() && laptop.certify(router).is_ok());
    let refused = [
        PeerCertificate { name: "desktop".into(), ..bare.clone() },
        PeerCertificate { namespace: "shop".into(), ..bare.clone() },
        PeerCertificate { cluster: Some("paris".into()), ..bare.clone() },
        PeerCertificate { pod: Some([1; 16]), ..bare.clone() },
        PeerCertificate { service_account: Some(LabelDigest::of("", "web")), ..bare.clone() },
        PeerCertificate { labels: vec![LabelDigest::of("app", "web")], ..bare.clone() },
        PeerCertificate { ipv4: Some(Ipv4Addr::new(100, 64, 0, 7)), ..bare.clone() },
        PeerCertificate { routes: vec![net("10.0.0.0/8")], ..bare.clone() },
    ];
    for peer in refused {
        assert!(laptop.certify(peer.clone()).is_err());
        assert_eq!(verify(&signed_all_the_same(&laptop, &peer), NOW), Err(Refusal::OutOfScope), "{peer:?}");
    }
    // It certifies itself, so it may say that it is as old as the world.
    let old = laptop.certify(PeerCertificate { born: UnixSeconds(0), ..bare }).unwrap();
    assert_eq!(verify(&old, NOW).unwrap().since(), mandate().from);
}

#[test]
fn the_largest_chain_that_the_bounds_allow_fits() {
    let name = |length| "x".repeat(length);
    // 150 bytes: a list of two, one of one; texts of 63 and a network of 17 bytes, each with its length.
    let namespaces = Namespaces::Only(vec![name(63), name(63)]);
    let full = Mandate { namespaces, routes: vec![net("2001:db8::/32")], ..mandate() };
    let peer = PeerCertificate {
        name: name(63),
        namespace: name(63),
        ipv4: Some(Ipv4Addr::new(100, 64, 0, 7)),
        labels: (0..16).map(|n| LabelDigest([n; 10])).collect(),
        ..pod(7)
    };
    let named = delegate(&root(1), Mandate { scope: Scope::Cluster(name(32)), ..full.clone() });
    let other = delegate(&root(1), Mandate { scope: Scope::Other, ..full.clone() });
    let sizes = [
        named.certify(peer.clone()).unwrap().to_bytes().len(),
        other.certify(PeerCertificate { cluster: Some(name(32)), ..peer }).unwrap().to_bytes().len(),
    ];
    assert_eq!(sizes, [778, 779]);
    let more = Mandate { namespaces: Namespaces::Only(vec![name(63), name(62), name(1)]), ..full };
    assert!(root(1).delegate(identity(2), more).is_err());
    let usual = cluster(&root(1)).certify(pod(7)).unwrap().to_bytes().len();
    assert!(usual < 450, "{usual}");
}

#[test]
fn bounds_and_unknown_keys_are_refused_whoever_signed() {
    let long = "x".repeat(64);
    let bad = [
        PeerCertificate { name: String::new(), ..pod(7) },
        PeerCertificate { name: long.clone(), ..pod(7) },
        PeerCertificate { name: "web\u{202e}0".into(), ..pod(7) },
        PeerCertificate { namespace: long, ..pod(7) },
        PeerCertificate { cluster: Some("a/b".into()), ..pod(7) },
        PeerCertificate { labels: vec![LabelDigest([0; 10]); 17], ..pod(7) },
        PeerCertificate { routes: vec![net("10.0.0.0/8"); 9], ..pod(7) },
        PeerCertificate { born: UnixSeconds(pod(7).issued.0 + 1), ..pod(7) },
        PeerCertificate { until: UnixSeconds(pod(7).issued.0 - 1), ..pod(7) },
    ];
    for peer in bad {
        assert!(peer.encode().is_err(), "{peer:?}");
    }
    let rooted = |scope| root(1).delegate(identity(2), Mandate { scope, ..mandate() });
    for scope in
        [Scope::Cluster(String::new()), Scope::Cluster("a/b".into()), Scope::Cluster("x".repeat(33)), Scope::External(String::new())]
    {
        assert!(rooted(scope).is_err());
    }
    // A key more at the end, one fewer, another version, two of one key.
    let content = pod(7).encode().unwrap();
    assert!(PeerCertificate::decode(&content).is_ok());
    let last = content.len() - 6;
    let more = [&[content[0] + 1], &content[1..], &[13, 0]].concat();
    let fewer = [&[content[0] - 1], &content[1..last]].concat();
    let mut version = content.clone();
    version[2] = 3;
    let twice = [&[content[0] + 1], &content[1..], &content[last..]].concat();
    for content in [more, fewer, version, twice] {
        assert!(PeerCertificate::decode(&content).is_err(), "{}", hex::encode(content));
    }
}

#[test]
fn an_issuer_survives_its_text_and_shows_no_secret() {
    let issuer = cluster(&root(1));
    let text = issuer.to_text();
    let again: Issuer = text.parse().unwrap();
    assert_eq!(again.certify(pod(7)).unwrap(), issuer.certify(pod(7)).unwrap());
    assert!(again.is_of(&[root(1).public()]) && !again.is_of(&[root(2).public()]));
    for refused in ["", "AAAA", &text[..text.len() - 4], &format!("B{}", &text[1..])] {
        assert!(refused.parse::<Issuer>().is_err(), "{refused}");
    }
    let shown = format!("{issuer:?} {:?} {:?}", root(1), issuer.certify(pod(7)).unwrap());
    assert!(!shown.contains(&hex::encode([1; 32])) && !shown.contains(&hex::encode([2; 32])), "{shown}");
    assert_eq!(root(1).to_text().parse::<RootKey>().unwrap().public(), root(1).public());
    assert_eq!(root(1).public().to_string().parse(), Ok(root(1).public()));
}

impl Issuer {
    /// The same mandate in other hands.
    fn with_key(&self, seed: u8) -> Self {
        root(1).delegate(identity(seed), self.certificate.mandate.clone()).unwrap()
    }
}

fn signed_all_the_same(issuer: &Issuer, peer: &PeerCertificate) -> Chain {
    read(&issuer.sign_unchecked(peer.clone()))
}

fn read(chain: &Chain) -> Chain {
    Chain::from_bytes(&chain.to_bytes()).unwrap()
}

fn verify(chain: &Chain, seconds: u64) -> Result<Certified, Refusal> {
    chain.verify(&[root(1).public()], &[at(seconds)])
}

fn certified(chain: &Chain) -> Certified {
    Certified { issuer: chain.issuer.clone(), peer: chain.peer.clone() }
}

fn at(seconds: u64) -> UnixMillis {
    UnixMillis(seconds * 1_000)
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn root(seed: u8) -> RootKey {
    RootKey::from_seed(&[seed; 32])
}

fn cluster(root: &RootKey) -> Issuer {
    delegate(root, mandate())
}

fn delegate(root: &RootKey, mandate: Mandate) -> Issuer {
    root.delegate(identity(2), mandate).unwrap()
}

fn mandate() -> Mandate {
    Mandate {
        scope: Scope::Cluster("paris".into()),
        rights: Rights { certify: true, ..Rights::default() },
        namespaces: Namespaces::All,
        routes: vec![],
        from: UnixSeconds(NOW - DAY),
        until: UnixSeconds(NOW + 29 * DAY),
    }
}

fn pod(seed: u8) -> PeerCertificate {
    PeerCertificate {
        identity: identity(seed).public(),
        name: "web-0".into(),
        namespace: "shop".into(),
        cluster: None,
        pod: Some([0xAB; 16]),
        service_account: Some(LabelDigest::of("", "web")),
        labels: vec![LabelDigest::of("app", "web"), LabelDigest::of("tier", "front")],
        ipv4: None,
        routes: vec![],
        born: UnixSeconds(NOW - 7_200),
        issued: UnixSeconds(NOW - 3_600),
        until: UnixSeconds(NOW + DAY),
    }
}

fn external() -> Issuer {
    let scope = Scope::External("laptop".into());
    delegate(&root(1), Mandate { scope, namespaces: Namespaces::Only(vec![]), routes: vec![net("10.20.0.0/16")], ..mandate() })
}

fn laptop_certificate() -> PeerCertificate {
    PeerCertificate { name: "laptop".into(), namespace: String::new(), pod: None, service_account: None, labels: vec![], ..pod(7) }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
