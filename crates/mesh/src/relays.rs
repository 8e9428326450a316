//! Which server a link's relayed packets go through: the best on which both camp, and the next one when that is in doubt.

use std::collections::HashSet;
use std::time::Duration;

use campfire_fire::Seat;
use campfire_protocol::carrier::{Path, ServerSlot};
use campfire_protocol::time::Time;

use crate::liveness::Liveness;

/// Most seats kept for one peer (4 keys on 8 servers).
const MAX_SEATS: usize = 32;
/// How long a seat that refused is passed over.
const REFUSED: Duration = Duration::from_secs(15);
/// How long a Bind may stay unanswered before the next seat is bound as well.
const BIND_PATIENCE: Duration = Duration::from_millis(800);
/// How long a Bind may stay unanswered before it is asked for again.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Silence on the server in use after which the peer, heard through another, is followed there …
const MOVED: Duration = Duration::from_millis(300);
/// … for so long.
const FOLLOWED: Duration = Duration::from_secs(15);
/// An idle relayed link is pinged this often: it keeps the session alive and the truth known.
const IDLE: Duration = Duration::from_secs(40);

/// What is known against servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts {
    /// Silent under traffic.
    pub(crate) suspect: HashSet<ServerSlot>,
    /// Not answering.
    pub(crate) lost: HashSet<ServerSlot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Binding { since: Time },
    Bound { path: Path },
}

#[derive(Clone, Debug)]
struct Relay {
    seat: Seat,
    state: State,
    refused_until: Time,
    live: Liveness,
}

/// A link's relays, best server first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relays {
    list: Vec<Relay>,
    current: Option<Seat>,
    /// The peer was last heard through this server, and not through ours: it has its reasons.
    followed: Option<(ServerSlot, Time)>,
    /// The other side pings first.
    pub(crate) patient: bool,
}

impl Relays {
    /// Takes over the peer's seats in their order of preference; tells which bound ones are gone.
    pub(crate) fn order(&mut self, now: Time, seats: &[Seat]) -> Vec<Seat> {
        let mut old = std::mem::take(&mut self.list);
        for seat in seats.iter().take(MAX_SEATS) {
            let relay = match old.iter().position(|relay| relay.seat == *seat) {
                Some(index) => old.swap_remove(index),
                None => {
                    Relay { seat: *seat, state: State::Idle, refused_until: Time::default(), live: Liveness::new(now, IDLE, self.patient) }
                }
            };
            self.list.push(relay);
        }
        if self.current.is_some_and(|current| self.get(current).is_none()) {
            self.current = None;
        }
        old.into_iter().filter(|relay| relay.state != State::Idle).map(|relay| relay.seat).collect()
    }

    /// Seats that have a channel or are getting one.
    pub(crate) fn bound_seats(&self) -> impl Iterator<Item = Seat> {
        self.list.iter().filter(|relay| relay.state != State::Idle).map(|relay| relay.seat)
    }

    /// There is a way to it by this path.
    pub(crate) fn bound(&mut self, now: Time, seat: Seat, path: Path) {
        if let Some(relay) = self.get(seat) {
            relay.state = State::Bound { path };
            relay.refused_until = Time::default();
            relay.live.renewed(now);
        }
    }

    /// The server refused.
    pub(crate) fn refused(&mut self, now: Time, seat: Seat) {
        if let Some(relay) = self.get(seat) {
            relay.refused_until = now + REFUSED;
            relay.state = State::Idle;
        }
    }

    /// The peer is seen to sit there: what was refused before may go now.
    pub(crate) fn reconsider(&mut self, seat: Seat) {
        if let Some(relay) = self.get(seat) {
            relay.refused_until = Time::default();
        }
    }

    /// Channels in this room on this server do not carry until they are bound again (which happens without us).
    pub(crate) fn void(&mut self, now: Time, server: ServerSlot, room: u8) {
        for relay in self.list.iter_mut().filter(|relay| relay.seat.server == server && relay.seat.room == room) {
            if relay.state != State::Idle {
                relay.state = State::Binding { since: now };
            }
        }
    }

