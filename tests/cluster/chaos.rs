//! Two hundred rounds of `kill -9`, or of a pause beyond the Lease, at random moments: with one operator and with two, at a
//! provider that takes a used refresh token again (as Entra does) and at one that takes each once.

use std::sync::Arc;
use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Outcome, Rotation, Simulator};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::chaos_ledger::{Dice, Ledger, Pod, lost_sign_in};
use crate::harness::operator::Operator;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// Each token is due for a refresh a second after its issue.
const SHORT_LIVED: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_lenient_provider_s_sign_in_outlives_every_kill_of_a_lone_operator() {
    World::run("chaos-lenient", async |world| {
        let mut chaos = Chaos::new(world, "chaos-lenient", Rotation::Lenient, 1).await;
        for _ in 0..55 {
            chaos.round(Duration::from_millis(1_600)).await;
        }
        chaos.assert_nothing_was_ever_lost().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lenient_provider_s_sign_in_outlives_kills_and_pauses_of_either_of_two_operators() {
    World::run("chaos-lenient-pair", async |world| {
        let mut chaos = Chaos::new(world, "chaos-lenient-pair", Rotation::Lenient, 2).await;
        for _ in 0..25 {
            chaos.round(Duration::from_secs(4)).await;
        }
        chaos.assert_nothing_was_ever_lost().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_provider_s_sign_in_is_lost_only_with_an_answer_that_was_never_stored() {
    World::run("chaos-strict", async |world| {
        let mut chaos = Chaos::new(world, "chaos-strict", Rotation::Strict, 1).await;
        for _ in 0..55 {
            chaos.sign_in_again_if_lost().await;
            chaos.round(Duration::from_millis(1_600)).await;
        }
        chaos.assert_goes_on_but_for_honest_losses().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_with_two_operators_that_are_killed_and_paused() {
    World::run("chaos-strict-pair", async |world| {
        let mut chaos = Chaos::new(world, "chaos-strict-pair", Rotation::Strict, 2).await;
        for _ in 0..25 {
            chaos.sign_in_again_if_lost().await;
            chaos.round(Duration::from_secs(4)).await;
        }
        chaos.assert_goes_on_but_for_honest_losses().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_always_have_a_valid_token_where_a_restart_is_shorter_than_its_remaining_life() {
    World::run("chaos-valid", async |world| {
        let mut chaos = Chaos::lasting(world, "chaos-valid", Duration::from_secs(8), 1).await;
        chaos.kill_while_tokens_have_life_left(25, Duration::from_secs(5)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_always_have_a_valid_token_where_a_takeover_is_shorter_than_its_remaining_life() {
    World::run("chaos-valid-pair", async |world| {
        let mut chaos = Chaos::lasting(world, "chaos-valid-pair", Duration::from_secs(15), 2).await;
        chaos.kill_while_tokens_have_life_left(15, Duration::from_secs(11)).await;
    })
    .await;
}

/// One `GraphToken`, and the operators that are killed.
struct Chaos<'a> {
    world: &'a World,
    entra: Simulator,
    ledger: Ledger,
    dice: Dice,
    options: Options,
    operators: Vec<Arc<Operator>>,
    /// When an operator was killed or paused, in the simulator's milliseconds.
    disturbed: Vec<u64>,
    /// Where the present sign-in begins in the journal.
    signed_in: usize,
    losses: usize,
}

impl<'a> Chaos<'a> {
    async fn new(world: &'a World, topic: &str, rotation: Rotation, operators: usize) -> Self {
        let config = Config { token_lifetime: SHORT_LIVED, rotation, ..Config::default() };
        Self::start(world, topic, config, operators, json!({"renewBeforePercentage": 50})).await
    }

    /// Tokens that are refreshed after a fifth of their life.
    async fn lasting(world: &'a World, topic: &str, life: Duration, operators: usize) -> Self {
        let config = Config { token_lifetime: life, ..Config::default() };
        Self::start(world, topic, config, operators, json!({"renewBeforePercentage": 80})).await
    }

    async fn start(world: &'a World, topic: &str, config: Config, operators: usize, refresh: Value) -> Self {
        let entra = world.entra(config).await;
        let election = if operators > 1 {
            format!("--lease-duration={}s", LEASE.as_secs())
        } else {
            "--leader-election=false".to_owned()
        };
        let mut chaos = Self {
            world,
            ledger: Ledger::of(world, "mail", &entra),
            entra,
            dice: Dice::new(topic),
            options: Options::default().flag(&election),
            operators: Vec::new(),
            disturbed: Vec::new(),
            signed_in: 0,
            losses: 0,
        };
        for _ in 0..operators {
            chaos.operators.push(world.operator(chaos.options.clone()).await);
        }
        world.seed("seed", &chaos.entra.mint().unwrap()).await;
        let mut object = delegated("mail", &Issuer::entra(&chaos.entra, CLIENT_ID), "seed");
        object["spec"]["refresh"] = refresh;
        world.create(&object).await;
        world.until("mail", "ready", Gt::ready).await;
        chaos
    }

    /// One disturbance, at a random moment.
    async fn round(&mut self, longest: Duration) {
        self.slow_the_provider_down();
        sleep(self.dice.moment(longest)).await;
        let victim = self.victim().await;
        if self.operators.len() > 1 && self.dice.below(4) == 0 {
            self.pause_beyond_the_lease(victim).await;
        } else {
            self.kill(victim).await;
        }
    }

    /// So that many a moment falls between a request and the end of its answer.
    fn slow_the_provider_down(&mut self) {
        self.entra.clear_faults();
        let fault = match self.dice.below(3) {
            0 => return,
            1 => Action::DelayMs(self.dice.below(400)),
            // In all it stays well within the deadline of an exchange, half of the Lease.
            _ => Action::SlowBody { chunk_bytes: 512, delay_ms: self.dice.below(80) },
        };
        self.entra.queue_fault(Fault::token(fault).forever());
    }

    /// Mostly the one that works.
    async fn victim(&mut self) -> usize {
        let any = usize::try_from(self.dice.below(self.operators.len() as u64)).unwrap();
        if self.operators.len() == 1 || self.dice.below(4) == 0 {
            return any;
        }
        for (number, operator) in self.operators.iter().enumerate() {
            if operator.leads().await {
                return number;
            }
        }
        any
    }

    async fn kill(&mut self, victim: usize) {
        self.disturbed.push(self.entra.clock().now_ms());
        self.operators[victim].kill().await;
        self.operators[victim] = self.world.operator(self.options.clone()).await;
    }

    async fn pause_beyond_the_lease(&mut self, victim: usize) {
        self.disturbed.push(self.entra.clock().now_ms());
        self.operators[victim].pause();
        sleep(LEASE + self.dice.moment(LEASE)).await;
        if self.dice.below(3) == 0 {
            self.kill(victim).await;
        } else {
            self.operators[victim].resume();
        }
    }

    /// Lets it refresh twice more, undisturbed.
    async fn goes_on(&self) -> Gt {
        self.entra.clear_faults();
        let before = self.world.graphtoken("mail").await.refresh_count();
        let well = |gt: &Gt| lost_sign_in(gt).is_some() || (gt.refresh_count() >= before + 2 && gt.ready());
        self.world.until("mail", "refreshed twice more, or lost", well).await
    }

    async fn assert_nothing_was_ever_lost(&self) {
        self.goes_on().await;
        assert_eq!(self.ledger.lost().len(), 0, "a sign-in was called lost: {:#?}", self.ledger.lost());
        assert_eq!(self.entra.journal().count(Outcome::Refused), 0);
    }

    async fn assert_goes_on_but_for_honest_losses(&mut self) {
        loop {
            self.sign_in_again_if_lost().await;
            if lost_sign_in(&self.goes_on().await).is_none() {
                break;
            }
        }
        let replays = self.ledger.replays(0);
        let needless: Vec<_> = replays.iter().filter(|replay| self.ledger.was_kept(replay)).collect();
        assert!(needless.is_empty(), "sent again though its successor was kept: {needless:#?}");
        self.tell(&format!("{} sign-ins were lost", self.losses));
    }

    /// A sign-in that is called lost must be so: what an exchange had brought was never stored, for its holder was killed or
    /// paused. Then the user signs in anew.
    async fn sign_in_again_if_lost(&mut self) {
        let gt = self.world.graphtoken("mail").await;
        let Some(message) = lost_sign_in(&gt) else { return };
        self.losses += 1;
        assert_eq!(gt.condition("Stalled"), Some(("True", "AuthorizationRequired")));
        assert!(message.contains("sign in again and put the new refresh token into the seed"), "{message}");
        let replays = self.ledger.replays(self.signed_in);
        let replay =
            replays.first().unwrap_or_else(|| panic!("called lost, and no token was sent twice: {gt:?}"));
        assert!(!self.ledger.was_kept(replay), "sent again though its successor was kept: {replay:#?}");
        let between = replay.spent.time_ms..=replay.sent.time_ms;
        assert!(
            self.disturbed.iter().any(|at| between.contains(at)),
            "lost without a disturbance: {replay:#?}"
        );

        self.entra.clear_faults();
        self.signed_in = self.entra.journal().token.len();
        let seed = self.entra.mint().unwrap();
        self.world.confidential.note("a new seed", &seed);
        let patch = kube::api::Patch::Merge(json!({"stringData": {"token": seed}}));
        self.world.secrets().patch("seed", &kube::api::PatchParams::default(), &patch).await.unwrap();
        let anew = |gt: &Gt| gt.ready() && gt.condition("Stalled").is_none();
        self.world.until("mail", "signed in anew", anew).await;
    }

    /// Kills the one that works, again and again, but never while the token is nearly at its end anyway.
    async fn kill_while_tokens_have_life_left(&mut self, rounds: usize, enough: Duration) {
        let pod = Pod::mount(self.world, "mail", &self.entra).await;
        let mut too_long = 0;
        for _ in 0..rounds {
            self.slow_the_provider_down();
            let moment = self.dice.moment(Duration::from_secs(3));
            sleep(moment).await;
            let left = self.await_life(enough).await;
            let victim = self.victim().await;
            let refused = pod.refused().len();
            let killed = Instant::now();
            self.kill(victim).await;
            while !self.anyone_works().await {
                sleep(Duration::from_millis(20)).await;
            }
            // On a machine that is too busy for a restart in time this says nothing.
            if killed.elapsed() + LEASE + Duration::from_secs(1) > left {
                too_long += 1;
                self.await_life(enough).await;
            } else {
                assert_eq!(pod.refused().len(), refused, "pods had no valid token");
            }
        }
        let left = self.await_life(enough).await;
        assert!(
            too_long > 0 || pod.refused().is_empty(),
            "pods had no valid token; now it lives for {left:?}"
        );
        assert!(too_long < rounds, "the machine is too slow for this test");
        self.assert_nothing_was_ever_lost().await;
        self.tell(&format!("{too_long} of {rounds} outages were too long to count"));
    }

    async fn anyone_works(&self) -> bool {
        for operator in &self.operators {
            if operator.leads().await {
                return true;
            }
        }
        false
    }

    /// Waits until the token in the target lives this long at least; returns how long it does.
    async fn await_life(&self, enough: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let token = self.world.data("mail").await["token"].clone();
            let expires = self.entra.access_token(&token).map_or(0, |info| info.expires_ms);
            let left = Duration::from_millis(expires.saturating_sub(self.entra.clock().now_ms()));
            if left >= enough {
                return left;
            }
            assert!(began.elapsed() < Duration::from_mins(1), "no new token comes");
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[expect(clippy::print_stderr, reason = "for whoever runs it with --nocapture")]
    fn tell(&self, what: &str) {
        eprintln!("{}: {what}; {} exchanges", self.world.namespace, self.entra.journal().token.len());
    }
}
