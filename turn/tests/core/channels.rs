//! Signal and Bind, and the frames between members.

use crate::world::*;
use campfire_protocol::wire::SignalRequest;
use campfire_turn::Config;
use campfire_turn::io::{Forward, Input};

/// Two members that have bound each other: channel 0x4001 leads from the first to the second, 0x4002 back.
fn bound(world: &mut World) -> (Member, Member) {
    let mut members = camped(world, 1, 2);
    let (mut b, mut a) = (members.pop().unwrap(), members.pop().unwrap());
    a.bind(world, b.id(), 0x4001).unwrap();
    b.bind(world, a.id(), 0x4002).unwrap();
    (a, b)
}

#[test]
fn a_signal_arrives_stamped_with_the_sender() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 2);
    let (a, b) = (members[0].id(), members[1].id());
    members[0].signal(&mut world, b, b"initiation").unwrap();
    assert_eq!(members[1].pushes(&mut world), vec![Push::Signal(SignalRequest { from: a, to: b, data: b"initiation".to_vec() })]);
}

#[test]
fn the_sender_is_introduced_before_its_first_signal() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 1);
    let mut newcomer = Member::new(1, 9);
    newcomer.camp(&mut world).unwrap();
    newcomer.signal(&mut world, members[0].id(), b"initiation").unwrap();
    let pushes = members[0].pushes(&mut world);
    assert!(matches!(&pushes[..], [Push::Ember(ember), Push::Signal(_)] if ember.entries[0].member == newcomer.id()), "{pushes:?}");
    world.pass(seconds(1));
    assert_eq!(members[0].pushes(&mut world), vec![], "and not again");
    members[0].camp(&mut world).unwrap();
}

#[test]
fn signals_need_a_seat_here_a_receiver_and_the_sender_s_own_name() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 3);
    let (b, c) = (members[1].id(), members[2].id());
    assert_eq!(members[0].signal(&mut world, Member::new(1, 99).id(), b"x").unwrap_err().code, 404);
    // In another member's name, from one's own address.
    let (other_token, other_via) = (members[2].token, members[2].via);
    let token = std::mem::replace(&mut members[0].token, other_token);
    assert_eq!(members[0].signal(&mut world, b, b"x").unwrap_err().code, 403);
    members[0].token = token;
    // In one's own name, from another's address.
    let via = std::mem::replace(&mut members[0].via, other_via);
    assert_eq!(members[0].signal(&mut world, b, b"x").unwrap_err().code, 438);
    assert_eq!(members[0].signal(&mut world, b, b"x").unwrap_err().code, 403, "the seat is not at this address");
    members[0].via = via;
    members[0].nonce = None;
    assert_eq!(members[0].signal(&mut world, b, b"x").unwrap_err().code, 401, "only a first Camp goes without a nonce");
    members[0].signal(&mut world, c, &[7; 1_000]).unwrap();
    assert_eq!(members[0].signal(&mut world, c, &[7; 1_001]).unwrap_err().code, 400);
    assert_eq!(members[0].signal(&mut world, c, &[]).unwrap_err().code, 400);
}

#[test]
fn frames_go_between_members_with_the_channel_rewritten() {
    let mut world = World::new(Config::default());
    let (a, b) = bound(&mut world);
    let (forward, bytes) = world.forward(a.via, 0x4001, b"data");
    assert_eq!((forward, bytes), (Forward::Client { via: b.via }, frame(0x4002, b"data")));
    let (forward, bytes) = world.forward(b.via, 0x4002, b"back");
    assert_eq!((forward, bytes), (Forward::Client { via: a.via }, frame(0x4001, b"back")));
    assert_eq!((world.stats().frames_members, world.stats().bytes_members), (2, 8));
    assert!(world.sent.is_empty());
}

#[test]
fn padding_behind_a_frame_is_left_alone_and_a_short_frame_is_dropped() {
    let mut world = World::new(Config::default());
    let (a, b) = bound(&mut world);
    let mut padded = [frame(0x4001, b"xyz"), vec![0]].concat();
    assert_eq!(world.server.forward(world.now, a.via, &mut padded), Forward::Client { via: b.via });
    for mut short in [vec![], vec![0x40], vec![0x40, 1, 0], vec![0x40, 1, 0, 5, 1, 2, 3, 4]] {
        assert_eq!(world.server.forward(world.now, a.via, &mut short), Forward::Drop);
    }
    assert_eq!(world.stats().dropped_malformed, 4);
}