    /// Chooses anew. Gives the seats to be bound now; they are taken as being bound.
    pub(crate) fn choose(&mut self, now: Time, doubts: &Doubts) -> Vec<Seat> {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_key(|index| self.grade(*index, now, doubts));
        // The best of those that are bound carries the packets; a better one is bound first, then switched to.
        let best = order.iter().copied().find(|index| matches!(self.list[*index].state, State::Bound { .. }));
        self.current = best.map(|index| self.list[index].seat);
        let mut bind = Vec::new();
        for index in order {
            let grade = self.grade(index, now, doubts);
            if grade >= UNUSABLE {
                break;
            }
            let relay = &mut self.list[index];
            let patient = match relay.state {
                State::Idle => {
                    relay.state = State::Binding { since: now };
                    bind.push(relay.seat);
                    true
                }
                State::Binding { since } if now.since(since) >= BIND_AGAIN => {
                    // Asking again for what may be there already costs nothing.
                    relay.state = State::Binding { since: now };
                    bind.push(relay.seat);
                    false
                }
                State::Binding { since } => now.since(since) < BIND_PATIENCE,
                State::Bound { .. } => true,
            };
            // One is enough, unless it is in doubt: then the next is kept warm.
            if patient && grade < DOUBTFUL {
                break;
            }
        }
        bind
    }

    /// When [`choose`](Self::choose) gives something else by time alone.
    pub(crate) fn next_choice(&self, now: Time) -> Option<Time> {
        let waits = self.list.iter().filter_map(|relay| match relay.state {
            State::Binding { since } if self.list.len() > 1 && since + BIND_PATIENCE > now => Some(since + BIND_PATIENCE),
            State::Binding { since } => Some(since + BIND_AGAIN),
            State::Idle => Some(relay.refused_until),
            State::Bound { .. } => None,
        });
        waits.filter(|at| *at > now).min()
    }

    /// Whether the best server is in use; if not, it is worth a look from time to time whether it may be again.
    pub(crate) fn at_best(&self) -> bool {
        self.list.first().is_none_or(|relay| self.current == Some(relay.seat))
    }

    /// The path through the current server.
    pub(crate) fn path(&self) -> Option<Path> {
        self.list.iter().find(|relay| Some(relay.seat) == self.current).and_then(path_of)
    }

    /// The path through the next best bound server, if the current one is in doubt.
    pub(crate) fn spare(&self, now: Time, doubts: &Doubts) -> Option<Path> {
        let current = self.list.iter().position(|relay| Some(relay.seat) == self.current)?;
        if self.grade(current, now, doubts) < DOUBTFUL {
            return None;
        }
        let server = self.list[current].seat.server;
        let others = (0..self.list.len()).filter(|index| self.list[*index].seat.server != server && path_of(&self.list[*index]).is_some());
        others.min_by_key(|index| self.grade(*index, now, doubts)).and_then(|index| path_of(&self.list[index]))
    }

    /// The path through this server, for an answer on the way a question came.
    pub(crate) fn path_on(&self, server: ServerSlot) -> Option<Path> {
        self.list.iter().filter(|relay| relay.seat.server == server).find_map(path_of)
    }

    /// Under which seat to signal: the best.
    pub(crate) fn signal_seat(&self, now: Time, doubts: &Doubts) -> Option<Seat> {
        (0..self.list.len()).min_by_key(|index| self.grade(*index, now, doubts)).map(|index| self.list[index].seat)
    }

    /// Whether the peer is known to sit there.
    pub(crate) fn contains(&self, seat: &Seat) -> bool {
        self.list.iter().any(|relay| relay.seat == *seat)
    }

    /// The peer uses this seat: bind it, so that what we send back and what it sends take the fast way. Tells whether to.
    pub(crate) fn follow(&mut self, now: Time, seat: Seat) -> bool {
        let Some(relay) = self.get(seat) else { return false };
        let idle = relay.state == State::Idle && relay.refused_until <= now;
        if idle {
            relay.state = State::Binding { since: now };
        }
        idle
    }

