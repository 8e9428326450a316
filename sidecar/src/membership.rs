//! A peer in no cluster certifies itself, by the issuer that its URI brings: for a day, and anew long before that is over.

use std::time::Duration;

use campfire_mesh::config::Membership;
use campfire_protocol::certificate::{Issuer, LEEWAY, Mandate, Namespaces, PeerCertificate, Rights, RootKey, RootPublic, Scope};
use campfire_protocol::identity::{Identity, PublicKey};
use campfire_protocol::time::{UnixMillis, UnixSeconds};
use campfire_protocol::uri::{CampUri, MAX_ROOTS};
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::config::BadConfig;
use crate::secrets;

/// How long a certificate holds, seconds.
const LIFE: u64 = 24 * 3_600;
/// How old one gets before it is replaced, seconds.
const RENEW: u64 = 8 * 3_600;

/// Lets one peer certify itself under this name, from now on and for so long.
pub fn delegate(root: &RootKey, name: &str, routes: &[IpNet], life: Duration) -> Result<Issuer, BadConfig> {
    let from = UnixSeconds::from(campfire_camp::unix_millis());
    let mandate = Mandate {
        scope: Scope::External(name.to_owned()),
        rights: Rights { certify: true, ..Rights::default() },
        namespaces: Namespaces::Only(Vec::new()),
        routes: routes.iter().map(IpNet::trunc).collect(),
        from,
        until: UnixSeconds(from.0 + life.as_secs()),
    };
    let mut seed = Zeroizing::new([0; 32]);
    secrets::random(seed.as_mut()).map_err(|error| BadConfig(error.to_string()))?;
    root.delegate(Identity::from_seed(&seed), mandate).map_err(|error| BadConfig(format!("--for {name}: {error}")))
}

/// What a URI says of the mesh: who vouches, and by what this peer certifies itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    roots: Vec<RootPublic>,
    issuer: Issuer,
    name: String,
}

impl Delegation {
    /// Of all URIs together; `None`: the mesh is open.
    pub fn of(uris: &[CampUri]) -> Result<Option<Self>, BadConfig> {
        let mut roots: Vec<RootPublic> = uris.iter().flat_map(|uri| &uri.roots).copied().collect();
        roots.sort_unstable();
        roots.dedup();
        if roots.len() > MAX_ROOTS {
            return Err(BadConfig("the URIs name more than two roots: they are of different meshes".into()));
        }
        let Some(issuer) = uris.iter().find_map(|uri| uri.issuer.clone()) else {
            return if roots.is_empty() {
                Ok(None)
            } else {
                Err(BadConfig(
                    "the URI is of a certified mesh and brings nothing that certifies this peer, so nobody would let it in: ask for one that \
                     `campfire uri --for NAME` made"
                        .into(),
                ))
            };
        };
        let Scope::External(name) = &issuer.certificate().mandate.scope else {
            return Err(BadConfig(
                "the URI is that of a cluster, for its operator: ask for one that `campfire uri --for NAME` made".into(),
            ));
        };
        let name = name.clone();
        Ok(Some(Self { roots, issuer, name }))
    }

    /// What this peer is called, whatever it would like.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The routes that it offers must be granted.
    pub fn check_routes(&self, routes: &[IpNet]) -> Result<(), BadConfig> {
        let granted = &self.issuer.certificate().mandate.routes;
        match routes.iter().find(|route| !granted.iter().any(|grant| grant.contains(*route))) {
            Some(route) => Err(BadConfig(format!(
                "--advertise-route: the URI does not grant {route}: ask for one that `campfire uri --for {} --route {route}` made",
                self.name
            ))),
            None => Ok(()),
        }
    }
}

/// Makes the chains of this peer, one after the other.
pub struct SelfCertifier {
    delegation: Delegation,
    identity: PublicKey,
    routes: Vec<IpNet>,
    born: Option<UnixSeconds>,
    issued: Option<UnixSeconds>,
    /// What was read since is not in the last one.
    stale: bool,
}

impl SelfCertifier {
    /// For a peer that has made none yet.
    pub fn new(delegation: Delegation, identity: PublicKey, routes: Vec<IpNet>) -> Self {
        Self { delegation, identity, routes, born: None, issued: None, stale: false }
    }

    /// The files were read again.
    pub fn changed(&mut self, delegation: Delegation, routes: Vec<IpNet>) {
        if (&self.delegation, &self.routes) != (&delegation, &routes) {
            (self.delegation, self.routes) = (delegation, routes);
            self.stale = true;
        }
    }

