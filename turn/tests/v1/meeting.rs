//! Waiters and joiners meet, in whatever order they come.

use std::collections::BTreeSet;
use std::time::Duration;

use campfire_protocol::time::Time;

use crate::node::{ANNOUNCE, ANSWER, CANDIDATE, CANDIDATES, Node, OFFER, PSK, message, seal, sides};
use crate::world::{HOUR, World, address};

const WAITER: u32 = 0;
const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn three_nodes_meet_in_all_orders() {
    for order in permutations(&[WAITER, 1, 2]) {
        for pause in [0, 1, 30] {
            let mut world = World::new();
            for number in &order {
                world.comes(address(*number), node(*number, world.unix()));
                world.pass(Duration::from_secs(pause));
            }
            assert_eq!([WAITER, 1, 2].map(|number| world.met(number)), [2, 1, 1], "{order:?}, {pause} s apart");
            assert_eq!(world.server.stats().v1_held, 0);
            assert!(world.sent <= world.taken);
        }
    }
}

/// The hour changes at second 3,600. A waiter begins anew three seconds later; joiners say their offer once. So whoever has
/// a waiter in the same hour meets it, and who began too early for that does when it begins again.
#[test]
fn three_nodes_meet_across_the_hour() {
    let starts = [3_595, 3_597, 3_599, 3_600, 3_601, 3_602, 3_604];
    for of_waiter in starts {
        for of_one in starts {
            for of_two in starts {
                let mut events = BTreeSet::from([(of_waiter, WAITER), (of_one, 1), (of_two, 2)]);
                if of_waiter < 3_600 {
                    events.insert((3_603, WAITER));
                }
                let too_early = |start: u64| start < 3_600 && of_waiter >= 3_600;
                let mut world = World::new();
                let mut met_before = 0;
                for (at, number) in events {
                    world.pass_until(Time::from_micros(at * 1_000_000));
                    met_before += world.nodes.get(&address(number)).map_or(0, Node::met);
                    world.comes(address(number), node(number, world.unix()));
                }
                let starts = format!("waiter {of_waiter}, joiners {of_one} and {of_two}");
                for (number, start) in [(1, of_one), (2, of_two)] {
                    assert_eq!(world.met(number), usize::from(!too_early(start)), "{number}: {starts}");
                    if too_early(start) {
                        world.comes(address(number), node(number, world.unix()));
                        assert_eq!(world.met(number), 1, "{number} again: {starts}");
                    }
                }
                assert_eq!(met_before + world.met(WAITER), 2, "{starts}");
                assert!(world.sent <= world.taken);
            }
        }
    }
}

#[test]
fn whatever_order_datagrams_arrive_in_the_waiter_hears_the_offer_first_and_everything_once() {
    let (waiter, joiner) = (node(WAITER, HOUR), node(1, HOUR));
    let mut datagrams = vec![(WAITER, waiter.begins().remove(0))];
    datagrams.extend(joiner.begins().into_iter().map(|bytes| (1, bytes)));
    let all: Vec<usize> = (0..datagrams.len()).collect();
    for order in permutations(&all) {
        let mut world = World::new();
        let mut heard = Vec::new();
        for at in &order {
            let (from, bytes) = &datagrams[*at];
            heard.extend(world.sends(address(*from), bytes));
        }
        assert!(heard.iter().all(|(to, _)| *to == address(WAITER)), "{order:?}");
        let mut kinds: Vec<u8> = heard.iter().map(|(_, bytes)| bytes[1]).collect();
        assert_eq!(kinds.remove(0), OFFER, "{order:?}");
        assert_eq!(kinds, [CANDIDATE; CANDIDATES], "{order:?}");
        let mut sorted: Vec<_> = heard.into_iter().map(|(_, bytes)| bytes).collect();
        let mut sent: Vec<_> = joiner.begins();
        sorted.sort();
        sent.sort();
        assert_eq!(sorted, sent, "as they were sent");
    }
}

#[test]
fn candidates_that_come_before_the_answer_go_to_the_waiter_and_not_back_to_the_joiner() {
    let mut world = World::new();
    world.sends(address(WAITER), &node(WAITER, HOUR).begins()[0]);
    for bytes in node(1, HOUR).begins() {
        assert_eq!(world.sends(address(1), &bytes), [(address(WAITER), bytes)]);
    }
}

#[test]
fn many_joiners_meet_one_waiter() {
    let mut world = World::new();
    world.comes(address(WAITER), node(WAITER, HOUR));
    for number in 1..=300 {
        world.comes(address(number), node(number, HOUR));
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.met(WAITER), 300);
    assert!((1..=300).all(|number| world.met(number) == 1));
}

#[test]
fn campfires_with_other_keys_do_not_meet() {
    let mut world = World::new();
    world.comes(address(WAITER), node(WAITER, HOUR));
    world.comes(address(1), Node::joiner("another phrase of 32 characters.", HOUR, 1));
    assert_eq!((world.met(WAITER), world.met(1)), (0, 0));
    world.comes(address(2), Node::waiter("another phrase of 32 characters.", HOUR));
    assert_eq!((world.met(WAITER), world.met(1), world.met(2)), (0, 1, 1));
}

