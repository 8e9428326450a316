//! The conversation with a server as time goes by: what is due, what was not answered, whether the server is still there.

use std::time::Duration;

use campfire_protocol::carrier::{StreamId, Via};
use campfire_protocol::server::Transport;
use campfire_protocol::stun::TransactionId;
use campfire_protocol::time::Time;

use crate::FireEvent;
use crate::channels::State as Bound;
use crate::connect::{self, Connecting, socket_for};
use crate::conversation::{Active, Conversation, Phase};
use crate::exchange::{Ask, Due, Exchange, Purpose};
use crate::hearth::Hearth;
use crate::io::Output;
use crate::seating::Seating;

/// Longest wait until UDP is tried again under a conversation on a stream.
const UPGRADE_MAX: Duration = Duration::from_mins(2);
/// Silence under traffic after which a server is asked whether it is there.
const SILENCE: Duration = Duration::from_millis(500);
/// Between two such questions.
const WATCH: Duration = Duration::from_millis(300);
/// Unanswered ones until paths are suspect, and until the server is lost.
const SUSPECT: u8 = 2;
const LOST: u8 = 6;

/// What is known of the server's liveness under traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    sent: Option<Time>,
    next: Option<Time>,
    misses: u8,
}

impl Conversation {
    /// Anything came from the server.
    pub(crate) fn hear(&mut self, hearth: &mut Hearth, now: Time) {
        self.heard = Some(now);
        self.watch.misses = 0;
        self.watch.next = None;
        if std::mem::take(&mut self.suspect) {
            hearth.events.push_back(FireEvent::Trusted { server: self.slot });
        }
    }

    fn doubt(&mut self, hearth: &mut Hearth) {
        if self.active().is_some() && !std::mem::replace(&mut self.suspect, true) {
            hearth.events.push_back(FireEvent::Suspect { server: self.slot });
        }
    }

    pub(crate) fn note_traffic(&mut self, hearth: &mut Hearth, now: Time, sent: Option<Time>, received: Option<Time>) {
        if received.is_some_and(|at| self.heard.is_none_or(|heard| at > heard)) {
            self.hear(hearth, now);
            self.heard = received;
        }
        self.watch.sent = self.watch.sent.max(sent);
    }

    /// When to ask whether it is still there, because something was sent and nothing came since.
    fn watch_due(&self) -> Option<Time> {
        self.active()?;
        self.watch.next.or_else(|| {
            let (sent, heard) = (self.watch.sent?, self.heard?);
            (sent > heard).then(|| heard + SILENCE.max(self.rtt.unwrap_or_default() * 2))
        })
    }

    fn watch(&mut self, hearth: &mut Hearth, now: Time) {
        let Some(active) = self.active() else { return };
        if self.watch_due().is_none_or(|due| due > now) {
            return;
        }
        if self.watch.next.is_some() {
            self.watch.misses += 1;
        }
        if self.watch.misses >= LOST {
            return self.lost(hearth, now, "no answer under traffic");
        }
        if self.watch.misses >= SUSPECT {
            self.doubt(hearth);
        }
        self.watch.next = Some(now + WATCH.max(self.rtt.unwrap_or_default() * 3 / 2));
        self.ask(hearth, now, active.via, Ask::Binding(Purpose::Watch), 0);
    }

    pub(crate) fn on_wake(&mut self, hearth: &mut Hearth, now: Time) {
        self.exchanges_due(hearth, now);
        if self.names.due().is_some_and(|due| due <= now) {
            self.on_resolved(hearth, now, &[]);
        }
        match self.phase {
            Phase::Waiting(until) | Phase::Plain(until) if until <= now => self.connect(hearth, now),
            Phase::Connecting(_) => self.go_on_connecting(hearth, now),
            Phase::Active(active) => {
                self.keep_seats(hearth, now, active);
                self.bind_wanted(hearth, now);
                self.watch(hearth, now);
                self.upgrade(hearth, now);
            }
            Phase::Idle | Phase::Waiting(_) | Phase::Plain(_) => {}
        }
        let (closing, kept) = std::mem::take(&mut self.old_streams).into_iter().partition(|(at, _)| *at <= now);
        self.old_streams = kept;
        let closing: Vec<(Time, StreamId)> = closing;
        for (_, stream) in closing {
            hearth.remove_via(Via::Stream(stream), self.slot);
            hearth.outputs.push_back(Output::CloseStream { stream });
        }
    }

    fn keep_seats(&mut self, hearth: &mut Hearth, now: Time, active: Active) {
        let due = |seating: &Seating| {
            let outdated = seating.refresh_at.is_some_and(|at| at <= now) || seating.catch_up_at.is_some_and(|at| at <= now);
            seating.wanted && outdated
        };
        let rooms: Vec<u8> = self.seatings.iter().filter(|(_, seating)| due(seating)).map(|(room, _)| *room).collect();
        for room in rooms {
            if let Some(seating) = self.seatings.get_mut(&room) {
                seating.catch_up_at = None;
                seating.refresh_at = None;
            }
            self.camp(hearth, now, room, active.via);
        }
    }

    fn bind_wanted(&mut self, hearth: &mut Hearth, now: Time) {
        let due = |state| matches!(state, Bound::Wanted(at) if at <= now);
        let wanted: Vec<_> = self.channels.iter().filter(|(_, binding)| due(binding.state)).map(|(member, _)| member).collect();
        for member in wanted {
            self.ask_bind(hearth, now, member);
        }
    }