    /// What the mesh is to be told, if it is something new: a chain is due, or clocks were put right. Without a chain once the URI has ended.
    pub fn due(&mut self, now: UnixMillis) -> Option<Membership> {
        let now = UnixSeconds::from(now);
        let fresh = |issued: UnixSeconds| issued.0 <= now.0 + LEEWAY.as_secs() && now.0 < issued.0 + RENEW;
        if !std::mem::take(&mut self.stale) && self.issued.is_some_and(fresh) {
            return None;
        }
        // Two of one second could not be told apart.
        let after = self.issued.map_or(0, |UnixSeconds(issued)| issued + 1);
        let ahead = after > now.0 + LEEWAY.as_secs();
        let issued = UnixSeconds(if ahead { now.0 } else { now.0.max(after) });
        let born = *self.born.get_or_insert(issued);
        self.issued = Some(issued);
        let until = UnixSeconds(issued.0 + LIFE).min(self.delegation.issuer.certificate().mandate.until);
        let certificate = PeerCertificate {
            identity: self.identity,
            name: self.delegation.name.clone(),
            namespace: String::new(),
            cluster: None,
            pod: None,
            service_account: None,
            labels: Vec::new(),
            ipv4: None,
            routes: self.routes.clone(),
            born: born.min(issued),
            issued,
            until,
        };
        Some(Membership { roots: self.delegation.roots.clone(), chain: self.delegation.issuer.certify(certificate).ok() })
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::certificate::Refusal;
    use campfire_protocol::key::Psk;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    #[test]
    fn a_chain_holds_for_a_day_and_is_replaced_after_eight_hours_by_a_later_one() {
        let mut certifier = certifier(30 * DAY);
        let first = certifier.due(at(NOW)).unwrap().chain.unwrap();
        assert!(first.verify(&[root().public()], &[at(NOW + DAY - 1)]).is_ok());
        assert_eq!(certifier.due(at(NOW + RENEW - 1)), None);
        let second = certifier.due(at(NOW + RENEW)).unwrap().chain.unwrap();
        assert_eq!((second.peer().born, second.peer().issued.0), (first.peer().born, first.peer().issued.0 + RENEW));
    }

    #[test]
    fn a_clock_that_was_ahead_or_behind_is_put_right_by_a_new_chain() {
        for wrong in [NOW - 9 * 3_600, NOW + 3_600] {
            let mut certifier = certifier(30 * DAY);
            certifier.due(at(wrong)).unwrap();
            let chain = certifier.due(at(NOW)).unwrap().chain.unwrap();
            assert!(chain.verify(&[root().public()], &[at(NOW)]).is_ok(), "{wrong}");
        }
    }

    #[test]
    fn what_is_read_again_makes_a_later_chain_of_the_same_second() {
        let mut certifier = certifier(30 * DAY);
        let before = certifier.due(at(NOW)).unwrap().chain.unwrap();
        certifier.changed(delegation(30 * DAY), vec![]);
        assert_eq!(certifier.due(at(NOW)), None);
        certifier.changed(delegation(30 * DAY), vec!["10.20.7.0/24".parse().unwrap()]);
        let after = certifier.due(at(NOW)).unwrap().chain.unwrap();
        assert!(after.peer().issued > before.peer().issued && after.peer().routes.len() == 1);
    }

    #[test]
    fn a_uri_that_has_ended_certifies_nobody() {
        let mut certifier = certifier(3_600);
        let chain = certifier.due(at(NOW)).unwrap().chain.unwrap();
        assert_eq!(chain.peer().until, UnixSeconds(NOW + 3_600));
        assert_eq!(chain.verify(&[root().public()], &[at(NOW + 3_600 + 900)]), Err(Refusal::CertificateExpired));
        assert_eq!(certifier.due(at(NOW + RENEW)).unwrap().chain, None);
    }

    #[test]
    fn a_uri_that_lets_nobody_in_is_refused_with_what_to_do() {
        let uri = |text: String| text.parse::<CampUri>().unwrap();
        let psk = Psk::from_bytes([9; 32]).to_text();
        let open = uri(format!("camp://a#{}", *psk));
        let bare = uri(format!("camp://a?root={}#{}", root().public(), *psk));
        let cluster =
            root().delegate(Identity::from_seed(&[2; 32]), Mandate { scope: Scope::Cluster("paris".into()), ..mandate(DAY) }).unwrap();
        let joins = uri(format!("camp://a?root={}#{}.{}", root().public(), *psk, *cluster.to_text()));
        assert_eq!(Delegation::of(&[open]), Ok(None));
        for refused in [bare, joins] {
            assert!(Delegation::of(&[refused]).unwrap_err().0.contains("campfire uri --for"));
        }
        let why = delegation(DAY).check_routes(&["10.99.0.0/16".parse().unwrap()]).unwrap_err();
        assert!(why.0.contains("--route 10.99.0.0/16"), "{why}");
    }

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(seconds * 1_000)
    }

    fn root() -> RootKey {
        RootKey::from_seed(&[1; 32])
    }

    fn mandate(life: u64) -> Mandate {
        Mandate {
            scope: Scope::External("laptop".into()),
            rights: Rights { certify: true, ..Rights::default() },
            namespaces: Namespaces::Only(vec![]),
            routes: vec!["10.20.0.0/16".parse().unwrap()],
            from: UnixSeconds(NOW - DAY),
            until: UnixSeconds(NOW + life),
        }
    }

    fn delegation(life: u64) -> Delegation {
        let issuer = root().delegate(Identity::from_seed(&[2; 32]), mandate(life)).unwrap();
        Delegation { roots: vec![root().public()], issuer, name: "laptop".into() }
    }

    fn certifier(life: u64) -> SelfCertifier {
        SelfCertifier::new(delegation(life), Identity::from_seed(&[7; 32]).public(), vec![])
    }
}
