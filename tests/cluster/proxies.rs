//! Proxies of the environment: for providers, unless `NO_PROXY` says otherwise, and never for the API server.

use std::net::TcpListener;

use entra_simulator::{CLIENT_ID, Config, Simulator};
use serde_json::json;

use crate::device::message;
use crate::harness::proxy::Proxy;
use crate::harness::tls::Authority;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

fn address(entra: &Simulator) -> String {
    entra.url().split("//").nth(1).unwrap().to_owned()
}

async fn create(world: &World, name: &str, entra: &Simulator, host: &str) {
    let seed = format!("{name}-seed");
    world.seed(&seed, &entra.mint().unwrap()).await;
    let issuer = Issuer::entra(entra, CLIENT_ID);
    let token_url = issuer.token_url.replace("127.0.0.1", host);
    let mut object = delegated(name, &Issuer { token_url, ..issuer }, &seed);
    object["spec"]["endpoints"]["graph"] = json!(entra.url().replace("127.0.0.1", host));
    world.create(&object).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_asked_by_the_environments_proxy_and_the_api_server_is_not() {
    World::run("proxies", async |world| {
        let authority = Authority::new();
        let plain = world.entra(Config::default()).await;
        let secure = world.entra(Config { tls: Some(authority.server()), ..Config::default() }).await;
        let direct = world.entra(Config::default()).await;
        let proxy = Proxy::start().await;
        let options = Options::default()
            .flag("--allowed-endpoint-host=localhost")
            .flag(&format!("--ca-bundle={}", authority.bundle().display()))
            .env("HTTP_PROXY", &proxy.url())
            .env("HTTPS_PROXY", &proxy.url())
            .env("NO_PROXY", "example.com, localhost");
        world.operator(options).await;
        create(world, "plain", &plain, "127.0.0.1").await;
        create(world, "secure", &secure, "127.0.0.1").await;
        create(world, "direct", &direct, "localhost").await;
        let accepted = |gt: &Gt| gt.ready() && gt.condition("Verified") == Some(("True", "Accepted"));
        for name in ["plain", "secure", "direct"] {
            world.until(name, "ready, and tried", accepted).await;
        }
        let asked = proxy.asked();
        let methods = |authority: &str| {
            let of = asked.iter().filter_map(|request| request.split_once(' '));
            of.filter(|(_, to)| *to == authority).map(|(method, _)| method).collect::<Vec<_>>()
        };
        assert_eq!(methods(&address(&plain)).first(), Some(&"POST"), "{asked:?}");
        assert_eq!(methods(&address(&secure)).first(), Some(&"CONNECT"), "{asked:?}");
        let known = |to: &str| [&plain, &secure].iter().any(|entra| address(entra) == to);
        let others: Vec<_> =
            asked.iter().filter(|request| !known(request.split(' ').nth(1).unwrap())).collect();
        assert!(others.is_empty(), "neither the API server nor what NO_PROXY names: {others:?}");
    })
    .await;
}

/// None of these names is known anywhere, so whoever goes straight there does not arrive, and nobody else sees it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_proxy_names_by_host_suffix_or_range_never_reaches_the_proxy() {
    World::run("no-proxy-forms", async |world| {
        let proxy = Proxy::start().await;
        let password = "the-password~of.this-proxy";
        world.confidential.note("the proxy's password", password);
        let hosts = [
            ("host", "direct.invalid", false),
            ("upper", "DIRECT.invalid", false),
            ("suffix", "idp.corp.invalid", false),
            ("deep", "a.b.corp.invalid", false),
            ("range", "192.0.2.77", false),
            ("other", "other.invalid", true),
            ("alike", "notdirect.invalid", true),
            ("beyond", "198.51.100.7", true),
        ];
        let mut options = Options::default()
            .env("HTTP_PROXY", &proxy.url().replace("http://", &format!("http://operator:{password}@")))
            .env("NO_PROXY", "direct.invalid,.corp.invalid, 192.0.2.0/24")
            .flag("--lease-duration=6s");
        for (_, host, _) in hosts {
            options = options.flag(&format!("--allowed-endpoint-host={host}"));
        }
        world.operator(options).await;
        world.secret("app", "client-secret", "a~client-secret.that-nobody-asks-for").await;
        for (name, host, _) in hosts {
            let issuer = Issuer {
                tenant: "contoso.onmicrosoft.com".to_owned(),
                client_id: name.to_owned(),
                token_url: format!("http://{host}/token"),
            };
            world.create(&app_only(name, &issuer, "app")).await;
            let failed = |gt: &Gt| gt.condition("Ready") == Some(("False", "ProviderUnavailable"));
            world.until(name, "failing", failed).await;
        }
        let asked = proxy.asked();
        for (_, host, by_proxy) in hosts {
            let seen =
                asked.iter().any(|request| request.ends_with(&format!(" {}", host.to_ascii_lowercase())));
            assert_eq!(seen, by_proxy, "{host}: {asked:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there_is_a_provider_that_cannot_be_reached() {
    World::run("no-proxy", async |world| {
        let entra = world.entra(Config::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nowhere = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let operator = world.operator(Options::default().env("HTTP_PROXY", &nowhere)).await;
        create(world, "mail", &entra, "127.0.0.1").await;
        let unreached = |gt: &Gt| {
            gt.condition("Ready") == Some(("False", "ProviderUnavailable"))
                && message(gt, "Ready").contains("proxy settings")
        };
        world.until("mail", "naming the proxy", unreached).await;
        assert!(entra.journal().token.is_empty(), "it is not passed over");
        world.stop(&operator).await;

        // The spelling with which older tools agree.
        let options = Options::default().env("http_proxy", &nowhere).env("no_proxy", "127.0.0.0/8");
        world.operator(options).await;
        world.request_refresh("mail", "now").await;
        world.until("mail", "ready", Gt::ready).await;
    })
    .await;
}
