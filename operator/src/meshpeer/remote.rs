//! Peers of other clusters: which of those at the fire are none of ours, and for how long each is shown. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use campfire_api::names;
use campfire_protocol::identity::PublicKey;

use crate::state::{ObjectKey, Sighting, View};

/// Remote peers of one Campfire that are shown as objects.
const MOST: usize = 200;
/// How long somebody who says that it is of this cluster, and is no pod that is known, may turn out to be one.
const DOUBT: Duration = Duration::from_mins(2);

/// One peer that is shown.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its Campfire.
    pub campfire: ObjectKey,
    /// Its Ed25519 public key, once it was seen.
    pub identity: Option<PublicKey>,
    /// Since when it is gone.
    left: Option<Instant>,
}

/// All remote peers, by the keys of their MeshPeers.
#[derive(Debug)]
pub struct Remotes {
    /// How long a peer that left is still shown.
    linger: Duration,
    shown: HashMap<ObjectKey, Remote>,
    doubtful: HashMap<(ObjectKey, PublicKey), Instant>,
}

/// What is known of somebody at the fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// A pod here, or an External peer that has its own object.
    Ours,
    /// It says that it is of this cluster, and no pod of its name is known.
    Claimed,
    /// Of elsewhere.
    Foreign,
}

impl Remotes {
    /// Nobody yet. Who left is shown for `linger` more.
    pub fn new(linger: Duration) -> Self {
        Self { linger, shown: HashMap::new(), doubtful: HashMap::new() }
    }

    /// An object that was there before this operator led.
    pub fn adopt(&mut self, peer: ObjectKey, campfire: ObjectKey, now: Instant) {
        self.shown.entry(peer).or_insert(Remote { campfire, identity: None, left: Some(now) });
    }

    /// Looks at a fire. Gives the keys of the MeshPeers that this concerns, and whether some are not shown for there are too many.
    pub fn look(&mut self, campfire: &ObjectKey, view: &View, now: Instant, kin: impl Fn(&Sighting) -> Kin) -> (Vec<ObjectKey>, bool) {
        // Who does not sit there sees nobody, which says nothing.
        if view.camped == 0 {
            return (Vec::new(), false);
        }
        let mut concerned = Vec::new();
        let mut present: HashMap<ObjectKey, &Sighting> = HashMap::new();
        let shows = self.shown.values().any(|remote| remote.campfire == *campfire);
        let named =
            |sighting: &Sighting| ObjectKey::new(&campfire.namespace, names::remote_peer(&campfire.name, &sighting.identity.to_string()));
        for sighting in view.seen.values().filter(|sighting| !sighting.origin) {
            let foreign = match kin(sighting) {
                Kin::Ours if !shows => false,
                Kin::Ours => {
                    // It was seen before it was declared, or before it reported. It has not left: it has another object, and needs no second one.
                    let key = named(sighting);
                    if self.shown.remove(&key).is_some() {
                        concerned.push(key);
                    }
                    false
                }
                Kin::Foreign => true,
                Kin::Claimed => *self.doubtful.entry((campfire.clone(), sighting.identity)).or_insert(now) + DOUBT <= now,
            };
            if foreign {
                present.insert(named(sighting), sighting);
            }
        }
        self.doubtful.retain(|(of, identity), _| of != campfire || view.seen.contains_key(identity));
        for (key, remote) in self.shown.iter_mut().filter(|(_, remote)| remote.campfire == *campfire) {
            match present.remove(key) {
                Some(sighting) => {
                    if remote.left.take().is_some() {
                        concerned.push(key.clone());
                    }
                    remote.identity = Some(sighting.identity);
                }
                None if remote.left.is_none() => {
                    remote.left = Some(now);
                    concerned.push(key.clone());
                }
                None => {}
            }
        }
        let places = MOST.saturating_sub(self.shown.values().filter(|remote| remote.campfire == *campfire).count());
        let truncated = present.len() > places;
        let mut newcomers: Vec<_> = present.into_iter().collect();
        newcomers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, sighting) in newcomers.into_iter().take(places) {
            let remote = Remote { campfire: campfire.clone(), identity: Some(sighting.identity), left: None };
            self.shown.insert(key.clone(), remote);
            concerned.push(key);
        }
        (concerned, truncated)
    }

    /// Forgets all of a Campfire, or those that left long ago. Gives the keys of their MeshPeers.
    pub fn sweep(&mut self, now: Instant, keep: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
        let over = |remote: &Remote| remote.left.is_some_and(|left| left + self.linger <= now) || !keep(&remote.campfire);
        let gone: Vec<ObjectKey> = self.shown.iter().filter(|(_, remote)| over(remote)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.shown.remove(key);
        }
        self.doubtful.retain(|(campfire, _), _| keep(campfire));
        gone
    }

    /// The peer that a MeshPeer shows.
    pub fn get(&self, peer: &ObjectKey) -> Option<&Remote> {
        self.shown.get(peer)
    }
}