    fn upgrade(&mut self, hearth: &mut Hearth, now: Time) {
        let Phase::Active(active) = &mut self.phase else { return };
        let Some((at, wait)) = active.upgrade else { return };
        if at > now {
            return;
        }
        active.upgrade = Some((now + wait, (wait * 2).min(UPGRADE_MAX)));
        let mut planned = Connecting::new(now);
        let mut addresses = connect::preferred(&self.server, hearth.in_cluster);
        addresses.retain(|address| address.transport == Transport::Udp);
        planned.plan(now, &addresses, &self.names, &hearth.sockets, false, &self.hearsay);
        for attempt in planned.attempts {
            if let Some(socket) = socket_for(&hearth.sockets, attempt.remote) {
                let via = Via::Udp { socket, remote: attempt.remote };
                hearth.add_via(via, self.slot);
                self.ask(hearth, now, via, Ask::Binding(Purpose::Upgrade), 0);
            }
        }
    }

    fn exchanges_due(&mut self, hearth: &mut Hearth, now: Time) {
        let due: Vec<TransactionId> = self.exchanges.iter().filter(|(_, exchange)| exchange.due <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(exchange) = self.exchanges.get_mut(&id) else { continue };
            if exchange.is_refused() {
                self.believe_refusal(hearth, now, id);
                continue;
            }
            match exchange.on_due(now) {
                Due::Resend(nth) => {
                    let (via, bytes, sent) = (exchange.via, exchange.bytes.clone(), exchange.sent);
                    let binding = matches!(exchange.ask, Ask::Binding(_));
                    hearth.counters.fire_retransmissions += 1;
                    hearth.send(via, bytes);
                    if nth == 3 && !binding {
                        self.two_unanswered(hearth, now, via, sent);
                    }
                }
                Due::Failed => {
                    if let Some(exchange) = self.exchanges.remove(&id) {
                        self.forget_camp(&exchange, id);
                        self.failed(hearth, now, &exchange);
                    }
                }
            }
        }
    }

    /// A request was sent three times: is anybody there at all?
    fn two_unanswered(&mut self, hearth: &mut Hearth, now: Time, via: Via, sent: Time) {
        match &self.phase {
            Phase::Active(active) if active.via == via && self.heard.is_none_or(|heard| heard < sent) => self.doubt(hearth),
            Phase::Connecting(_) => {
                self.ask(hearth, now, via, Ask::Binding(Purpose::Look), 0);
            }
            Phase::Idle | Phase::Waiting(_) | Phase::Active(_) | Phase::Plain(_) => {}
        }
    }

    pub(crate) fn forget_camp(&mut self, exchange: &Exchange, id: TransactionId) {
        if let Ask::Camp { room, .. } = exchange.ask
            && let Some(seating) = self.seatings.get_mut(&room).filter(|seating| seating.camp == Some(id))
        {
            seating.camp = None;
        }
    }

    /// No answer came.
    pub(crate) fn failed(&mut self, hearth: &mut Hearth, now: Time, exchange: &Exchange) {
        if let Phase::Connecting(connecting) = &mut self.phase {
            if matches!(exchange.ask, Ask::Camp { .. })
                && let Some(attempt) = connecting.by_via(exchange.via)
            {
                attempt.state = connect::State::Failed;
                if let Via::Stream(stream) = exchange.via {
                    hearth.outputs.push_back(Output::CloseStream { stream });
                }
                hearth.remove_via(exchange.via, self.slot);
            }
            return self.go_on_connecting(hearth, now);
        }
        let Some(active) = self.active() else { return };
        if exchange.via != active.via {
            // Trying UDP again came to nothing.
            if !self.exchanges.values().any(|other| other.via == exchange.via) {
                hearth.remove_via(exchange.via, self.slot);
            }
            return;
        }
        let silent = self.heard.is_none_or(|heard| heard < exchange.sent);
        match &exchange.ask {
            Ask::Binding(Purpose::Watch) | Ask::Camp { leave: true, .. } => {}
            Ask::Binding(_) | Ask::Camp { .. } | Ask::Find { .. } | Ask::Signal { .. } | Ask::Bind { .. } if silent => {
                self.give_up(hearth, now, exchange, 408);
                self.lost(hearth, now, "no answer");
            }
            Ask::Camp { room, .. } => {
                if let Some(seating) = self.seatings.get_mut(room) {
                    seating.refresh_at = Some(now + Duration::from_secs(1));
                    seating.problem = Some("Camp is not answered, though the server is there".into());
                    seating.limit = None;
                }
                hearth.dirty = true;
            }
            Ask::Binding(_) | Ask::Find { .. } | Ask::Signal { .. } | Ask::Bind { .. } => self.give_up(hearth, now, exchange, 408),
        }
    }

    /// When [`on_wake`](Self::on_wake) is due.
    pub(crate) fn due(&self) -> Option<Time> {
        let exchanges = self.exchanges.values().map(|exchange| exchange.due).min();
        let old = self.old_streams.iter().map(|(at, _)| *at).min();
        let phase = match &self.phase {
            Phase::Idle => None,
            Phase::Waiting(until) | Phase::Plain(until) => Some(*until),
            Phase::Connecting(connecting) => connecting.due(),
            Phase::Active(active) => {
                let seats = self.seatings.values().filter(|seating| seating.wanted);
                let seats = seats.flat_map(|seating| [seating.refresh_at, seating.catch_up_at]).flatten().min();
                let bindings = self.channels.iter().filter_map(|((room, _), binding)| {
                    let sits = self.seatings.get(&room).is_some_and(|seating| seating.until.is_some());
                    if let Bound::Wanted(at) = binding.state { sits.then_some(at) } else { None }
                });
                let upgrade = active.upgrade.map(|(at, _)| at);
                [seats, bindings.min(), self.watch_due(), upgrade].into_iter().flatten().min()
            }
        };
        [exchanges, old, phase, self.names.due()].into_iter().flatten().min()
    }
}
