//! The real `plan`, `settle` and `claim` in a small world: every order of events is tried, and every promise of
//! `docs/design.md`, "A token acquisition, step by step", is looked at in every state.
//!
//! Two replicas stand for election, make exchanges and settle them; one Lease, one credential Secret with
//! compare-and-swap, one provider. What they decide comes from the product: `plan` (with `Observed` made from the state),
//! `settle`, `claim` and `Sighting`. What they do, and in which order, is told after `rotation.rs` and `leader.rs`, because
//! that is IO: one live read and the write-ahead record, the POST if the Lease outlives it and within a second, the commit,
//! and whatever is to be done if it is not answered.
//!
//! Anything may take any time, which is also what a pause is, unless a world says otherwise; leases are renewed or not. A
//! world has a budget of what goes wrong beyond that: processes killed, answers lost (done or not, or done later),
//! clocks that run apart, people who edit. Clocks go on in ticks of a second; the Lease is valid for four.
//!
//! Left out: back-off (an attempt may follow a failure at once), publishing (the target always serves the stored token), the
//! look of caches (a look reads live; the exchange reads again anyway), deletion of the `GraphToken`, restored backups.
//!
//! The promises:
//!
//! 1. No refresh token in the store is overwritten by an older one, and no generation by an earlier one; in any world.
//! 2. No refresh token is sent twice, by anyone, unless a process was killed or an answer lost in the midst of an exchange,
//!    the provider said `invalid_grant`, a person took the Lease or the credential away, or a replica held a new
//!    refresh token beyond the end of its Lease, having been paused or cut off. Where that lasts less than
//!    [`PENDING_STANDS`](graphtoken::plan::PENDING_STANDS) after the answer, this is no excuse: leases may lapse as they like.
//! 3. At a lenient provider a refresh comes about after whatever happened: from every state one is within reach.
//! 4. At a strict one, the sign-in is lost only with an excuse as in 2.
//! 5. No two replicas lead at once while their clocks run alike. If one gets ahead by a second they may, and 1 to 4 hold.
//!
//! A broken promise is told as the shortest story that leads to it. `GRAPHTOKEN_MODEL=all` explores bigger worlds too.

mod checker;
mod decide;
mod mixer;
mod state;
mod steps;
mod world;

use std::time::{Duration, Instant};

use checker::explore;
use decide::Minds;
use rstest::rstest;
use state::Budget;
use world::{Strictness, World};

use Strictness::{Lenient, Revoking, SingleUse};

const SENT_TWICE: &str = "a refresh token was sent twice";
const TWO_LEADERS: &str = "two leaders";

/// A world to get to this generation in, with nothing going wrong but time.
fn world(strictness: Strictness, generations: u8) -> World {
    World {
        minds: Minds::new(),
        strictness,
        generations,
        fresh: false,
        budget: Budget::default(),
        prompt: None,
        ahead: 0,
    }
}

impl World {
    fn with(mut self, change: impl FnOnce(&mut Budget)) -> Self {
        change(&mut self.budget);
        self
    }

    /// Two seconds: what comes back is stored before a rival has seen its write-ahead record stand for three.
    fn prompt(self) -> Self {
        Self { prompt: Some(2), ..self }
    }

    fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }
}