impl Remote {
    /// Whether it is at the fire.
    pub fn present(&self) -> bool {
        self.left.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use campfire_protocol::identity::Identity;

    use super::*;
    use crate::state::WireguardKey;

    const LINGER: Duration = Duration::from_mins(10);

    #[test]
    fn a_peer_is_shown_for_a_while_after_it_left_and_not_forgotten_when_we_do_not_sit_there() {
        let start = Instant::now();
        let mut remotes = Remotes::new(LINGER);
        let key = mesh_peer(1);
        assert_eq!(look(&mut remotes, &[1], start), (vec![key.clone()], false));
        assert_eq!(look(&mut remotes, &[1], start), (vec![], false), "the same again concerns nobody");
        assert_eq!(remotes.look(&fire(), &View::default(), start, |_| Kin::Foreign).0, []);
        assert!(remotes.get(&key).is_some_and(Remote::present), "who does not sit at the fire sees nobody");
        assert_eq!(look(&mut remotes, &[], start).0, std::slice::from_ref(&key));
        assert_eq!(remotes.sweep(start + LINGER / 2, |_| true), []);
        assert_eq!(remotes.sweep(start + LINGER, |_| true), std::slice::from_ref(&key));
        look(&mut remotes, &[1], start);
        assert_eq!(remotes.sweep(start, |_| false), [key], "Summary, or no such Campfire");
    }

    #[test]
    fn who_comes_back_in_time_keeps_its_object() {
        let start = Instant::now();
        let mut remotes = Remotes::new(LINGER);
        look(&mut remotes, &[1], start);
        look(&mut remotes, &[], start);
        assert_eq!(look(&mut remotes, &[1], start + LINGER / 2).0, [mesh_peer(1)]);
        assert_eq!(remotes.sweep(start + LINGER * 2, |_| true), []);
    }

    #[test]
    fn no_more_than_two_hundred_are_shown() {
        let mut remotes = Remotes::new(LINGER);
        let mut all: Vec<u32> = (0..250).collect();
        // Those are shown whose names come first.
        all.sort_by_key(|n| mesh_peer(*n));
        let (concerned, truncated) = look(&mut remotes, &all, Instant::now());
        assert_eq!((concerned.len(), truncated), (MOST, true));
        assert!(!look(&mut remotes, &all[..MOST], Instant::now()).1);
    }

    #[test]
    fn who_says_that_it_is_of_this_cluster_has_time_to_turn_out_as_a_pod() {
        let start = Instant::now();
        let mut remotes = Remotes::new(LINGER);
        let view = view(&[1]);
        assert_eq!(remotes.look(&fire(), &view, start, |_| Kin::Claimed).0, []);
        assert_eq!(remotes.look(&fire(), &view, start + DOUBT / 2, |_| Kin::Ours).0, [], "its report came");
        assert_eq!(remotes.look(&fire(), &view, start + DOUBT, |_| Kin::Claimed).0, [mesh_peer(1)], "or it is none of ours");
    }

    #[test]
    fn who_turns_out_to_be_ours_is_shown_once_and_at_once() {
        let start = Instant::now();
        let mut remotes = Remotes::new(LINGER);
        let view = view(&[1, 2]);
        assert_eq!(remotes.look(&fire(), &view, start, |_| Kin::Foreign).0.len(), 2);
        let kin = |sighting: &Sighting| if sighting.identity == identity(1) { Kin::Ours } else { Kin::Foreign };
        assert_eq!(remotes.look(&fire(), &view, start, kin).0, [mesh_peer(1)]);
        assert!(remotes.get(&mesh_peer(1)).is_none(), "it has not left: nothing lingers");
        assert!(remotes.get(&mesh_peer(2)).is_some_and(Remote::present));
    }

    #[test]
    fn objects_of_an_earlier_leader_are_kept_while_their_peers_are_there() {
        let start = Instant::now();
        let mut remotes = Remotes::new(LINGER);
        remotes.adopt(mesh_peer(1), fire(), start);
        remotes.adopt(mesh_peer(2), fire(), start);
        look(&mut remotes, &[1], start);
        assert_eq!(remotes.sweep(start + LINGER, |_| true), [mesh_peer(2)]);
    }

    #[test]
    fn operators_are_no_peers() {
        let mut view = view(&[1]);
        view.seen.values_mut().for_each(|sighting| sighting.origin = true);
        assert_eq!(Remotes::new(LINGER).look(&fire(), &view, Instant::now(), |_| Kin::Foreign).0, []);
    }

    fn look(remotes: &mut Remotes, peers: &[u32], now: Instant) -> (Vec<ObjectKey>, bool) {
        remotes.look(&fire(), &view(peers), now, |_| Kin::Foreign)
    }

    fn fire() -> ObjectKey {
        ObjectKey::new("camp", "fire")
    }

    fn mesh_peer(n: u32) -> ObjectKey {
        ObjectKey::new("camp", names::remote_peer("fire", &identity(n).to_string()))
    }

    fn identity(n: u32) -> PublicKey {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        Identity::from_seed(&seed).public()
    }

    fn view(peers: &[u32]) -> View {
        let sighting = |n: &u32| Sighting {
            identity: identity(*n),
            wireguard: WireguardKey([0; 32]),
            name: format!("peer-{n}"),
            namespace: String::new(),
            cluster: "west".into(),
            addresses: Vec::new(),
            fingerprints: Vec::new(),
            origin: false,
        };
        let seen: BTreeMap<PublicKey, Sighting> = peers.iter().map(|n| (identity(*n), sighting(n))).collect();
        View { camped: 1, members: seen.len(), seen, ..View::default() }
    }
}