    /// Something came through this server. Tells whether to choose anew: the peer has moved there.
    pub(crate) fn heard(&mut self, at: Time, server: ServerSlot) -> bool {
        if let Some(live) = self.live(server) {
            live.heard(at);
        }
        if let Some((followed, since)) = &mut self.followed
            && *followed == server
        {
            *since = at;
            return false;
        }
        let elsewhere = self.current.is_some_and(|current| current.server != server);
        let moved = elsewhere && self.current().is_some_and(|live| at.since(live.last_heard()) > MOVED);
        if moved {
            self.followed = Some((server, at));
        }
        moved
    }

    /// The current server.
    pub(crate) fn server(&self) -> Option<ServerSlot> {
        self.current.map(|seat| seat.server)
    }

    /// Liveness of the way through a server.
    pub(crate) fn live(&mut self, server: ServerSlot) -> Option<&mut Liveness> {
        if self.server() == Some(server) {
            return self.current_live();
        }
        self.list.iter_mut().find(|relay| relay.seat.server == server).map(|relay| &mut relay.live)
    }

    /// Liveness of the current way.
    pub(crate) fn current_live(&mut self) -> Option<&mut Liveness> {
        let seat = self.current?;
        self.get(seat).map(|relay| &mut relay.live)
    }

    /// Liveness of the current way.
    pub(crate) fn current(&self) -> Option<&Liveness> {
        self.list.iter().find(|relay| Some(relay.seat) == self.current).map(|relay| &relay.live)
    }

    /// When the current way wants a ping.
    pub(crate) fn ping_due(&self) -> Option<Time> {
        self.current().map(Liveness::due)
    }

    /// Round trip to the peer through the current server.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.current().and_then(|live| live.rtt.get())
    }

    fn get(&mut self, seat: Seat) -> Option<&mut Relay> {
        self.list.iter_mut().find(|relay| relay.seat == seat)
    }

    /// Sound before doubtful; among equals the order given decides.
    fn grade(&self, index: usize, now: Time, doubts: &Doubts) -> u8 {
        let relay = &self.list[index];
        let server = &relay.seat.server;
        if relay.refused_until > now || doubts.lost.contains(server) {
            UNUSABLE
        } else if relay.live.is_dead() {
            DOUBTFUL + 1
        } else if relay.live.in_doubt() || doubts.suspect.contains(server) {
            DOUBTFUL
        } else {
            let followed = self.followed.is_some_and(|(followed, at)| followed == *server && now.since(at) < FOLLOWED);
            u8::from(!followed)
        }
    }
}

/// Grades from here on want a spare.
const DOUBTFUL: u8 = 2;
/// Grades from here on are not bound.
const UNUSABLE: u8 = 4;

