//! What people and machines watch: columns, metrics, health.

use entra_simulator::{CLIENT_ID, Config};
use kube::api::DeleteParams;
use serde_json::Value;

use crate::harness::{Gt, Issuer, Options, World, delegated};

/// What `kubectl get graphtokens` prints: the columns with their priority, and the rows.
async fn table(world: &World) -> (Vec<(String, i64)>, Vec<Vec<String>>) {
    let path = format!("/apis/graphtoken.io/v1alpha1/namespaces/{}/graphtokens", world.namespace);
    let request = http::Request::get(path)
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = world.cluster.client.request(request).await.unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap();
    let columns = columns
        .iter()
        .map(|c| (c["name"].as_str().unwrap().to_uppercase(), c["priority"].as_i64().unwrap()))
        .collect();
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let rows = table["rows"].as_array().unwrap().iter();
    let rows = rows.map(|row| row["cells"].as_array().unwrap().iter().map(text).collect()).collect();
    (columns, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_show_what_stalls_else_how_ready_it_is() {
    World::run("columns", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("good", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.create(&delegated("stalled", &Issuer::entra(&entra, CLIENT_ID), "no-such-seed")).await;
        let good = world.until("good", "Ready", Gt::ready).await;
        world.until("stalled", "Stalled", |gt| gt.condition("Stalled").is_some()).await;
        // It was good, and stalls now: the new condition must come first for the column to show it.
        world.create(&delegated("was-good", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("was-good", "Ready", Gt::ready).await;
        let refused = entra_simulator::Action::error("invalid_grant", 50173);
        entra.queue_fault(entra_simulator::Fault::token(refused).forever());
        world.request_refresh("was-good", "now").await;
        world.until("was-good", "Stalled", |gt| gt.condition("Stalled").is_some() && gt.ready()).await;

        let (columns, rows) = table(world).await;
        let expected =
            ["NAME", "READY", "STATUS", "EXPIRES", "REFRESHED", "SECRET", "AGE", "CLIENT", "GRANT"];
        assert_eq!(columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
        let wide: Vec<_> =
            columns.iter().filter(|(_, priority)| *priority > 0).map(|(name, _)| name.as_str()).collect();
        assert_eq!(wide, ["CLIENT", "GRANT"]);
        let row = |name: &str| rows.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row("good")[1..=3], ["True", "TokenValid", good.status("/expiresAt").as_str().unwrap()]);
        assert_eq!(row("good")[5], "good");
        assert_eq!(row("good")[7..], [CLIENT_ID, "refreshToken"]);
        assert_eq!(row("stalled")[1..=2], ["False", "InvalidConfiguration"]);
        assert_eq!(row("was-good")[1..=2], ["True", "AuthorizationRequired"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_of_each_graphtoken_and_go_with_it() {
    World::run("metrics", async |world| {
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let gt = world.until("mail", "Ready", Gt::ready).await;
        let of_mail = [("namespace", world.namespace.as_str()), ("name", "mail")];
        // The cache of the operator may see its own write of the status a moment later than we do.
        let metrics = operator.metrics_until(|m| m.sum("graphtoken_ready", &of_mail) == 1).await;
        let epoch = |pointer: &str| {
            let time: jiff::Timestamp = gt.status(pointer).as_str().unwrap().parse().unwrap();
            time.as_second().unsigned_abs()
        };
        let is = |name: &str, value: u64| assert_eq!(metrics.sum(name, &of_mail), value, "{name}");
        is("graphtoken_expiration_timestamp_seconds", epoch("/expiresAt"));
        is("graphtoken_last_refresh_timestamp_seconds", epoch("/lastRefreshTime"));
        is("graphtoken_refresh_token_expiration_timestamp_seconds", epoch("/refreshTokenExpiresAt"));
        is("graphtoken_consecutive_failures", 0);
        assert!(metrics.0.contains("graphtoken_consecutive_failures{"));
        let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
        assert!(
            count("graphtoken_condition", &[("type", "Ready"), ("status", "True"), ("reason", "TokenValid")])
                == 1
        );
        assert!(count("graphtoken_info", &[("client_id", CLIENT_ID), ("grant", "refreshToken")]) == 1);
        assert!(
            count("graphtoken_token_requests_total", &[("grant", "refresh_token"), ("outcome", "Succeeded")])
                == 1
        );
        assert!(count("graphtoken_token_request_duration_seconds_count", &[("grant", "refresh_token")]) == 1);
        assert!(count("graphtoken_kube_requests_total", &[("resource", "secrets"), ("verb", "create")]) == 2);
        assert!(count("graphtoken_reconcile_duration_seconds_count", &[]) > 0);
        assert!(count("graphtoken_leader", &[]) == 1);

        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        operator.metrics_until(|m| !m.0.contains("name=\"mail\"")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_ready_and_does_not_lead() {
    World::run("standby", async |world| {
        let first = world.operator(Options::default()).await;
        first.metrics_until(|m| m.sum("graphtoken_leader", &[]) == 1).await;
        let second = world.operator(Options::default()).await;
        assert!(second.ready().await);
        assert!(!second.leads().await);
        // A leader that ends in order hands over at once.
        world.stop(&first).await;
        second.metrics_until(|m| m.sum("graphtoken_leader", &[]) == 1).await;
    })
    .await;
}