#[expect(clippy::print_stdout, reason = "how much was explored")]
fn check(what: &str, world: &World, shows: &[&str], never: &[&str]) {
    let began = now();
    let found = explore(world);
    let took = now().saturating_sub(began);
    println!("{what}: {} states, {} steps, depth {}, {took:?}", found.states, found.steps, found.depth);
    assert!(found.broken.is_none(), "{what}: {}", found.broken.unwrap_or_default());
    for note in shows {
        assert!(found.notes.contains(note), "{what}: it never came to {note:?}, only to {:?}", found.notes);
    }
    for note in never {
        assert!(!found.notes.contains(note), "{what}: it came to {note:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "how long it took")]
fn now() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed()
}

#[rstest]
#[case::renewed_or_not_or_given_back(world(Revoking, 3).prompt().with(|b| b.handovers = 1), &["a second refresh"])]
#[case::clocks_apart(world(Revoking, 2).prompt().with(|b| (b.drift, b.handovers) = (1, 1)), &["a recovery", TWO_LEADERS])]
#[case::wall_clocks_apart(World { ahead: 1, ..world(Revoking, 2).prompt().with(|b| b.handovers = 1) }, &["a recovery"])]
#[case::from_a_seed(world(Revoking, 2).prompt().fresh().with(|b| b.handovers = 1), &["a new seed", "a first refresh"])]
fn no_token_is_sent_twice_as_long_as_what_comes_back_is_stored_promptly(
    #[case] world: World,
    #[case] shows: &[&str],
) {
    check("prompt", &world, shows, &[SENT_TWICE]);
}

#[rstest]
#[case::any_pause(world(Revoking, 2).with(|b| (b.drift, b.handovers) = (1, 1)), &[TWO_LEADERS, "settle: write"])]
#[case::a_crash(world(SingleUse, 2).with(|b| b.crashes = 1), &["killed while holding", "a refusal gave way to a newer token"])]
#[case::a_crash_where_reuse_revokes(world(Revoking, 2).with(|b| b.crashes = 1), &["killed while holding"])]
#[case::a_loss(world(Revoking, 2).with(|b| b.losses = 1), &["settle: done", SENT_TWICE])]
#[case::from_a_seed(world(SingleUse, 2).fresh(), &["a new seed"])]
fn a_strict_provider_s_sign_in_is_lost_only_with_an_excuse(#[case] world: World, #[case] shows: &[&str]) {
    check("strict", &world, shows, &[]);
}

#[rstest]
#[case::at_a_lenient_provider(world(Lenient, 3).prompt())]
#[case::where_reuse_revokes(world(Revoking, 3).prompt())]
fn a_seed_of_another_client_leaves_the_kept_sign_in_as_it_was(#[case] world: World) {
    let shows = ["a seed of another client is rejected", "a first refresh", "a second refresh"];
    check("foreign seed", &world.with(|b| b.foreign_seeds = 1), &shows, &[SENT_TWICE]);
}

#[rstest]
#[case::any_pause(world(Lenient, 3), &["a second refresh", "settle: drop", "settle: write"])]
#[case::a_crash(world(Lenient, 2).with(|b| b.crashes = 1), &["killed while holding"])]
#[case::a_loss(world(Lenient, 2).with(|b| b.losses = 1), &["settle: done", "settle: drop", "settle: write"])]
#[case::the_lease_taken_away(world(Lenient, 2).with(|b| b.lease_edits = 1), &[TWO_LEADERS, "settle: drop"])]
#[case::begun_anew(world(Lenient, 2).prompt().with(|b| b.new_starts = 1), &["a new seed", "settle: create"])]
fn nothing_is_lost_with_a_lenient_provider(#[case] world: World, #[case] shows: &[&str]) {
    check("lenient", &world, shows, &[]);
}

#[rstest]
#[case::a_loss_from_a_seed(world(Lenient, 2).fresh().with(|b| b.losses = 1))]
#[case::a_crash_and_a_loss(world(Lenient, 2).with(|b| (b.crashes, b.losses) = (1, 1)))]
#[case::a_crash_and_a_loss_where_reuse_revokes(world(Revoking, 2).with(|b| (b.crashes, b.losses) = (1, 1)))]
#[case::a_second_seed(world(SingleUse, 2).fresh().with(|b| b.seeds = 1))]
#[case::begun_anew_at_any_pace(world(Lenient, 2).with(|b| b.new_starts = 1))]
fn bigger_worlds(#[case] world: World) {
    if std::env::var("GRAPHTOKEN_MODEL").as_deref() == Ok("all") {
        check("bigger", &world, &["a first refresh"], &[]);
    }
}
