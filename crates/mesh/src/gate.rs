//! The gate of a link (docs/protocol.md, "The gate"): in a certified mesh nothing but chains passes until the peer has shown one that
//! holds.
//!
//! Handshakes come by many ways, and none of them is guarded: a link whose gate is shut has no addresses in the data plane's table, so
//! what its session carries is nobody's, whichever way it came.

use std::time::Duration;

use campfire_protocol::certificate::{Certified, Chain, Refusal};
use campfire_protocol::control::Control;
use campfire_protocol::time::{Time, UnixMillis, UnixSeconds};

use crate::config::Membership;
use crate::io::Notice;
use crate::link::{Link, short};
use crate::shared::{Cx, Shared};

/// Until the peer holds our chain, it is shown again after this, then after twice as long each time,
const AGAIN: Duration = Duration::from_millis(300);
/// up to this.
const AGAIN_MOST: Duration = Duration::from_secs(30);
/// Who asks for our chain again gets it at most this often.
const ASKED: Duration = Duration::from_secs(1);
/// Another chain than the one held is looked at this often at most: a look is two verifications.
const LOOK: Duration = Duration::from_millis(100);
/// An end that is further away is looked at again after this: clocks are put right meanwhile.
const RECHECK: Duration = Duration::from_hours(1);

/// What we know of a peer's membership, and it of ours.
#[derive(Debug)]
pub(crate) struct Gate {
    certified: Option<Box<Certified>>,
    /// Why the gate is shut, while nobody is certified.
    refusal: Refusal,
    /// When to look whether the certificate still holds.
    recheck: Option<Time>,
    looked: Option<Time>,
    /// Which of our chains lets us in there, as the peer says.
    held: Option<UnixSeconds>,
    /// When ours was last shown, and what was said then.
    shown: Option<(Time, Shown)>,
    /// How often it was shown without being held.
    tries: u32,
    again: Option<Time>,
}

/// What we say with a chain: which of ours it is, and which of the peer's we hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    issued: UnixSeconds,
    held: Option<UnixSeconds>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            certified: None,
            refusal: Refusal::NotCertified,
            recheck: None,
            looked: None,
            held: None,
            shown: None,
            tries: 0,
            again: None,
        }
    }
}

impl Gate {
    /// Who the peer is, if it is let in.
    pub(crate) fn certified(&self) -> Option<&Certified> {
        self.certified.as_deref()
    }

    /// Why nothing passes; `None`: all does.
    pub(crate) fn refusal(&self, shared: &Shared) -> Option<Refusal> {
        if shared.membership.is_none() || self.certified.is_some() { None } else { Some(self.refusal) }
    }

    fn issued(&self) -> Option<UnixSeconds> {
        self.certified().map(|certified| certified.peer().issued)
    }

    /// When something is due, while there is a session or not.
    pub(crate) fn due(&self, established: bool) -> Option<Time> {
        [self.recheck, self.again.filter(|_| established)].into_iter().flatten().min()
    }
}

impl Link {
    /// Whether all passes.
    pub(crate) fn is_open(&self, shared: &Shared) -> bool {
        self.gate.refusal(shared).is_none()
    }

    /// Whether this may be said or heard now.
    pub(crate) fn passes(&self, shared: &Shared, control: &Control) -> bool {
        match control {
            Control::Chain { .. } | Control::Goodbye => true,
            Control::Candidates { .. }
            | Control::Punch { .. }
            | Control::PunchAck { .. }
            | Control::Probe { .. }
            | Control::ProbeReply { .. } => self.is_open(shared),
        }
    }

    /// Shows our chain, if we have one, until the peer says that it holds it.
    pub(crate) fn show_chain(&mut self, cx: &mut Cx<'_>) {
        let Some(chain) = cx.shared.membership.as_ref().and_then(|membership| membership.chain.as_ref()) else { return };
        let shown = Shown { issued: chain.peer().issued, held: self.gate.issued() };
        let control = Control::Chain { chain: chain.to_bytes(), held: shown.held };
        self.gate.shown = Some((cx.now, shown));
        let pause = AGAIN.saturating_mul(1 << self.gate.tries.min(10)).min(AGAIN_MOST);
        self.gate.tries += 1;
        self.gate.again = (self.gate.held != Some(shown.issued)).then_some(cx.now + pause);
        self.say(cx, &control);
    }

    /// Shows our chain anew: a session has begun with somebody who may know nothing of us, or the chain is a new one.
    pub(crate) fn introduce(&mut self, cx: &mut Cx<'_>) {
        self.gate.held = None;
        self.gate.tries = 0;
        self.show_chain(cx);
    }

    /// The peer shows its chain, and says which of ours it holds.
    pub(crate) fn chain_shown(&mut self, cx: &mut Cx<'_>, chain: &[u8], held: Option<UnixSeconds>) {
        let Some(membership) = &cx.shared.membership else { return };
        let ours = membership.chain.as_ref().map(|chain| chain.peer().issued);
        self.gate.held = held;
        if held == ours {
            self.gate.again = None;
        }
        let opened = self.look(cx, chain);
        let now = ours.map(|issued| Shown { issued, held: self.gate.issued() });
        let (at, before) = self.gate.shown.unzip();
        let asked = held != ours && at.is_none_or(|at| cx.now.since(at) >= ASKED);
        if before != now || asked {
            // Before anything else: what follows it in the session is heard only behind an open gate.
            self.show_chain(cx);
        }
        if opened {
            self.begin(cx);
        }
    }

