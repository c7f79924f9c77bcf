//! However many `GraphToken`s a tenant has, and however long its provider lets them wait, another tenant's are served.

use std::time::Duration;

use entra_simulator::{Action, Client, Config, Fault};
use futures::StreamExt as _;
use futures::stream;
use tokio::time::{Instant, sleep};

use crate::harness::operator::Metrics;
use crate::harness::{Gt, Issuer, Options, World, app_only};
use crate::plane::Plane;

const CROWDS: &str = "44444444-5555-6666-7777-888888888888";
const QUIET: &str = "99999999-8888-7777-6666-555555555555";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// More than the operator can get through in the length of the test: a request that hangs takes 15 s, and 4 are under way at once.
const CROWD: usize = 1_000;
/// So long one request may take. Nobody of another tenant waits for the end of even one.
const ONE_REQUEST: Duration = Duration::from_secs(15);
/// All of the crowd, once its provider answers; on a busy machine.
const THROUGH: Duration = Duration::from_mins(5);

/// How many requests of the crowd's hung for as long as they may.
fn hung(metrics: &Metrics) -> u64 {
    metrics.sum("graphtoken_token_requests_total", &[("outcome", "ProviderUnavailable")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_whose_provider_hangs_holds_up_nobody_of_another_namespace() {
    let plane = Plane::up().await;
    World::run_on(plane.cluster.clone(), "crowd", async |crowd| {
        let clients =
            vec![Client::confidential(CROWDS, CLIENT_SECRET), Client::confidential(QUIET, CLIENT_SECRET)];
        let entra = crowd.entra(Config { clients, ..Config::default() }).await;
        entra.queue_fault(Fault::token(Action::Hang).for_client(CROWDS).forever());
        // Of so many a log at trace would be very long.
        let options = Options::default().everywhere().env("RUST_LOG", "info,tower=trace");
        let operator = crowd.operator(options).await;
        crowd.secret("app", "client-secret", CLIENT_SECRET).await;
        let issuer = Issuer::entra(&entra, CROWDS);
        let create = |n| {
            let object = app_only(&format!("app-{n:04}"), &issuer, "app");
            async move { crowd.create(&object).await }
        };
        stream::iter((0..CROWD).map(create)).buffer_unordered(16).count().await;
        // The first requests have come to their end: the line has formed.
        operator.metrics_until(|metrics| hung(metrics) > 0).await;
        World::run_on(plane.cluster.clone(), "quiet", async |quiet| {
            quiet.secret("app", "client-secret", CLIENT_SECRET).await;
            for name in ["one", "two", "three"] {
                let began = Instant::now();
                quiet.create(&app_only(name, &Issuer::entra(&entra, QUIET), "app")).await;
                quiet.until(name, "Ready beside the crowd", Gt::ready).await;
                assert!(began.elapsed() < ONE_REQUEST, "{name} waited for {:?}", began.elapsed());
                let began = Instant::now();
                quiet.request_refresh(name, "again").await;
                quiet.until(name, "refreshed beside the crowd", |gt| gt.refresh_count() == 2).await;
                assert!(began.elapsed() < ONE_REQUEST, "{name} waited for {:?}", began.elapsed());
            }
        })
        .await;
        let hung = hung(&operator.metrics().await.unwrap());
        assert!(
            hung < CROWD as u64 / 2,
            "{hung} of the crowd were served: too many for this to say anything"
        );

        // The crowd is not forgotten either.
        entra.clear_faults();
        let began = Instant::now();
        loop {
            let metrics = operator.metrics().await.unwrap();
            let ready = metrics.sum("graphtoken_ready", &[("namespace", &crowd.namespace)]);
            if ready == CROWD as u64 {
                break;
            }
            assert!(began.elapsed() < THROUGH, "{ready} are ready {THROUGH:?} after the provider answers");
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}