fn path_of(relay: &Relay) -> Option<Path> {
    if let State::Bound { path } = relay.state { Some(path) } else { None }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::wire::MemberId;

    use super::*;
    use campfire_protocol::carrier::{SocketId, Via};

    #[test]
    fn the_best_common_server_is_bound_and_used() {
        let mut relays = three();
        let fine = Doubts::default();
        assert_eq!(relays.choose(at(0), &fine), [seat(0)]);
        assert!(relays.path().is_none());
        relays.bound(at(40), seat(0), path(0));
        assert!(relays.choose(at(40), &fine).is_empty());
        assert_eq!(relays.path(), Some(path(0)));
        assert!(relays.spare(at(40), &fine).is_none());
    }

    #[test]
    fn a_suspect_server_gets_a_warm_spare_and_a_lost_one_is_left() {
        let mut relays = bound();
        let mut doubts = Doubts::default();
        doubts.suspect.insert(ServerSlot(0));
        assert_eq!(relays.choose(at(1_000), &doubts), [seat(1)]);
        assert_eq!(relays.path(), Some(path(0)), "a working path is not dropped before the next one works");
        relays.bound(at(1_040), seat(1), path(1));
        relays.choose(at(1_040), &doubts);
        assert_eq!(relays.path(), Some(path(1)));
        doubts.lost.insert(ServerSlot(0));
        relays.choose(at(2_000), &doubts);
        assert_eq!(relays.path(), Some(path(1)));
    }

    #[test]
    fn with_no_other_server_a_lost_path_is_kept() {
        let mut relays = Relays::default();
        relays.order(at(0), &[seat(0)]);
        let mut doubts = Doubts::default();
        relays.choose(at(0), &doubts);
        relays.bound(at(0), seat(0), path(0));
        doubts.lost.insert(ServerSlot(0));
        assert!(relays.choose(at(0), &doubts).is_empty());
        assert_eq!(relays.path(), Some(path(0)));
    }

    #[test]
    fn a_server_that_is_best_again_is_used_again() {
        let mut relays = bound();
        let fine = Doubts::default();
        relays.order(at(10), &[seat(1), seat(2), seat(0)]);
        assert_eq!(relays.choose(at(10), &fine), [seat(1)]);
        relays.bound(at(20), seat(1), path(1));
        relays.choose(at(20), &fine);
        assert_eq!(relays.server(), Some(ServerSlot(1)));
        relays.order(at(30), &[seat(0), seat(1), seat(2)]);
        relays.choose(at(30), &fine);
        assert_eq!(relays.server(), Some(ServerSlot(0)));
    }

    #[test]
    fn a_seat_that_refuses_is_passed_over_for_a_while() {
        let mut relays = three();
        let fine = Doubts::default();
        relays.choose(at(0), &fine);
        relays.refused(at(10), seat(0));
        assert_eq!(relays.choose(at(10), &fine), [seat(1)]);
        assert_eq!(relays.signal_seat(at(10), &fine), Some(seat(1)));
        relays.bound(at(20), seat(1), path(1));
        assert_eq!(relays.choose(at(20_000), &fine), [seat(0)]);
    }

    #[test]
    fn an_unanswered_bind_is_not_waited_for_long() {
        let mut relays = three();
        let fine = Doubts::default();
        relays.choose(at(0), &fine);
        assert!(relays.choose(at(500), &fine).is_empty());
        assert_eq!(relays.next_choice(at(500)), Some(at(800)));
        assert_eq!(relays.choose(at(900), &fine), [seat(1)]);
    }

    #[test]
    fn a_restarted_peers_seat_replaces_its_old_one() {
        let mut relays = bound();
        let new = Seat { member: MemberId([9; 16]), ..seat(0) };
        assert_eq!(relays.order(at(100), &[new, seat(1)]), [seat(0)]);
        assert_eq!(relays.choose(at(100), &Doubts::default()), [new]);
        assert!(relays.path().is_none());
    }

    #[test]
    fn a_peer_that_moved_to_another_server_is_followed_there() {
        let mut relays = bound();
        assert!(!relays.heard(at(100), ServerSlot(1)), "both may carry for a moment");
        assert!(relays.heard(at(500), ServerSlot(1)));
        assert_eq!(relays.choose(at(500), &Doubts::default()), [seat(1)]);
        relays.bound(at(540), seat(1), path(1));
        relays.choose(at(540), &Doubts::default());
        assert_eq!(relays.server(), Some(ServerSlot(1)));
        relays.choose(at(16_000), &Doubts::default());
        assert_eq!(relays.server(), Some(ServerSlot(0)), "not for ever");
    }

    fn three() -> Relays {
        let mut relays = Relays::default();
        relays.order(at(0), &[seat(0), seat(1), seat(2)]);
        relays
    }

    fn bound() -> Relays {
        let mut relays = three();
        relays.choose(at(0), &Doubts::default());
        relays.bound(at(0), seat(0), path(0));
        relays.choose(at(0), &Doubts::default());
        relays
    }

    fn seat(server: u16) -> Seat {
        Seat { server: ServerSlot(server), room: 0, member: MemberId([server as u8; 16]) }
    }

    fn path(server: u16) -> Path {
        let via = Via::Udp { socket: SocketId(0), remote: format!("1.1.1.{}:3478", server + 1).parse().unwrap() };
        Path::Relay { server: ServerSlot(server), via, channel: 0x4000 + server }
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }
}
