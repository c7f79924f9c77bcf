//! Scopes that nobody consented to.

use entra_simulator::{CLIENT_ID, Config, USER_OID, USER_UPN, User};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::device::message;
use crate::harness::{Gt, Issuer, Options, World, delegated};

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_more_waits_for_consent_while_pods_keep_the_token_they_have() {
    World::run("consent", async |world| {
        let user = || User::new(USER_OID, USER_UPN);
        let consented = ["Mail.Read", "User.Read"];
        let users = vec![user().with_consent(consented)];
        let entra = world.entra(Config { users, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint_refresh_token(None, None, &consented).unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        let before = world.data("mail").await;

        let more = json!({"spec": {"scopes": ["Mail.Read", "User.Read", "Calendars.Read"]}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
        let refused = |gt: &Gt| {
            gt.condition("Stalled") == Some(("True", "AuthorizationRequired"))
                && gt.condition("Ready").is_some_and(|(status, _)| status == "False")
                && gt.observed()
        };
        let gt = world.until("mail", "waiting for consent", refused).await;
        let said = message(&gt, "Stalled");
        assert!(said.contains("Calendars.Read") && !said.contains("Mail.Read"), "{said}");
        assert_eq!(world.data("mail").await, before);
        assert!(entra.is_active(&before["token"]));

        entra.put_user(user().with_consent(["Mail.Read", "User.Read", "Calendars.Read"]));
        world.request_refresh("mail", "consented").await;
        let healed = |gt: &Gt| gt.ready() && gt.condition("Stalled").is_none();
        let gt = world.until("mail", "healed", healed).await;
        assert!(gt.status("/grantedScopes").to_string().contains("Calendars.Read"));
        let token = entra.access_token(&world.data("mail").await["token"]).unwrap();
        assert!(token.scopes.iter().any(|scope| scope.ends_with("Calendars.Read")), "{:?}", token.scopes);
    })
    .await;
}
