//! HTTPS.

use entra_simulator::{Action, Config, Fault, Tls};

use crate::http::{SCOPE, config, refresh_form, start};
use crate::sign::Rsa;

#[tokio::test]
async fn who_trusts_the_certificate_is_served_and_nobody_else() {
    let pem = Rsa::new().pem;
    let tls = Tls { certificates_pem: pem.clone(), key_pem: pem.clone() };
    let simulator = start(Config { tls: Some(tls), ..config() }).await;
    let seed = simulator.mint().unwrap();
    let trusting = [reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()];
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only(trusting).build().unwrap();
    let form = refresh_form(&seed, SCOPE);
    let ask = |client: &reqwest::Client| client.post(simulator.token_url()).form(&form).send();
    assert_eq!(ask(&trusting).await.unwrap().status(), 200);

    simulator.queue_fault(Fault::token(Action::Close));
    assert!(ask(&trusting).await.is_err(), "faults close these connections too");
    let stranger = [reqwest::Certificate::from_pem(Rsa::new().pem.as_bytes()).unwrap()];
    let stranger = reqwest::Client::builder().no_proxy().tls_certs_only(stranger).build().unwrap();
    assert!(ask(&stranger).await.is_err());
    assert_eq!(simulator.journal().token.len(), 2);

    let url = format!("{}/organizations/v2.0/.well-known/openid-configuration", simulator.url());
    let body = trusting.get(url).send().await.unwrap().text().await.unwrap();
    assert!(body.contains(&format!(r#""token_endpoint":"{}/"#, simulator.url())), "{body}");
    assert!(!format!("{simulator:?}").contains("PRIVATE KEY"));
}
