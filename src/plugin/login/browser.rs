//! Signing in by a browser of this machine.

use std::process::{Command, Stdio};

use tokio::time::timeout;
use url::Url;

use super::loopback::{Brought, Loopback};
use super::{Desk, in_words_of_login, unanswered};
use crate::grant::authorization_code::{Asked, Attempt};
use crate::grant::{GrantKind, Issued, Outcome};
use crate::plugin::{Failed, failed};

/// Opens the page, waits for what the browser brings, and redeems it.
pub async fn sign_in(desk: &Desk<'_>) -> Result<Issued, Failed> {
    let sign_in = &desk.sign_in;
    let endpoint = sign_in.authorization_endpoint(desk.args.authorization_endpoint.as_ref())?;
    let loopback = Loopback::bind().await.map_err(|error| {
        Failed(format!("no port of this machine can be listened on ({error}): sign in with --device"))
    })?;
    let mut random = [0; 48];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| Failed("the system gives no random numbers".to_owned()))?;
    let attempt = Attempt::new(&random, loopback.redirect_uri(sign_in.client.is_microsofts));
    let asked = Asked {
        client_id: &sign_in.client.client_id,
        scopes: &sign_in.scopes,
        login_hint: desk.args.login_hint.as_deref().or(sign_in.login_hint()),
    };
    let page = attempt.page(&endpoint, &asked);
    let opened = !desk.args.no_browser && open(&page);
    desk.terminal.say(if opened {
        "a browser was opened; if none shows, open this page on this machine:"
    } else {
        "open this page in a browser on this machine:"
    });
    desk.terminal.say(&format!("  {page}"));

    let brought = timeout(desk.args.timeout, loopback.answer(&attempt.state)).await;
    let code = match brought {
        Ok(Brought::Code(code)) => code,
        Ok(Brought::Refused(why)) => return failed(refused(&why)),
        Err(_) => {
            return failed(format!(
                "nobody signed in within {:?}: run it again; --device needs no browser on this machine",
                desk.args.timeout
            ));
        }
    };
    let request = attempt.request(&asked, &code, desk.proof().await?);
    let outcome = desk.redeem(GrantKind::RefreshToken, &request).await;
    match outcome.map_err(|why| unanswered("token endpoint", &sign_in.client.token_url, why))? {
        Outcome::Issued(issued) => Ok(*issued),
        Outcome::Refused(failure) | Outcome::Unusable { failure, .. } => Err(in_words_of_login(&failure)),
        Outcome::Pending { .. } => {
            failed("the token endpoint asks to wait for a code that was given already: run it again")
        }
    }
}

/// What the page's refusal means.
fn refused(why: &str) -> String {
    let todo = if why.starts_with("access_denied") || why.contains("AADSTS65004") {
        "the sign-in was declined; run it again to accept it"
    } else if why.contains("AADSTS50011") {
        "let the app registration have the redirect URI http://localhost, on the platform Mobile and desktop applications, or on \
         Web if the app proves who it is"
    } else if why.starts_with("consent_required")
        || why.contains("AADSTS65001")
        || why.contains("AADSTS90094")
    {
        "have an administrator consent to the scopes for the app"
    } else {
        "see what the page said"
    };
    format!("the provider refused the sign-in ({why}): {todo}")
}

/// Opens a page in the person's browser; `false`: there seems to be none.
fn open(page: &Url) -> bool {
    let (program, args): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        ("rundll32", &["url.dll,FileProtocolHandler"])
    } else {
        let shown = ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"];
        if !shown.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            return false;
        }
        ("xdg-open", &[])
    };
    let spawned = Command::new(program)
        .args(args)
        .arg(page.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    spawned.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        for (why, todo) in [
            ("access_denied, AADSTS65004", "declined"),
            ("invalid_request, AADSTS50011", "http://localhost"),
            ("server_error", "see what the page said"),
        ] {
            assert!(refused(why).contains(todo), "{}", refused(why));
        }
    }
}
