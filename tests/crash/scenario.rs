//! What the operator is in the midst of when it is stopped.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::objects::Kind;
use crate::pki::{CLIENT, CLIENT_KEY};
use crate::state::State;
use crate::world::Step;

pub const CREDENTIAL: &str = "mail-graphtoken-credential";
const SEED: &str = "seed";

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The objects at the beginning.
    pub begin: fn(&mut State),
    /// What happens once these have settled. None: the first issue is what is watched.
    pub steps: &'static [Step],
    /// What the operator asks of others meanwhile, in order.
    pub calls: &'static [&'static str],
}

/// Long enough for a token of an hour to come due, at half of its life or a tenth of that earlier.
const TILL_DUE: Step = Step { change: nothing, lasts: Duration::from_mins(31) };
pub const QUIET: Step = Step { change: nothing, lasts: Duration::from_mins(1) };
const NEW_SEED: Step = Step { change: put_new_seed, lasts: Duration::from_secs(10) };
const TARGET_DELETED: Step = Step { change: delete_target, lasts: Duration::from_secs(10) };
const OTHER_KEYS: Step = Step { change: ask_for_other_keys, lasts: Duration::from_secs(10) };
const OTHER_TARGET: Step = Step { change: ask_for_another_target, lasts: Duration::from_secs(10) };
const OTHER_SCOPES: Step = Step { change: ask_for_other_scopes, lasts: Duration::from_secs(10) };
const LOGIN: Step = Step { change: put_login, lasts: Duration::from_secs(10) };
const DELETED: Step = Step { change: delete_graphtoken, lasts: Duration::from_secs(10) };
const REFUSED: Step = Step { change: refuse_and_ask, lasts: Duration::from_secs(10) };
const CREATED_AGAIN: Step = Step { change: create_delegated, lasts: Duration::from_secs(10) };

pub const REFRESH_TOKEN_FIRST_ISSUE: Scenario = Scenario {
    begin: delegated,
    steps: &[],
    calls: &[
        "GET secrets seed",
        "GET secrets mail-graphtoken-credential",
        "GET secrets seed",
        "POST secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_ROUTINE: Scenario = Scenario {
    begin: delegated,
    steps: &[TILL_DUE],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_NEW_SEED: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, NEW_SEED],
    calls: &[
        "GET secrets seed",
        "GET secrets mail-graphtoken-credential",
        "GET secrets seed",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_TARGET_DELETED: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, TARGET_DELETED],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_CREATED_AGAIN: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, DELETED, CREATED_AGAIN],
    calls: &[
        "GET graphtokens mail (metadata)",
        "PATCH secrets mail-graphtoken-credential (mark)",
        "GET secrets mail-graphtoken-credential",
        "GET graphtokens mail (metadata)",
        "PATCH secrets mail-graphtoken-credential (take over)",
        "GET secrets seed",
        "GET secrets mail-graphtoken-credential",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_OTHER_KEYS: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, OTHER_KEYS],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "GET secrets mail (metadata)",
        "PATCH secrets mail (claim fields)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_OTHER_TARGET: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, OTHER_TARGET],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "POST secrets post (publish)",
        "DELETE secrets mail",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_OTHER_SCOPES: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, OTHER_SCOPES],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const REFRESH_TOKEN_LOGIN: Scenario = Scenario {
    begin: delegated,
    steps: &[QUIET, LOGIN],
    calls: &[
        "GET secrets mail-graphtoken-login",
        "GET secrets mail-graphtoken-credential",
        "GET secrets mail-graphtoken-login",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "DELETE secrets mail-graphtoken-login",
        "PATCH graphtokens/status mail",
    ],
};

/// From nothing to the first token: the user enters the code between two polls.
pub const DEVICE_CODE_FIRST_ISSUE: Scenario = Scenario {
    begin: by_code,
    steps: &[],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "POST device",
        "POST secrets mail-graphtoken-credential (device)",
        "PATCH graphtokens/status mail",
        "GET secrets mail-graphtoken-credential",
        POLL,
        "GET secrets mail-graphtoken-credential",
        POLL,
        "PATCH secrets mail-graphtoken-credential (commit)",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const POLL: &str = "POST token urn:ietf:params:oauth:grant-type:device_code";

/// Pods have the token before it is tried, and one write tells of both.
pub const PROBE_FIRST_ISSUE: Scenario = Scenario {
    begin: probed,
    steps: &[],
    calls: &[
        "GET secrets seed",
        "GET secrets mail-graphtoken-credential",
        "GET secrets seed",
        "POST secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "POST secrets mail (publish)",
        "GET graph me/mailFolders/inbox",
        "PATCH graphtokens/status mail",
    ],
};

/// A refresh whose token is tried costs one GET more than one whose token is not.
pub const PROBE_ROUTINE: Scenario = Scenario {
    begin: probed_half_hourly,
    steps: &[TILL_DUE],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "GET graph me/mailFolders/inbox",
        "PATCH graphtokens/status mail",
    ],
};