#[test]
fn before_the_receiver_has_bound_a_frame_arrives_as_a_signal() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 2);
    let (a, b) = (members[0].id(), members[1].id());
    members[0].bind(&mut world, b, 0x4001).unwrap();
    assert_eq!(world.forward(members[0].via, 0x4001, b"early").0, Forward::Slow);
    assert_eq!(members[1].pushes(&mut world), vec![Push::Signal(SignalRequest { from: a, to: b, data: b"early".to_vec() })]);
    world.forward(members[0].via, 0x4001, &[1; 1_420]);
    assert_eq!(members[1].pushes(&mut world).len(), 1, "as large as a relayed frame may be");
    world.forward(members[0].via, 0x4001, &[1; 1_421]);
    assert_eq!((members[1].pushes(&mut world).len(), world.stats().dropped_slow_size), (0, 1));
    members[1].bind(&mut world, a, 0x4001).unwrap();
    assert_eq!(world.forward(members[0].via, 0x4001, b"later").0, Forward::Client { via: members[1].via });
}

#[test]
fn the_slow_way_is_limited_for_each_receiver_and_counted() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 2);
    let b = members[1].id();
    members[0].bind(&mut world, b, 0x4001).unwrap();
    for _ in 0..1_000 {
        world.forward(members[0].via, 0x4001, b"flood");
    }
    assert_eq!(members[1].pushes(&mut world).len(), 200);
    assert_eq!((world.stats().pushed_slow, world.stats().dropped_slow_limit), (200, 800));
}

#[test]
fn a_frame_for_an_absent_member_is_counted_and_flows_again_when_it_is_back() {
    let mut world = World::new(Config::default());
    let (mut a, mut b) = bound(&mut world);
    b.lifetime = 0;
    b.camp(&mut world).unwrap();
    assert_eq!(world.forward(a.via, 0x4001, b"lost").0, Forward::Slow);
    assert_eq!(world.stats().dropped_absent, 1);
    b.lifetime = 60;
    b.camp(&mut world).unwrap();
    world.sent.clear();
    world.forward(a.via, 0x4001, b"slow");
    assert_eq!(b.pushes(&mut world).len(), 1, "its bindings ended with its seat");
    b.bind(&mut world, a.id(), 0x4003).unwrap();
    assert_eq!(world.forward(a.via, 0x4001, b"fast"), (Forward::Client { via: b.via }, frame(0x4003, b"fast")));
    a.camp(&mut world).unwrap();
}

#[test]
fn a_binding_belongs_to_the_seat_and_follows_it() {
    let mut world = World::new(Config::default());
    let (mut a, b) = bound(&mut world);
    let old = std::mem::replace(&mut a.via, source(900));
    a.camp(&mut world).unwrap_err();
    a.camp(&mut world).unwrap();
    assert_eq!(world.forward(a.via, 0x4001, b"moved").0, Forward::Client { via: b.via });
    assert_eq!(world.forward(b.via, 0x4002, b"follows").0, Forward::Client { via: a.via });
    assert_eq!(world.forward(old, 0x4001, b"stale").0, Forward::Drop);
    assert_eq!(world.stats().dropped_no_client, 1);
}

#[test]
fn a_binding_outlives_a_stream_that_broke() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 1);
    let mut s = Member::new(1, 7);
    s.via = stream(1, "198.51.100.7:5000");
    s.camp(&mut world).unwrap();
    s.bind(&mut world, members[0].id(), 0x4000).unwrap();
    members[0].bind(&mut world, s.id(), 0x4000).unwrap();
    assert_eq!(world.forward(members[0].via, 0x4000, b"x").0, Forward::Client { via: s.via });
    world.input(Input::StreamClosed { via: s.via });
    world.forward(members[0].via, 0x4000, b"x");
    assert_eq!(world.stats().dropped_absent, 1);
    s.via = stream(2, "198.51.100.7:5001");
    s.camp(&mut world).unwrap_err();
    s.camp(&mut world).unwrap();
    assert_eq!(world.forward(members[0].via, 0x4000, b"x").0, Forward::Client { via: s.via });
    assert_eq!(world.forward(s.via, 0x4000, b"x").0, Forward::Client { via: members[0].via });
}

#[test]
fn a_number_is_not_used_for_another_member_for_five_minutes() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 3);
    let (b, c) = (members[1].id(), members[2].id());
    members[0].bind(&mut world, b, 0x4001).unwrap();
    assert_eq!(members[0].bind(&mut world, c, 0x4001).unwrap_err().code, 400);
    members[0].bind(&mut world, b, 0x4001).expect("binding again is fine");
    members[0].release(&mut world, b, 0x4001).unwrap();
    assert_eq!(world.forward(members[0].via, 0x4001, b"x").0, Forward::Drop);
    members[0].bind(&mut world, b, 0x4001).expect("the same member may have its number back");
    members[0].release(&mut world, b, 0x4001).unwrap();
    members[0].release(&mut world, b, 0x4001).expect("releasing twice is fine");
    assert_eq!(members[0].bind(&mut world, c, 0x4001).unwrap_err().code, 400);
    for _ in 0..6 {
        world.pass(seconds(49));
        for member in &mut members {
            member.camp(&mut world).unwrap();
        }
    }
    assert_eq!(members[0].bind(&mut world, c, 0x4001).unwrap_err().code, 400);
    world.pass(seconds(7));
    members[0].bind(&mut world, c, 0x4001).unwrap();
    assert_eq!(world.stats().bindings, 1);
}

