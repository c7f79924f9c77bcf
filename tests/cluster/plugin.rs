//! `kubectl graphtoken` against a real API server and a real operator: status, refresh, verify, import.

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Simulator, TENANT_ID};
use serde_json::{Value, json};

use crate::harness::plugin::{begin, plugin, plugin_with};
use crate::harness::{Gt, Issuer, Options, World, delegated};

async fn signed_in(world: &World, entra: &Simulator) -> Value {
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut object = delegated("mail", &Issuer::entra(entra, CLIENT_ID), "seed");
    object["spec"]["endpoints"]["graph"] = json!(entra.url());
    object["spec"]["verify"] = json!({"path": "/me?$select=id"});
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_every_graphtoken_and_follows_them() {
    World::run("plugin-status", async |world| {
        let entra = world.entra(Config::default()).await;
        let said = plugin(world, &["status"]).await;
        assert_eq!((said.code, said.out.as_str()), (0, ""));
        assert!(said.err.contains("there are no GraphTokens"), "{said:?}");
        world.create(&delegated("unseen", &Issuer::entra(&entra, CLIENT_ID), "no-such-seed")).await;
        let said = plugin(world, &["status"]).await;
        assert!(said.out.contains("Unseen") && said.err.contains("is one running"), "{said:?}");

        let mut following = begin(world, &["status", "--watch"]);
        following.prints("Unseen").await;
        world.operator(Options::default()).await;
        world.create(&signed_in(world, &entra).await).await;
        following.prints("TokenValid").await;
        following.prints("InvalidConfiguration").await;
        following.kill(world).await;

        world.until("mail", "verified", |gt| gt.condition("Verified").is_some() && gt.ready()).await;
        let said = plugin(world, &["status"]).await;
        assert!(said.out.contains("██████████") && said.out.contains("nobody"), "{said:?}");
        assert!(said.out.contains("its owner: see status"), "{said:?}");
        assert!(said.err.contains("no-such-seed"), "what to do: {said:?}");
        assert!(!said.out.contains('\u{1b}'), "no colours without a terminal");

        let said = plugin(world, &["status", "-o", "json"]).await;
        let rows: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(rows[0]["name"], "mail");
        assert_eq!(rows[0]["acts"], "nobody");
        assert!(rows[0]["secondsLeft"].as_i64().unwrap() > 3_000, "{rows}");
        assert_eq!(rows[1]["reason"], "InvalidConfiguration");

        let said = plugin(world, &["status", "mail"]).await;
        assert!(said.out.contains("Verified True (Accepted)"), "{said:?}");
        assert!(said.out.contains("account: 00001111-aaaa-2222-bbbb-3333cccc4444"), "{said:?}");
        let said = plugin(world, &["status", "nobody"]).await;
        assert_eq!(said.code, 1);
        assert!(said.err.contains("no GraphToken nobody in namespace"), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_and_a_trial_are_asked_for_and_told_of() {
    World::run("plugin-refresh", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.create(&signed_in(world, &entra).await).await;
        world.until("mail", "ready", Gt::ready).await;

        let mut refresh = begin(world, &["refresh", "mail"]);
        refresh.says("asked the operator").await;
        let said = refresh.ended(world).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.err.contains("refreshed: a new token is in Secret mail, good until"), "{said:?}");
        assert_eq!(world.graphtoken("mail").await.refresh_count(), 2);

        let said = plugin(world, &["verify", "mail"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.err.contains("took the token for /me"), "{said:?}");

        entra.queue_fault(Fault::graph(Action::json(404, json!({}))).forever());
        let said = plugin(world, &["verify", "mail"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("not verified (ProbeFailed)"), "{said:?}");

        entra.revoke_user(entra_simulator::USER_OID).unwrap();
        let said = plugin(world, &["refresh", "mail"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("not refreshed (AuthorizationRequired)"), "{said:?}");
        let said = plugin(world, &["status"]).await;
        assert!(said.out.contains("a user: sign in"), "{said:?}");
        assert!(said.err.contains("next: kubectl graphtoken login mail -n"), "{said:?}");

        let said = plugin(world, &["refresh", "nobody"]).await;
        assert_eq!(said.code, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_becomes_a_seed_and_a_graphtoken_that_works() {
    World::run("plugin-import", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        let token = entra.mint().unwrap();
        world.confidential.note("the token in the file", &token);
        let file = json!({
            "RefreshToken": {"r": {
                "client_id": CLIENT_ID, "secret": token, "environment": "login.microsoftonline.com",
                "home_account_id": format!("{}.{TENANT_ID}", entra_simulator::USER_OID),
                "target": "https://graph.microsoft.com/Mail.Read https://graph.microsoft.com/User.Read openid",
            }},
        });
        let file = file.to_string();
        let said = plugin_with(world, &["import", "-", "--name", "etl", "--dry-run"], &file).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert!(world.secrets().get_opt("etl-seed").await.unwrap().is_none(), "nothing is written");

        let said = plugin_with(world, &["import", "-", "--name", "etl"], &file).await;
        assert_eq!(said.code, 0, "{said:?}");
        let mut manifest: Value = serde_saphyr::from_str(&said.out).unwrap();
        assert_eq!(manifest["spec"]["clientId"], CLIENT_ID);
        assert_eq!(manifest["spec"]["tenant"], TENANT_ID);
        assert_eq!(manifest["spec"]["scopes"], json!(["Mail.Read", "User.Read"]));
        // The same again is no mistake; another token in its place is.
        assert_eq!(plugin_with(world, &["import", "-", "--name", "etl"], &file).await.code, 0);
        let other = plugin_with(world, &["import", "-", "--name", "etl"], &file.replace(&token, "0.other")).await;
        assert_eq!(other.code, 1);
        assert!(other.err.contains("--secret"), "{other:?}");

        manifest["spec"]["endpoints"] = json!({"token": entra.token_url()});
        world.create(&manifest).await;
        world.until("etl", "ready", Gt::ready).await;

        let said = plugin_with(world, &["import", "-"], "0.bare-token-without-more").await;
        assert_eq!(said.code, 1);
        assert!(said.err.contains("--scopes") && !said.err.contains("0.bare"), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_script_and_a_wrong_line_need_no_cluster() {
    World::run("plugin-line", async |world| {
        for shell in ["bash", "zsh", "fish"] {
            let said = plugin(world, &["completion", shell]).await;
            assert!(said.code == 0 && said.out.contains("kubectl-graphtoken"), "{shell}");
        }
        assert_eq!(plugin(world, &["refresh"]).await.code, 2);
        let said = plugin(world, &["status", "--context", "nowhere"]).await;
        assert_eq!(said.code, 1);
        assert!(said.err.contains("--kubeconfig"), "{said:?}");
    })
    .await;
}
