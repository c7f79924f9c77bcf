//! What a campaign and the rest of its process owe each other: a clock, a term, a heartbeat.

use super::*;

/// A wall clock that goes with the timers until it is set.
#[derive(Clone)]
struct WallClock(Arc<Mutex<SignedDuration>>);

impl WallClock {
    fn start() -> (Self, Clock) {
        let (set_by, begin) = (Arc::new(Mutex::new(SignedDuration::ZERO)), Instant::now());
        let wall = Self(Arc::clone(&set_by));
        let clock = Clock::of(move || {
            let passed = SignedDuration::try_from(begin.elapsed()).unwrap();
            Timestamp::UNIX_EPOCH + SignedDuration::from_hours(10_000) + passed + *set_by.lock().unwrap()
        });
        (wall, clock)
    }

    fn set_forward(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }
}

/// A candidate with a wall clock of its own, one second after it began to lead.
async fn lead_for_a_second() -> (WallClock, Arc<Mutex<Network>>, Lease, Campaign) {
    let server = Server::default();
    let (wall, clock) = WallClock::start();
    let network = Arc::new(Mutex::new(Network::Works));
    let (mut lease, campaign) = stand(Candidate { clock, ..server.candidate("a", &network) });
    lease.changed().await;
    seconds(1.0).await;
    (wall, network, lease, campaign)
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_may_not_rely_on_its_lease_until_it_is_renewed() {
    let (wall, _, lease, _campaign) = lead_for_a_second().await;
    wall.set_forward(SignedDuration::from_secs(20));
    assert!(lease.outlives(Duration::from_secs(8)) && !lease.outlives(Duration::from_secs(10)));
    wall.set_forward(SignedDuration::from_hours(2));
    assert!(!lease.outlives(Duration::ZERO), "another replica may lead by now");
    assert!(lease.leading(), "the term goes on");
    seconds(10.0).await;
    assert!(lease.outlives(Duration::from_secs(15)), "it was renewed");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_neither_extends_nor_breaks_the_lease() {
    let (wall, network, lease, _campaign) = lead_for_a_second().await;
    wall.set_forward(SignedDuration::from_hours(-2));
    assert!(lease.outlives(Duration::from_secs(28)) && !lease.outlives(Duration::from_secs(29)));
    seconds(60.0).await;
    assert!(lease.outlives(Duration::from_secs(15)), "it is renewed as before");
    *network.lock().unwrap() = Network::Refuses;
    seconds(31.0).await;
    assert!(!lease.outlives(Duration::ZERO) && !lease.leading());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_no_term_uses_goes_to_another_replica() {
    let server = Server::default();
    let works = Arc::new(Mutex::new(Network::Works));
    let (serving, term) = watch::channel(false);
    let (mut a, _first) = campaign(server.candidate("a", &works), term, || {});
    a.changed().await;
    let (mut b, second) = server.campaign("b");
    seconds(29.0).await;
    assert!(a.leading());
    a.changed().await;
    b.changed().await;
    assert!(b.leading() && !a.leading() && !a.outlives(Duration::ZERO));
    // It stands again, but not at once: a process that cannot serve would take the Lease from one that can.
    let start = Instant::now();
    second.release().await;
    serving.send(true).unwrap();
    a.changed().await;
    assert!(a.leading() && start.elapsed() + MAX_RETRY >= LEASE, "{:?}", start.elapsed());
    assert!(timeout(LEASE * 3, a.changed()).await.is_err(), "it serves");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_a_term_is_served_and_given_back_after_it() {
    let server = Server::default();
    let works = Arc::new(Mutex::new(Network::Works));
    let (serving, term) = watch::channel(false);
    let (mut a, _campaign) = campaign(server.candidate("a", &works), term, || {});
    a.changed().await;
    for _ in 0..5 {
        seconds(20.0).await;
        serving.send(true).unwrap();
        seconds(20.0).await;
        serving.send(false).unwrap();
    }
    assert!(a.leading(), "no pause was as long as the Lease");
    let start = Instant::now();
    a.changed().await;
    assert_eq!(start.elapsed().as_secs(), LEASE.as_secs());
    assert_eq!(server.spec("holderIdentity"), "");
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_campaign_beats_whatever_the_api_server_does(
    #[values(Network::Works, Network::Refuses, Network::Hangs, Network::Slow)] then: Network,
) {
    let server = Server::default();
    let network = Arc::new(Mutex::new(Network::Works));
    let beats = Arc::new(Mutex::new(vec![Instant::now()]));
    let noted = Arc::clone(&beats);
    // So long that an attempt may take half a minute.
    let candidate = Candidate { duration: Duration::from_mins(2), ..server.candidate("a", &network) };
    let beat = move || noted.lock().unwrap().push(Instant::now());
    let (_lease, _campaign) = campaign(candidate, watch::channel(true).1, beat);
    seconds(30.0).await;
    *network.lock().unwrap() = then;
    seconds(400.0).await;
    let mut beats = beats.lock().unwrap().clone();
    beats.push(Instant::now());
    let longest = beats.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert!(longest <= MAX_BEAT, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_campaign_that_panics_is_noticed() {
    let server = Server::default();
    let works = Arc::new(Mutex::new(Network::Works));
    let (mut lease, mut campaign) = {
        let begin = Instant::now();
        let beat = move || assert!(begin.elapsed() < Duration::from_mins(1), "injected");
        campaign(server.candidate("a", &works), watch::channel(true).1, beat)
    };
    lease.changed().await;
    assert!(timeout(Duration::from_secs(30), campaign.ended()).await.is_err(), "it works");
    assert!(matches!(campaign.ended().await, Err(Ended::Panicked)));
    assert!(campaign.ended().await.is_err());
    campaign.release().await;
    seconds(31.0).await;
    assert!(!lease.leading());
}