#[test]
fn a_member_bound_anew_has_one_channel_and_its_old_number_rests() {
    let mut world = World::new(Config::default());
    let (mut a, mut b) = bound(&mut world);
    let mut c = Member::new(1, 30);
    c.camp(&mut world).unwrap();
    a.bind(&mut world, b.id(), 0x4009).unwrap();
    assert_eq!(world.forward(a.via, 0x4001, b"x").0, Forward::Drop);
    assert_eq!(world.forward(a.via, 0x4009, b"x").0, Forward::Client { via: b.via });
    assert_eq!(world.forward(b.via, 0x4002, b"x"), (Forward::Client { via: a.via }, frame(0x4009, b"x")));
    assert_eq!(a.bind(&mut world, c.id(), 0x4001).unwrap_err().code, 400);
    b.release(&mut world, a.id(), 0x4002).unwrap();
    assert_eq!(world.forward(a.via, 0x4009, b"x").0, Forward::Slow);
}

#[test]
fn seats_of_one_address_share_the_number_space_with_each_other_and_with_turn() {
    let mut world = World::new(Config::default());
    let (mut a, b) = bound(&mut world);
    let mut other = Member::new(1, 60);
    other.via = a.via;
    other.camp(&mut world).unwrap();
    assert_eq!(other.bind(&mut world, b.id(), 0x4001).unwrap_err().code, 400);
    other.bind(&mut world, b.id(), 0x4005).unwrap();
    let mut alice = User::alice(a.via);
    alice.allocate(&mut world).unwrap();
    assert_eq!(alice.bind(&mut world, "203.0.113.1:9000", 0x4001).unwrap_err(), 400);
    alice.bind(&mut world, "203.0.113.1:9000", 0x4006).unwrap();
    assert_eq!(a.bind(&mut world, other.id(), 0x4006).unwrap_err().code, 400);
    assert!(matches!(world.forward(a.via, 0x4006, b"x").0, Forward::Peer { length: 1, .. }));
    assert_eq!(world.forward(a.via, 0x4001, b"x").0, Forward::Client { via: b.via });
}

#[test]
fn binding_needs_another_member_of_the_room_and_stays_within_its_limit() {
    let mut config = Config::default();
    config.limits.bindings = 3;
    let mut world = World::new(config);
    let mut members = camped(&mut world, 1, 6);
    let mut foreign = Member::new(2, 70);
    foreign.camp(&mut world).unwrap();
    let own = members[0].id();
    assert_eq!(members[0].bind(&mut world, own, 0x4001).unwrap_err().code, 404);
    assert_eq!(members[0].bind(&mut world, foreign.id(), 0x4001).unwrap_err().code, 404);
    let others: Vec<_> = members[1..].iter().map(Member::id).collect();
    for (channel, other) in (0x4000..).zip(&others[..3]) {
        members[0].bind(&mut world, *other, channel).unwrap();
    }
    assert_eq!(members[0].bind(&mut world, others[3], 0x4100).unwrap_err().code, 486);
    assert_eq!(world.stats().limited_bindings, 1);
    let [low, high] = [0x3FFF, 0x5000].map(|channel| members[0].bind(&mut world, others[0], channel).unwrap_err().code);
    assert_eq!((low, high), (400, 400));
}

#[test]
fn seats_with_bindings_come_and_go_and_nothing_is_left() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 40);
    let ids: Vec<_> = members.iter().map(Member::id).collect();
    for n in 0..members.len() {
        for (channel, other) in (0x4000..).zip(&ids) {
            if *other != ids[n] {
                members[n].bind(&mut world, *other, channel).unwrap();
            }
        }
    }
    assert_eq!(world.stats().bindings, 40 * 39);
    for member in members.iter_mut().step_by(2) {
        member.lifetime = 0;
        member.camp(&mut world).unwrap();
    }
    assert_eq!(world.stats().bindings, 20 * 39, "those of the ones that are left are kept for the ones that return");
    world.pass(seconds(90));
    let stats = world.stats();
    assert_eq!((stats.seats, stats.bindings, stats.memory, stats.clients), (0, 0, 0, 0));
}

#[test]
fn channel_data_on_the_slow_way_is_padded_for_a_stream() {
    let mut world = World::new(Config::default());
    let mut members = camped(&mut world, 1, 1);
    let mut s = Member::new(1, 7);
    s.via = stream(1, "198.51.100.7:5000");
    s.camp(&mut world).unwrap();
    members[0].bind(&mut world, s.id(), 0x4000).unwrap();
    s.bind(&mut world, members[0].id(), 0x4001).unwrap();
    world.sent.clear();
    // As a shell may hand in what it did not ask `forward` about.
    world.message(members[0].via, &frame(0x4000, b"abcde"));
    assert_eq!(world.received(s.via), vec![[frame(0x4001, b"abcde"), vec![0; 3]].concat()]);
}
