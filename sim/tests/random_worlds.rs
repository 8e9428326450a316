//! Random worlds: whatever befell them, when it is over everybody finds everybody.
//!
//! `CAMPFIRE_WORLDS=n` for more of them, `CAMPFIRE_SEED=s` for the one that failed.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use campfire_sim::plan::Plan;
use campfire_sim::seeds;

#[test]
fn in_random_worlds_everybody_finds_everybody() {
    for seed in seeds(100) {
        let plan = Plan::random(seed);
        if let Err(wrong) = plan.run() {
            let small = plan.shrink();
            panic!("seed {seed}: {wrong}\nsmallest plan that fails: {small:?}\n{}", small.run_loudly().unwrap_err());
        }
    }
}

#[test]
fn a_world_replays_exactly_from_its_seed() {
    for seed in 0..10 {
        let plan = Plan::random(seed);
        assert_eq!(plan.run(), plan.run(), "seed {seed}");
    }
}

#[test]
fn different_seeds_give_different_worlds() {
    assert_ne!(Plan::random(1), Plan::random(2));
    let one = Plan::random(3);
    let other = Plan { seed: 4, ..one.clone() };
    assert_ne!(one.run(), other.run());
}

/// 180: a server died and came back empty; a Bind that both sides had forgotten was never asked for again.
/// 3461: a peer started twice in one millisecond, and the run that lives counted as the older one.
#[test]
fn worlds_that_failed_once_hold() {
    for seed in [180, 3_461] {
        Plan::random(seed).run().unwrap();
    }
}