    /// Looks at a chain. Tells whether it opened the gate.
    fn look(&mut self, cx: &mut Cx<'_>, chain: &[u8]) -> bool {
        let Ok(chain) = Chain::from_bytes(chain) else {
            self.refuse(cx, Refusal::NotCertified);
            return false;
        };
        if self.gate.certified().is_some_and(|certified| chain.peer().issued <= certified.peer().issued) {
            return false;
        }
        if self.gate.looked.is_some_and(|at| cx.now.since(at) < LOOK) {
            cx.shared.counters.count("chains_withheld");
            return false;
        }
        self.gate.looked = Some(cx.now);
        // Another's chain is no more than a text that anybody may have read.
        let certified = if chain.peer().identity == self.peer { cx.verify(&chain) } else { Err(Refusal::NotCertified) };
        match certified {
            Ok(certified) => self.let_in(cx, certified),
            Err(refusal) => {
                self.refuse(cx, refusal);
                false
            }
        }
    }

    fn let_in(&mut self, cx: &mut Cx<'_>, certified: Certified) -> bool {
        self.name.clone_from(&certified.peer().name);
        self.gate.recheck = Some(cx.now + certified.holds_for(&cx.fire.clocks(cx.now)).min(RECHECK));
        let opened = self.gate.certified.replace(Box::new(certified)).is_none();
        cx.shared.changed.addressing = true;
        if opened {
            cx.shared.counters.count("gates_opened");
            self.happened(cx.now, "its certificate holds");
        }
        opened
    }

    /// What was shown lets nobody in; if something before did, that goes on.
    fn refuse(&mut self, cx: &mut Cx<'_>, refusal: Refusal) {
        cx.shared.counters.count(match refusal {
            Refusal::NotCertified => "refused_not_certified",
            Refusal::CertificateExpired => "refused_certificate_expired",
            Refusal::UnknownIssuer => "refused_unknown_issuer",
            Refusal::OutOfScope => "refused_out_of_scope",
        });
        if self.gate.certified.is_none() && self.gate.refusal != refusal {
            self.gate.refusal = refusal;
            self.happened(cx.now, format!("not let in: {}", refusal.sentence()));
            cx.shared.notice(Notice::PeerRefused { peer: self.name.clone(), reason: refusal });
        }
    }

    /// What is due at the gate.
    pub(crate) fn tend_gate(&mut self, cx: &mut Cx<'_>) {
        if self.gate.recheck.take_if(|at| *at <= cx.now).is_some()
            && let Some(certified) = &self.gate.certified
        {
            let left = certified.holds_for(&cx.fire.clocks(cx.now));
            if left.is_zero() {
                self.shut(cx, Refusal::CertificateExpired);
            } else {
                self.gate.recheck = Some(cx.now + left.min(RECHECK));
            }
        }
        if self.established.is_some() && self.gate.again.is_some_and(|at| at <= cx.now) {
            self.show_chain(cx);
        }
    }

    /// What this peer is told of the mesh has changed: its roots, or our chain.
    pub(crate) fn membership_changed(&mut self, cx: &mut Cx<'_>) {
        let root = self.gate.certified().map(|certified| certified.issuer().root);
        match (&cx.shared.membership, root) {
            (Some(membership), Some(root)) if membership.roots.iter().all(|known| known.tag() != root) => {
                self.shut(cx, Refusal::UnknownIssuer);
            }
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) => self.leave_paths(cx),
            (None, Some(_)) => self.gate = Gate::default(),
        }
        if self.established.is_some() {
            self.introduce(cx);
        }
    }

    fn shut(&mut self, cx: &mut Cx<'_>, refusal: Refusal) {
        self.gate = Gate { held: self.gate.held, shown: self.gate.shown, again: self.gate.again, ..Gate::default() };
        self.name = short(&self.wireguard);
        self.refuse(cx, refusal);
        self.leave_paths(cx);
    }

    /// Behind a shut gate there is the relay alone, as for a stranger.
    fn leave_paths(&mut self, cx: &mut Cx<'_>) {
        cx.shared.changed.addressing = true;
        self.paths.clear();
        self.probes.clear();
        self.pings.clear();
        self.told = None;
        self.noticed = None;
        self.punch.rest();
        self.update_path(cx);
    }
}

impl Cx<'_> {
    /// Who a chain says somebody is, if it holds here and now.
    fn verify(&self, chain: &Chain) -> Result<Certified, Refusal> {
        let Some(Membership { roots, .. }) = &self.shared.membership else { return Err(Refusal::UnknownIssuer) };
        chain.verify(roots, &self.fire.clocks(self.now))
    }
}

/// Why others do not let us in, if it is our own chain.
pub(crate) fn own_fault(shared: &Shared, clocks: &[UnixMillis]) -> Option<&'static str> {
    let Membership { roots, chain } = shared.membership.as_ref()?;
    let Some(chain) = chain else { return Some("this peer has no certificate: nobody lets it in") };
    match chain.verify(roots, clocks) {
        Ok(_) if chain.peer().identity == shared.own => None,
        Ok(_) | Err(Refusal::NotCertified) => Some("this peer's certificate is not its own: nobody lets it in"),
        Err(Refusal::CertificateExpired) => {
            Some("this peer's certificate does not hold now, by its own clock and by its servers': nobody lets it in")
        }
        Err(Refusal::UnknownIssuer) => Some("this peer's certificate is of another mesh: nobody lets it in"),
        Err(Refusal::OutOfScope) => Some("this peer's certificate says what its issuer may not say: nobody lets it in"),
    }
}