#[test]
fn who_waits_is_forgotten_at_the_hour_and_nothing_is_left() {
    let mut world = World::new();
    world.pass(10 * MINUTE);
    world.comes(address(WAITER), node(WAITER, HOUR));
    world.comes(address(1), node(1, HOUR));
    assert!(world.memory() > 0);
    world.pass(Duration::from_millis(50 * 60_000 - 1));
    world.comes(address(2), node(2, HOUR));
    assert_eq!(world.met(2), 1, "until then it waits");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.server.stats().v1_waiters, 0);
    world.comes(address(3), node(3, HOUR));
    assert_eq!(world.met(3), 0);
    world.pass(61 * MINUTE);
    assert_eq!((world.memory(), world.server.stats().v1_negotiations, world.server.next_wake()), (0, 0, None));
}

#[test]
fn what_began_just_before_the_hour_comes_to_its_end_and_a_clock_that_is_ahead_is_none_to_suffer() {
    let mut world = World::new();
    world.comes(address(WAITER), node(WAITER, HOUR));
    world.pass(Duration::from_millis(60 * 60_000 - 100));
    let offer = node(1, HOUR).begins().remove(0);
    assert_eq!(world.sends(address(1), &offer).len(), 1);
    // Its clock shows the next hour already.
    world.sends(address(10), &Node::waiter(PSK, HOUR + 3_600).begins()[0]);
    world.pass(Duration::from_millis(200));
    let mut waiter = node(WAITER, HOUR);
    for bytes in waiter.hears(&offer) {
        assert_eq!(world.sends(address(WAITER), &bytes), [(address(1), bytes)]);
    }
    let offer = node(2, HOUR + 3_600).begins().remove(0);
    assert_eq!(world.sends(address(2), &offer), [(address(10), offer)]);
}

#[test]
fn an_offer_is_held_for_two_minutes() {
    for (wait, met) in [(119, 1), (120, 0)] {
        let mut world = World::new();
        world.comes(address(1), node(1, HOUR));
        assert_eq!(world.server.stats().v1_held > 0, world.memory() > 0);
        world.pass(Duration::from_secs(wait));
        world.comes(address(WAITER), node(WAITER, HOUR));
        assert_eq!(world.met(1), met, "after {wait} s");
        let stats = world.server.stats();
        assert_eq!((stats.v1_held, stats.v1_dropped_lapsed), (0, if met == 1 { 0 } else { 1 + CANDIDATES as u64 }));
    }
}

#[test]
fn newcomers_meet_the_last_waiter_and_who_has_begun_stays_with_its_own() {
    let mut world = World::new();
    let (first, second) = (address(WAITER), address(9));
    world.sends(first, &node(WAITER, HOUR).begins()[0]);
    let [one, two] = [1, 2].map(|number| node(number, HOUR).begins());
    assert_eq!(world.sends(address(1), &one[0])[0].0, first);
    world.sends(second, &node(WAITER, HOUR).begins()[0]);
    assert_eq!(world.sends(address(1), &one[1])[0].0, first);
    assert_eq!(world.sends(address(2), &two[0])[0].0, second);
    assert_eq!(world.server.stats().v1_waiters, 1);
}

#[test]
fn who_speaks_from_another_address_is_answered_there() {
    let mut world = World::new();
    let [own, other] = sides(PSK, HOUR);
    let id = "00000000-0000-4000-8000-000000000001";
    let sealed = seal(PSK, "{}");
    let waiter = |kind| message(kind, id, &own, &other, &sealed);
    let joiner = |kind| message(kind, id, &other, &own, &sealed);
    world.sends(address(1), &message(ANNOUNCE, "", &own, &other, &[]));
    assert_eq!(world.sends(address(2), &joiner(OFFER))[0].0, address(1));
    assert_eq!(world.sends(address(3), &waiter(ANSWER))[0].0, address(2));
    assert_eq!(world.sends(address(4), &joiner(CANDIDATE))[0].0, address(3));
    assert_eq!(world.sends(address(3), &waiter(CANDIDATE))[0].0, address(4));
    assert_eq!(world.server.stats().v1_negotiations, 1);
}

#[test]
fn an_answer_to_nobody_goes_nowhere() {
    let mut world = World::new();
    let [own, other] = sides(PSK, HOUR);
    let answer = message(ANSWER, "00000000-0000-4000-8000-000000000001", &own, &other, &seal(PSK, "{}"));
    assert!(world.sends(address(1), &answer).is_empty());
    assert_eq!((world.server.stats().v1_dropped_no_receiver, world.memory()), (1, 0));
}

/// The waiter, or a joiner, of the campfire of [`PSK`].
fn node(number: u32, unix: u64) -> Node {
    if number == WAITER { Node::waiter(PSK, unix) } else { Node::joiner(PSK, unix, number) }
}

fn permutations<T: Copy>(of: &[T]) -> Vec<Vec<T>> {
    if of.is_empty() {
        return vec![vec![]];
    }
    (0..of.len())
        .flat_map(|first| {
            let mut rest = of.to_vec();
            let first = rest.remove(first);
            permutations(&rest).into_iter().map(move |rest| [&[first][..], &rest].concat())
        })
        .collect()
}
