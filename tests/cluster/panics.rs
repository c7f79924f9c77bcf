//! A supervised task that panics ends its process, and the standby takes over. Behind a hook of debug builds: each such task reads at each
//! of its heartbeats the file that `GRAPHTOKEN_TEST_PANIC` names, and panics if it finds its own name there.

use std::time::Duration;

use entra_simulator::CLIENT_ID;
use rstest::rstest;
use tokio::time::{sleep, timeout};

use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::lost_rights::strict;

const LEASE: Duration = Duration::from_secs(4);
/// A heartbeat comes every five seconds, or more often.
const ENDS: Duration = Duration::from_secs(15);
/// The contract: the Lease's length and 5 s.
const TAKE_OVER: Duration = Duration::from_secs(4 + 5);

#[rstest]
#[case::watch_of_graphtokens("graphtokens")]
#[case::watch_of_secrets("secrets")]
#[case::watch_of_clustergraphclients("clustergraphclients")]
#[case::watch_of_namespaces("namespaces")]
#[case::worker_loop("worker")]
#[case::elector("elector")]
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_process_and_the_standby_serves(#[case] task: &'static str) {
    World::run(format!("panic-{task}").leak(), async |world| {
        let entra = strict(world).await;
        let folder = tempfile::tempdir().unwrap();
        let hook = folder.path().join("panics");
        std::fs::write(&hook, "").unwrap();
        // With a namespace of clients, so that `ClusterGraphClients` and namespaces are watched.
        let options = Options::default()
            .flag(&format!("--lease-duration={}s", LEASE.as_secs()))
            .flag(&format!("--client-namespace={}", world.namespace));
        let leader = world.operator(options.clone().panics_by(&hook)).await;
        while !leader.leads().await {
            sleep(Duration::from_millis(50)).await;
        }
        let standby = world.operator(options).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "served by the leader", Gt::ready).await;

        std::fs::write(&hook, task).unwrap();
        let ended = timeout(ENDS, leader.ended()).await;
        let status =
            ended.unwrap_or_else(|_| panic!("{task} panicked, and the process goes on after {ENDS:?}"));
        assert!(
            status.code().is_some_and(|code| code != 0),
            "{task} panicked, and the process ended with {status}"
        );
        let log = std::fs::read_to_string(leader.log()).unwrap();
        assert!(log.contains(" panic location="), "it ended for another reason");
        world.seed("second-seed", &entra.mint().unwrap()).await;
        world.create(&delegated("second", &Issuer::entra(&entra, CLIENT_ID), "second-seed")).await;
        let served = timeout(TAKE_OVER, world.until("second", "served by the standby", Gt::ready)).await;
        assert!(served.is_ok(), "{task} panicked, and the standby serves nothing after {TAKE_OVER:?}");
        assert!(standby.leads().await);
    })
    .await;
}
