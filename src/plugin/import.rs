//! `import`: a token file becomes a seed Secret and the manifest of a `GraphToken` on it.

use std::io::Read as _;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::args::ImportArgs;
use super::cluster::{Cluster, refused};
use super::request::MANAGER;
use super::say::Terminal;
use super::token_file::{self, TokenFile};
use super::{Ended, Failed};
use crate::api::names::KEY_REFRESH_TOKEN;

/// More is no token file, and is not read into memory.
const MAX_FILE: u64 = 1024 * 1024;

/// Runs the command. The cluster is looked for only where something is written.
pub async fn run(
    args: &ImportArgs,
    connect: impl AsyncFnOnce() -> Result<Cluster, Failed>,
    terminal: &Terminal,
) -> Result<Ended, Failed> {
    let bytes = contents(&args.file)?;
    let shown = args.file.display();
    let file = token_file::read(&bytes, args.client_id.as_deref())
        .map_err(|error| Failed(format!("{shown}: {}", as_file(&error.to_string()))))?;
    let secret = args.secret.clone().unwrap_or_else(|| format!("{}-seed", args.name));
    let manifest = manifest(args, &secret, &file).map_err(Failed)?;
    terminal.say(&format!("{shown} is {}", file.kind));
    let text = serde_saphyr::to_string(&manifest)
        .map_err(|error| Failed(format!("the manifest cannot be written: {error}")))?;
    if args.dry_run {
        terminal.say(&format!("without --dry-run its refresh token goes into Secret {secret}"));
    } else {
        let cluster = connect().await?;
        let made = store(&cluster, &secret, &file).await?;
        let said = if made { "made of it" } else { "holds it already" };
        terminal.done(&format!("Secret {secret} in namespace {}: {said}", cluster.namespace));
    }
    terminal.print(&text);
    terminal.say(
        "apply what was printed (… | kubectl apply -f -); once the GraphToken is Ready, delete the file: a copy that a program goes \
         on refreshing can end the sign-in",
    );
    Ok(Ended::Well)
}

fn contents(path: &Path) -> Result<Vec<u8>, Failed> {
    let fail = |error: std::io::Error| Failed(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE).read_to_end(&mut bytes).map_err(fail)?;
    } else {
        std::fs::File::open(path).map_err(fail)?.take(MAX_FILE).read_to_end(&mut bytes).map_err(fail)?;
    }
    Ok(bytes)
}

/// The words of [`crate::seed`] are for a Secret.
fn as_file(text: &str) -> String {
    text.replace("the seed", "the file").replace("or change clientId", "or choose it by --client-id")
}

/// Creates the seed Secret; `false`: it was there and holds this very token.
async fn store(cluster: &Cluster, name: &str, file: &TokenFile) -> Result<bool, Failed> {
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let token = ByteString(file.seed.refresh_token.expose_secret().as_bytes().to_vec());
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([(KEY_REFRESH_TOKEN.to_owned(), token.clone())].into()),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let doing = |verb: &str| format!("{verb} secrets in namespace {}", cluster.namespace);
    match api.create(&params, &secret).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let there = api.get(name).await.map_err(|error| refused(&doing("get"), &error))?;
            if there.data.unwrap_or_default().get(KEY_REFRESH_TOKEN) == Some(&token) {
                return Ok(false);
            }
            Err(Failed(format!(
                "there is a Secret {name} already, and it holds something else: name another by --secret, or delete that one"
            )))
        }
        Err(error) => Err(refused(&doing("create"), &error)),
    }
}

/// The `GraphToken` for a file, or which flag is missing.
fn manifest(args: &ImportArgs, secret: &str, file: &TokenFile) -> Result<Value, String> {
    if secret == args.name {
        return Err(format!(
            "the Secret {secret} would be the one that pods mount, by its name: name the seed otherwise by --secret"
        ));
    }
    let missing = |what: &str, flag: &str| {
        format!("the file does not tell the {what}: say it by --{flag}, or use --client-ref")
    };
    let scopes = if args.scopes.is_empty() { &file.scopes } else { &args.scopes };
    if scopes.is_empty() {
        return Err("the file does not tell what the token is for: say it by --scopes, such as --scopes=Mail.Read,User.Read"
            .to_owned());
    }
    let mut spec = json!({
        "grant": {"refreshToken": {"secretRef": {"name": secret, "key": KEY_REFRESH_TOKEN}}},
        "scopes": scopes,
    });
    if let Some(client) = &args.client_ref {
        spec["clientRef"] = json!({"kind": "ClusterGraphClient", "name": client});
    } else {
        let tenant = args.tenant.as_ref().or(file.tenant.as_ref());
        spec["tenant"] = json!(tenant.ok_or_else(|| missing("tenant", "tenant"))?);
        spec["clientId"] = json!(file.client_id.as_ref().ok_or_else(|| missing("client id", "client-id"))?);
        if let Some(cloud) = file.cloud {
            spec["cloud"] = json!(cloud);
        }
    }
    Ok(json!({
        "apiVersion": "graphtoken.io/v1alpha1",
        "kind": "GraphToken",
        "metadata": {"name": args.name},
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Verb};
    use super::*;

    fn args(flags: &[&str]) -> ImportArgs {
        let cli = Cli::try_parse_from([&["x", "import", "f"], flags].concat()).unwrap();
        let Verb::Import(args) = cli.verb else { panic!("another command") };
        args
    }

    fn bare(args: &ImportArgs) -> TokenFile {
        token_file::read(b"0.bare", args.client_id.as_deref()).unwrap()
    }

    #[test]
    fn what_the_file_does_not_tell_is_asked_for() {
        for (flags, flag) in [
            (&[][..], "--scopes"),
            (&["--scopes=Mail.Read"][..], "--tenant"),
            (&["--scopes=Mail.Read", "--tenant=contoso.com"][..], "--client-id"),
        ] {
            let args = args(flags);
            assert!(manifest(&args, "seed", &bare(&args)).unwrap_err().contains(flag), "{flags:?}");
        }
    }

    #[test]
    fn the_seed_is_not_the_secret_that_pods_mount() {
        let args = args(&["--scopes=Mail.Read", "--client-ref=default", "--name=etl"]);
        assert!(manifest(&args, "etl", &bare(&args)).unwrap_err().contains("--secret"));
    }

    #[test]
    fn the_manifest_is_that_of_a_graphtoken_on_the_seed() {
        let args = args(&["--name=etl", "--scopes=Mail.Read", "--tenant=contoso.com", "--client-id=app"]);
        let manifest = manifest(&args, "etl-seed", &bare(&args)).unwrap();
        assert_eq!(manifest["metadata"]["name"], "etl");
        assert_eq!(
            manifest["spec"],
            json!({
                "tenant": "contoso.com", "clientId": "app", "scopes": ["Mail.Read"],
                "grant": {"refreshToken": {"secretRef": {"name": "etl-seed", "key": "refresh_token"}}},
            })
        );
        serde_json::from_value::<crate::api::GraphToken>(manifest).unwrap();
    }

    #[test]
    fn a_shared_client_takes_the_place_of_tenant_and_client() {
        let args = args(&["--scopes=Mail.Read", "--client-ref=default"]);
        let manifest = manifest(&args, "seed", &bare(&args)).unwrap();
        assert_eq!(manifest["spec"]["clientRef"]["name"], "default");
        assert!(manifest["spec"].get("tenant").is_none());
    }
}
