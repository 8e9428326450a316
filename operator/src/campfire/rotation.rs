//! How one key follows another: which step is due, and what it waits for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use campfire_api::conditions::Reason;
use campfire_api::{Rotation, names};
use campfire_protocol::key::{Fingerprint, KeyMode, Psk};
use campfire_protocol::server::ServerId;

use super::keys::Held;
use super::peers::Peers;
use super::validate::{KeySource, Valid};
use crate::conditions::Said;
use crate::state::{HeldKey, View};

/// Most clusters that are named.
const MAX_NAMED: usize = 8;

/// A step of a rotation that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new key is made, which all accept.
    Distribute,
    /// All meet under both.
    Activate,
    /// The old keys are dropped.
    Retire,
}

/// What a rotation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is asked for, or all is done.
    Nothing,
    /// This.
    Take(Step),
    /// Not all hold the newest key yet.
    Wait,
}

/// The step that a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Up to this one.
    pub step: Rotation,
    /// Whoever lacks the newest key: one is to be removed, or does not come back.
    pub now: bool,
}

/// Decides on the next step: `asked` by annotation, `stands` in the Secret, `all` known peers hold the newest key. One that asks
/// for a later step than the next gets them one after the other.
pub fn next_step(asked: Option<Asked>, stands: Option<Rotation>, all: bool) -> Next {
    let all = all || asked.is_some_and(|asked| asked.now);
    match (asked.map(|asked| asked.step), stands) {
        // Retire is asked for until something else is: with one key left it is done.
        (None, _)
        | (Some(Rotation::Retire), None)
        | (Some(Rotation::Distribute), Some(_))
        | (Some(Rotation::Activate), Some(Rotation::Activate | Rotation::Retire)) => Next::Nothing,
        (Some(_), None) => Next::Take(Step::Distribute),
        (Some(_), Some(_)) if !all => Next::Wait,
        (Some(_), Some(Rotation::Distribute)) => Next::Take(Step::Activate),
        (Some(_), Some(_)) => Next::Take(Step::Retire),
    }
}

/// The keys after a step. `fresh` makes a new one.
///
/// # Errors
/// Those of `fresh`.
pub fn after<E>(step: Step, keys: &[HeldKey], fresh: impl FnOnce() -> Result<Psk, E>) -> Result<Vec<HeldKey>, E> {
    let mut keys = keys.to_vec();
    match step {
        Step::Distribute => keys.insert(0, HeldKey::new(fresh()?, KeyMode::Accept)),
        Step::Activate => keys.iter_mut().for_each(|key| key.mode = KeyMode::Announce),
        Step::Retire => keys.truncate(1),
    }
    Ok(keys)
}

/// Who does not have the newest key, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The newest key.
    newest: Fingerprint,
    /// Peers, by cluster.
    peers: BTreeMap<String, usize>,
    /// Pods that have not reported.
    silent: usize,
    /// Servers on which the operator sits, and not under this key.
    servers: BTreeSet<ServerId>,
    /// The operator is not at the fire, and does not know who is elsewhere.
    blind: bool,
}

impl Lacking {
    /// Of this key.
    pub fn of(newest: Fingerprint, peers: &Peers, view: &View) -> Self {
        Self { newest, peers: peers.lacking(newest), silent: peers.silent, servers: unaware(view, newest), blind: view.camped == 0 }
    }

    /// Whether everybody has it.
    pub fn nobody(&self) -> bool {
        self.peers.is_empty() && self.silent == 0 && self.servers.is_empty() && !self.blind
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |cluster: &str| if cluster.is_empty() { "(unnamed)".to_owned() } else { cluster.to_owned() };
        let mut missing: Vec<String> =
            self.peers.iter().take(MAX_NAMED).map(|(cluster, peers)| format!("{peers} in cluster {}", named(cluster))).collect();
        if self.silent > 0 {
            missing.push(format!("{} pods that have not reported", self.silent));
        }
        if !self.servers.is_empty() {
            let servers = self.servers.iter().map(ServerId::as_str).collect::<Vec<_>>().join(", ");
            missing.push(format!("server {servers} (those of this cluster learn it within two minutes)"));
        }
        if self.blind {
            missing.push("who is elsewhere is not known, as the operator is not at the fire".into());
        }
        f.write_str(&missing.join(", "))
    }
}

/// Servers on which the operator sits, and not under this key. A server that knows an old key alone would be lost with it: kubelets bring new
/// Secrets to pods within a minute or two.
pub fn unaware(view: &View, fingerprint: Fingerprint) -> BTreeSet<ServerId> {
    let know = view.seated.get(&fingerprint);
    let all = view.seated.values().flatten();
    all.filter(|server| know.is_none_or(|know| !know.contains(*server))).cloned().collect()
}

/// Where a Campfire's rotation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This step is to be taken now.
    Due(Step),
    /// Nothing is to be done; there may be something to say.
    Said(Option<Said>),
}

/// Looks at a Campfire's rotation. `stepped`: a step was taken just now, and who is to hear of it must have the time for that.
pub fn look(valid: &Valid, held: &Held, lacking: &Lacking, stepped: bool) -> Standing {
    let asked = match &valid.rotate {
        Ok(asked) => *asked,
        Err(why) => return Standing::Said(Some(why.clone())),
    };
    let stands = held.rotation();
    if asked.is_none() && stands.is_none() {
        return Standing::Said(None);
    }
    if matches!(valid.source, KeySource::Join { .. }) {
        let message = "the key comes from the join Secret: rotate it in the cluster that made it, then put its new join Secret here";
        return Standing::Said(asked.map(|_| Said::of(Reason::RotatesElsewhere, message)));
    }
    match next_step(asked, stands, lacking.nobody()) {
        Next::Take(step) if !stepped => Standing::Due(step),
        Next::Wait if !stepped => Standing::Said(Some(Said::of(
            Reason::WaitingForPeers,
            format!(
                "not all hold the new key {} yet: {lacking}; a joined cluster needs the new join Secret; to go on without them: annotate {}=ActivateNow or RetireNow",
                lacking.newest,
                names::ROTATE_ANNOTATION
            ),
        ))),
        Next::Nothing | Next::Take(_) | Next::Wait => Standing::Said(Some(stage(stands))),
    }
}

/// What is said of the stage that was reached.
fn stage(stands: Option<Rotation>) -> Said {
    let next = |done: &str, step: &str| format!("{done}; next: annotate {}={step}", names::ROTATE_ANNOTATION);
    match stands {
        Some(Rotation::Distribute) => Said::of(Reason::Distributed, next("everybody gets the new key", "Activate")),
        Some(Rotation::Activate | Rotation::Retire) => Said::of(Reason::Activated, next("everybody meets under both keys", "Retire")),
        None => Said::of(Reason::Retired, "the old key is dropped"),
    }
}