pub const PROBE_REFUSED: Scenario = Scenario {
    begin: probed,
    steps: &[QUIET, REFUSED],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "GET graph me",
        "PATCH graphtokens/status mail",
        "GET secrets mail-graphtoken-credential",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "GET graph me",
        "PATCH graphtokens/status mail",
    ],
};

/// A workload that reads the token from its environment costs one read and one write more.
pub const RESTART_ROUTINE: Scenario = Scenario {
    begin: read_from_environment,
    steps: &[TILL_DUE],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
        "GET deployments reader",
        "PATCH deployments reader (roll)",
    ],
};

pub const RESTART_APP: Scenario = Scenario {
    begin: app_read_from_environment,
    steps: &[TILL_DUE],
    calls: &[
        "POST token client_credentials",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
        "GET deployments reader",
        "PATCH deployments reader (roll)",
    ],
};

pub const CLIENT_CREDENTIALS_FIRST_ISSUE: Scenario = Scenario {
    begin: app_only,
    steps: &[],
    calls: &[
        "GET secrets client",
        "POST token client_credentials",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const CLIENT_CREDENTIALS_ROUTINE: Scenario = Scenario {
    begin: app_only,
    steps: &[TILL_DUE],
    calls: &[
        "POST token client_credentials",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const CLIENT_CREDENTIALS_TARGET_DELETED: Scenario = Scenario {
    begin: app_only,
    steps: &[QUIET, TARGET_DELETED],
    calls: &["POST token client_credentials", "POST secrets mail (publish)", "PATCH graphtokens/status mail"],
};

pub const CERTIFICATE_FIRST_ISSUE: Scenario = Scenario {
    begin: app_by_certificate,
    steps: &[],
    calls: &[
        "GET secrets app-cert",
        "POST token client_credentials",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const CERTIFICATE_DELEGATED: Scenario = Scenario {
    begin: delegated_by_certificate,
    steps: &[],
    calls: &[
        "GET secrets seed",
        "GET secrets app-cert",
        "GET secrets mail-graphtoken-credential",
        "GET secrets seed",
        "POST secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const WORKLOAD_IDENTITY_FIRST_ISSUE: Scenario = Scenario {
    begin: app_by_workload_identity,
    steps: &[],
    calls: &[
        "GET serviceaccounts etl (metadata)",
        "POST serviceaccounts/token etl",
        "POST token client_credentials",
        "POST secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

pub const WORKLOAD_IDENTITY_DELEGATED: Scenario = Scenario {
    begin: delegated_by_workload_identity,
    steps: &[TILL_DUE],
    calls: &[
        "GET secrets mail-graphtoken-credential",
        "GET serviceaccounts etl (metadata)",
        "POST serviceaccounts/token etl",
        "PATCH secrets mail-graphtoken-credential (pending)",
        "POST token refresh_token",
        "PATCH secrets mail-graphtoken-credential (commit)",
        "PATCH secrets mail (publish)",
        "PATCH graphtokens/status mail",
    ],
};

fn nothing(_: &mut State) {}

pub fn delegated(state: &mut State) {
    put_seed(state);
    create_delegated(state);
}

pub fn create_delegated(state: &mut State) {
    create(state, &by_seed());
}

fn by_seed() -> Value {
    json!({"grant": {"refreshToken": {"secretRef": {"name": SEED, "key": "token"}}}, "scopes": ["Mail.Read"]})
}

fn put_seed(state: &mut State) {
    let seed = state.idp.sign_in();
    let secret = json!({"metadata": {}, "type": "Opaque", "data": {"token": STANDARD.encode(seed)}});
    state.objects.create(Kind::Secret, SEED, secret, "kubectl").expect("it is new");
}

pub fn app_by_certificate(state: &mut State) {
    let proof = put_certificate(state);
    create(state, &json!({"grant": {"clientCredentials": {}}, "clientAuth": proof}));
}

fn delegated_by_certificate(state: &mut State) {
    put_seed(state);
    let mut spec = by_seed();
    spec["clientAuth"] = put_certificate(state);
    create(state, &spec);
}

fn put_certificate(state: &mut State) -> Value {
    let data = json!({"tls.crt": STANDARD.encode(CLIENT), "tls.key": STANDARD.encode(CLIENT_KEY)});
    let secret = json!({"metadata": {}, "type": "kubernetes.io/tls", "data": data});
    state.objects.create(Kind::Secret, "app-cert", secret, "kubectl").expect("it is new");
    json!({"certificateRef": {"name": "app-cert"}})
}

pub fn app_by_workload_identity(state: &mut State) {
    let proof = put_service_account(state);
    create(state, &json!({"grant": {"clientCredentials": {}}, "clientAuth": proof}));
}

pub fn delegated_by_workload_identity(state: &mut State) {
    put_seed(state);
    let mut spec = by_seed();
    spec["clientAuth"] = put_service_account(state);
    create(state, &spec);
}

fn put_service_account(state: &mut State) -> Value {
    let account = json!({"metadata": {"annotations": {"azure.workload.identity/client-id": "the-client"}}});
    state.objects.create(Kind::ServiceAccount, "etl", account, "kubectl").expect("it is new");
    json!({"workloadIdentity": {"serviceAccountName": "etl"}})
}

/// A `GraphToken` that nobody has signed in to yet.
fn by_code(state: &mut State) {
    let device = state.token_url.replace("/token", "/device");
    create(
        state,
        &json!({
            "grant": {"deviceCode": {}},
            "scopes": ["Mail.Read"],
            "endpoints": {"token": state.token_url, "deviceAuthorization": device},
        }),
    );
}

pub fn app_only(state: &mut State) {
    let secret = json!({"metadata": {}, "type": "Opaque", "data": {"secret": STANDARD.encode("s3cret")}});
    state.objects.create(Kind::Secret, "client", secret, "kubectl").expect("it is new");
    let proof = json!({"secretRef": {"name": "client", "key": "secret"}});
    create(state, &json!({"grant": {"clientCredentials": {}}, "clientAuth": proof}));
}

pub fn probed(state: &mut State) {
    delegated(state);
    let endpoints = json!({"token": state.token_url, "graph": state.graph_url});
    state.objects.edit(Kind::GraphToken, "mail", |object| object["spec"]["endpoints"] = endpoints);
}

fn read_from_environment(state: &mut State) {
    delegated(state);
    put_reader(state);
}

fn app_read_from_environment(state: &mut State) {
    app_only(state);
    put_reader(state);
}

fn put_reader(state: &mut State) {
    let token = json!({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "mail", "key": "token"}}});
    let template = json!({"spec": {"containers": [{"name": "reader", "env": [token]}]}});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"template": template},
    });
    state.objects.create(Kind::Deployment, "reader", deployment, "kubectl").expect("it is new");
    let restart = json!({"restart": [{"kind": "Deployment", "name": "reader"}]});
    state.objects.edit(Kind::GraphToken, "mail", |object| object["spec"]["target"] = restart);
}

/// So that the trial is due within its last tenth when the token is refreshed.
fn probed_half_hourly(state: &mut State) {
    probed(state);
    let verify = json!({"interval": "30m20s"});
    state.objects.edit(Kind::GraphToken, "mail", |object| object["spec"]["verify"] = verify);
}

pub fn probed_app(state: &mut State) {
    app_only(state);
    let endpoints = json!({"token": state.token_url, "graph": state.graph_url});
    state.objects.edit(Kind::GraphToken, "mail", |object| {
        object["spec"]["endpoints"] = endpoints;
        object["spec"]["verify"] = json!({"path": "/users"});
    });
}

/// Graph takes the tokens no longer that it took, which shows when another path is asked for.
pub fn refuse_and_ask(state: &mut State) {
    state.idp.revoke_access_tokens();
    edit_spec(state, "verify", &json!({"path": "/me"}));
}

fn create(state: &mut State, more: &Value) {
    let mut spec = json!({
        "tenant": "contoso.example",
        "clientId": "the-client",
        "endpoints": {"token": state.token_url},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let object =
        json!({"apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken", "metadata": {}, "spec": spec});
    state.objects.create(Kind::GraphToken, "mail", object, "kubectl").expect("it is new");
}

fn put_login(state: &mut State) {
    let login = state.idp.sign_in();
    let secret = json!({"metadata": {}, "type": "Opaque", "data": {"refresh_token": STANDARD.encode(login)}});
    state.objects.create(Kind::Secret, "mail-graphtoken-login", secret, "kubectl").expect("it is new");
}

pub fn put_foreign_seed(state: &mut State) {
    let seed = STANDARD.encode(state.idp.sign_in_to_another_client());
    state.objects.edit(Kind::Secret, SEED, |secret| secret["data"]["token"] = json!(seed));
}

fn put_new_seed(state: &mut State) {
    let seed = STANDARD.encode(state.idp.sign_in());
    state.objects.edit(Kind::Secret, SEED, |secret| secret["data"]["token"] = json!(seed));
}

pub fn edit_spec(state: &mut State, field: &str, value: &Value) {
    state.objects.edit(Kind::GraphToken, "mail", |object| {
        object["spec"][field] = value.clone();
        let generation = object["metadata"]["generation"].as_i64().expect("it has one");
        object["metadata"]["generation"] = json!(generation + 1);
    });
}

fn ask_for_other_keys(state: &mut State) {
    edit_spec(state, "target", &json!({"data": [{"key": "token", "format": "AccessToken"}]}));
}

fn ask_for_another_target(state: &mut State) {
    edit_spec(state, "target", &json!({"secretName": "post"}));
}

fn ask_for_other_scopes(state: &mut State) {
    edit_spec(state, "scopes", &json!(["Files.Read"]));
}

fn delete_target(state: &mut State) {
    state.objects.delete(Kind::Secret, "mail", &Value::Null).expect("it is there");
}

fn delete_graphtoken(state: &mut State) {
    state.objects.delete(Kind::GraphToken, "mail", &Value::Null).expect("it is there");
}
