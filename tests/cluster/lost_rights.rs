//! Writes that are denied: by a quota, by RBAC, by an admission policy. The status says so with the reason, nothing is lost
//! at a provider that takes each refresh token once, and it heals by itself when the denial is lifted.

use std::path::PathBuf;
use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Outcome, Rotation, Simulator, digest};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::chaos_ledger::{Ledger, Pod};
use crate::harness::admission::{lift, reject_commits};
use crate::harness::objects::credential;
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// A short Lease means short deadlines: the status tells sooner that storing takes long.
const LEASE: &str = "--lease-duration=4s";
/// What would be a hot loop shows within this.
const WINDOW: Duration = Duration::from_secs(6);
pub const SERVICE_ACCOUNT: &str = "operator";

pub async fn strict(world: &World) -> Simulator {
    let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    entra
}

async fn create<K>(world: &World, object: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    K: serde::Serialize + Clone + std::fmt::Debug,
{
    let api = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn delete<K>(world: &World, name: &str)
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    K: Clone + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

/// Waits until the status says that nothing can be stored, in these words, and that a cluster administrator must act.
pub async fn cannot_store(world: &World, says: &[&str]) -> Gt {
    let gt = unavailable(world, says).await;
    assert_eq!(gt.condition("Stalled"), Some(("True", "StorageUnavailable")));
    gt
}

/// The same, without saying who must act.
async fn unavailable(world: &World, says: &[&str]) -> Gt {
    let what = format!("StorageUnavailable, saying {says:?}");
    let unavailable = |gt: &Gt| {
        let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
        let refreshed = conditions.iter().find(|condition| condition["type"] == "Refreshed");
        let message = refreshed.and_then(|condition| condition["message"].as_str()).unwrap_or_default();
        gt.condition("Refreshed") == Some(("False", "StorageUnavailable"))
            && says.iter().all(|word| message.contains(word))
    };
    world.until("mail", &what, unavailable).await
}

async fn heals(world: &World, refreshes: u64) {
    let healed = |gt: &Gt| {
        gt.ready()
            && gt.refresh_count() == refreshes
            && gt.condition("Refreshed") == Some(("True", "Succeeded"))
    };
    let gt = world.until("mail", "healed", healed).await;
    assert_eq!(*gt.status("/lastFailure"), Value::Null);
}

/// So few requests that nobody minds.
async fn assert_no_hot_loop(world: &World) {
    let mark = world.audit.mark();
    sleep(WINDOW).await;
    let requests = world.audit.since(mark, &world.namespace);
    assert!(requests.all.len() <= 30, "{} requests in {WINDOW:?}: {:#?}", requests.all.len(), requests.all);
    assert!(requests.events.len() <= 2, "{:#?}", requests.events);
}

fn assert_unbroken(entra: &Simulator, ledger: &Ledger, exchanges: usize) {
    let journal = entra.journal();
    assert_eq!(journal.count(Outcome::Issued), exchanges, "{:#?}", journal.token);
    assert_eq!(journal.token.len(), exchanges, "{:#?}", journal.token);
    assert_eq!(ledger.lost().len(), 0, "{:#?}", ledger.lost());
}

pub async fn assert_newest_is_kept(world: &World, entra: &Simulator) {
    let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
    let journal = entra.journal();
    let newest = journal.token.last().unwrap();
    assert_eq!(Some(digest(&kept["refresh_token"])), newest.issued_sha256);
    assert_eq!(Some(digest(&world.data("mail").await["token"])), newest.access_sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_leaves_no_room_says_so_and_costs_no_token() {
    World::run("quota", async |world| {
        let entra = strict(world).await;
        let ledger = Ledger::of(world, "mail", &entra);
        limit_secrets(world, 1).await;
        world.operator(Options::default()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let gt = cannot_store(world, &["exceeded quota", "secrets"]).await;
        assert_eq!(gt.condition("Ready"), Some(("False", "StorageUnavailable")));
        assert_no_hot_loop(world).await;
        assert_eq!(entra.journal().token.len(), 0, "nothing is sent that could not be stored");

        // Room for the credential and none for the target: the token is got once, and waits.
        limit_secrets(world, 2).await;
        entra.journal_until(|journal| journal.count(Outcome::Issued) == 1).await;
        cannot_store(world, &["exceeded quota"]).await;
        assert_no_hot_loop(world).await;
        limit_secrets(world, 3).await;
        heals(world, 1).await;
        assert_unbroken(&entra, &ledger, 1);
        assert_newest_is_kept(world, &entra).await;
    })
    .await;
}

/// So many Secrets may be in the namespace; waits until the quota is known.
async fn limit_secrets(world: &World, limit: u64) {
    let quotas: Api<ResourceQuota> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "tight"}, "spec": {"hard": {"secrets": limit.to_string()}},
    });
    let params = PatchParams::apply("user").force();
    quotas.patch("tight", &params, &Patch::Apply(&quota)).await.unwrap();
    let known = |quota: Option<&ResourceQuota>| {
        let hard = quota.and_then(|quota| quota.status.as_ref()?.hard.as_ref()?.get("secrets"));
        hard.is_some_and(|hard| hard.0 == limit.to_string())
    };
    await_condition(quotas, "tight", known).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_in_mid_exchange_cost_no_sign_in() {
    World::run("rights", async |world| {
        let entra = strict(world).await;
        let ledger = Ledger::of(world, "mail", &entra);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = service_account(world, folder.path().join("kubeconfig")).await;
        grant_secrets(world).await;
        world.operator(Options::default().flag(LEASE).kubeconfig(&kubeconfig)).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        let pod = Pod::mount(world, "mail", &entra).await;

        entra.queue_fault(Fault::token(Action::DelayMs(1_500)));
        world.request_refresh("mail", "now").await;
        entra.journal_until(|journal| journal.token.len() == 2).await;
        delete::<RoleBinding>(world, "secrets").await;
        let gt = cannot_store(world, &["kept in memory", "tried again", "forbidden"]).await;
        assert!(gt.ready(), "the token that pods have is still good");
        assert_no_hot_loop(world).await;
        grant_secrets(world).await;
        heals(world, 2).await;
        assert_unbroken(&entra, &ledger, 2);
        assert_newest_is_kept(world, &entra).await;

        // While nothing is in flight, nothing is sent at all.
        delete::<RoleBinding>(world, "secrets").await;
        await_denied(world).await;
        world.request_refresh("mail", "without rights").await;
        let gt = cannot_store(world, &["forbidden", "secrets", "a cluster administrator must act"]).await;
        assert!(gt.ready());
        assert_no_hot_loop(world).await;
        assert_unbroken(&entra, &ledger, 2);
        grant_secrets(world).await;
        heals(world, 3).await;
        assert_unbroken(&entra, &ledger, 3);
        assert_eq!(pod.refused().len(), 0);
    })
    .await;
}

/// A service account with the rights that the operator needs, but for Secrets; writes a kubeconfig for it.
pub async fn service_account(world: &World, path: PathBuf) -> PathBuf {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    create::<ServiceAccount>(world, json!({"metadata": {"name": SERVICE_ACCOUNT}})).await;
    create::<Role>(
        world,
        json!({"metadata": {"name": "all-but-secrets"}, "rules": [
            {"apiGroups": ["graphtoken.io"], "resources": ["graphtokens"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["graphtoken.io"], "resources": ["graphtokens/status"], "verbs": ["patch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ]}),
    )
    .await;
    create::<Role>(
        world,
        json!({"metadata": {"name": "secrets"}, "rules": [{
            "apiGroups": [""], "resources": ["secrets"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        }]}),
    )
    .await;
    bind(world, "all-but-secrets").await;
    let asked = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3_600), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let token = accounts.create_token_request(SERVICE_ACCOUNT, &PostParams::default(), &asked).await.unwrap();
    let token = token.status.unwrap().token.unwrap();
    world.confidential.note("the operator's own token", &token);
    let text = std::fs::read_to_string(&world.cluster.kubeconfig).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

async fn bind(world: &World, role: &str) {
    create::<RoleBinding>(
        world,
        json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": world.namespace}],
        }),
    )
    .await;
}

pub async fn grant_secrets(world: &World) {
    bind(world, "secrets").await;
}

/// Waits until the authorizer has seen that the binding is gone.
async fn await_denied(world: &World) {
    let review = json!({"spec": {
        "user": format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", world.namespace),
        "resourceAttributes": {"namespace": world.namespace, "verb": "get", "resource": "secrets"},
    }});
    let reviews: Api<k8s_openapi::api::authorization::v1::SubjectAccessReview> =
        Api::all(world.cluster.client.clone());
    let began = Instant::now();
    loop {
        let review = serde_json::from_value(review.clone()).unwrap();
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        if answer.status.is_some_and(|status| !status.allowed) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the right is not gone");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_refuses_the_commit_costs_no_sign_in() {
    World::run("policy", async |world| {
        let entra = strict(world).await;
        let ledger = Ledger::of(world, "mail", &entra);
        world.operator(Options::default().flag(LEASE)).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        let pod = Pod::mount(world, "mail", &entra).await;

        let policy = reject_commits(world, &[credential("mail")], Some("Forbidden")).await;
        world.request_refresh("mail", "now").await;
        let gt = cannot_store(world, &["kept in memory", "tried again", &policy, "no commits today"]).await;
        assert!(gt.ready(), "the token that pods have is still good");
        assert_no_hot_loop(world).await;
        assert_unbroken(&entra, &ledger, 2);
        let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
        assert!(kept.contains_key("pending.json"), "the exchange was announced, and is not over");
        lift(world, &policy).await;
        heals(world, 2).await;
        assert_unbroken(&entra, &ledger, 2);
        assert_newest_is_kept(world, &entra).await;
        assert_eq!(pod.refused().len(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_created_again_while_a_commit_is_refused_spends_no_token_twice() {
    World::run("refused-recreated", async |world| {
        let entra = strict(world).await;
        let ledger = Ledger::of(world, "mail", &entra);
        world.operator(Options::default().flag(LEASE)).await;
        let mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        world.create(&mail).await;
        world.until("mail", "ready", Gt::ready).await;

        let policy = reject_commits(world, &[credential("mail")], None).await;
        world.request_refresh("mail", "now").await;
        // What a policy that gives no reason says may quote the object: only its name is told.
        cannot_store(world, &["kept in memory", &policy]).await;
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        world.create(&mail).await;
        world.until("mail", "ready with the token that is stored", Gt::ready).await;
        world.request_refresh("mail", "again").await;
        let gt = unavailable(world, &["earlier GraphToken of this name"]).await;
        assert_eq!(gt.condition("Stalled"), None, "it goes on by itself");
        assert_unbroken(&entra, &ledger, 2);
        lift(world, &policy).await;
        heals(world, 1).await;
        assert_unbroken(&entra, &ledger, 3);
        assert_newest_is_kept(world, &entra).await;
    })
    .await;
}
