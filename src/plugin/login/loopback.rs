//! Where the browser brings the answer: a server on loopback, for one sign-in (RFC 8252 section 7.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use url::Url;

/// A request line with a code is a few kilobytes long.
const MAX_HEAD: usize = 32 * 1024;
/// A browser that connected sends what it has at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A port of this machine, on which the answer is awaited.
pub struct Loopback {
    v4: TcpListener,
    /// `localhost` may mean this one too: nobody else is to have it.
    v6: Option<TcpListener>,
    port: u16,
}

/// What the browser brought.
#[derive(Debug)]
pub enum Brought {
    /// The code, to be redeemed.
    Code(SecretString),
    /// A refusal: `error`, and the AADSTS number where there is one.
    Refused(String),
}

impl Loopback {
    /// Takes a free port.
    pub async fn bind() -> std::io::Result<Self> {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = v4.local_addr()?.port();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
        Ok(Self { v4, v6, port })
    }

    /// Where the browser is to go. Entra lets a port be chosen for the name, and for the address only by the manifest; others go by
    /// RFC 8252, which prefers the address.
    pub fn redirect_uri(&self, by_name: bool) -> String {
        let host = if by_name { "localhost" } else { "127.0.0.1" };
        format!("http://{host}:{}/", self.port)
    }

    /// Waits for the answer that has this `state`. Whatever else comes is turned away.
    pub async fn answer(self, state: &str) -> Brought {
        let mut visitors = JoinSet::new();
        loop {
            let v6 = async {
                match &self.v6 {
                    Some(v6) => v6.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                visitor = self.v4.accept() => if let Ok((stream, _)) = visitor {
                    visitors.spawn(serve(stream, state.to_owned()));
                },
                visitor = v6 => if let Ok((stream, _)) = visitor {
                    visitors.spawn(serve(stream, state.to_owned()));
                },
                Some(brought) = visitors.join_next() => if let Ok(Some(brought)) = brought {
                    return brought;
                },
            }
        }
    }
}

async fn serve(mut stream: TcpStream, state: String) -> Option<Brought> {
    let head = timeout(PATIENCE, head(&mut stream)).await.ok()??;
    let brought = read(&head, &state);
    let (status, text) = match &brought {
        Some(Brought::Code(_)) => {
            ("200 OK", "You are signed in. Close this page and go back to the terminal.")
        }
        Some(Brought::Refused(_)) => {
            ("200 OK", "You are not signed in. The terminal says why; this page can be closed.")
        }
        None => ("404 Not Found", "Nothing is here."),
    };
    let page = format!("<!doctype html><meta charset=utf-8><title>kubectl graphtoken</title><p>{text}</p>\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    // The answer is had all the same where the page cannot be shown.
    let _ = timeout(PATIENCE, stream.write_all(answer.as_bytes())).await;
    let _ = timeout(PATIENCE, stream.shutdown()).await;
    brought
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 || head.len() + read > MAX_HEAD {
            return None;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8(head).ok()
}

/// The answer in a request, if it is one to our question.
fn read(head: &str, state: &str) -> Option<Brought> {
    let target = head.lines().next()?.strip_prefix("GET ")?.split(' ').next()?;
    let url = Url::parse("http://localhost").ok()?.join(target).ok()?;
    let parameter =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    if url.path() != "/" || parameter("state").as_deref() != Some(state) {
        return None;
    }
    if let Some(error) = parameter("error") {
        let number = parameter("error_description").and_then(|text| aadsts(&text));
        let error = if is_word(&error) { error } else { "invalid".to_owned() };
        return Some(Brought::Refused(number.map_or(error.clone(), |number| format!("{error}, {number}"))));
    }
    parameter("code").filter(|code| !code.is_empty()).map(|code| Brought::Code(code.into()))
}

/// The number in a description. The rest of it names accounts, and is not read.
fn aadsts(description: &str) -> Option<String> {
    let digits = description.strip_prefix("AADSTS")?;
    let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
    (1..=10).contains(&digits.len()).then(|| format!("AADSTS{digits}"))
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn get(target: &str) -> Option<Brought> {
        read(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), "ours")
    }

    #[test]
    fn only_the_answer_to_our_question_counts() {
        let Some(Brought::Code(code)) = get("/?code=0.c%2Bd&state=ours&session_state=x") else {
            panic!("a code")
        };
        assert_eq!(code.expose_secret(), "0.c+d");
        for other in
            ["/?code=c&state=theirs", "/?code=c", "/favicon.ico", "/x?code=c&state=ours", "/?state=ours"]
        {
            assert!(get(other).is_none(), "{other}");
        }
        assert!(read("POST /?code=c&state=ours HTTP/1.1\r\n\r\n", "ours").is_none());
    }

    #[test]
    fn a_refusal_is_told_by_its_words_alone() {
        let said = |target: &str| match get(target) {
            Some(Brought::Refused(said)) => said,
            other => panic!("{other:?}"),
        };
        let named =
            "/?error=access_denied&error_description=AADSTS65004%3A+etl%40contoso.com+declined&state=ours";
        assert_eq!(said(named), "access_denied, AADSTS65004");
        assert_eq!(said("/?error=%1b[2J&state=ours"), "invalid");
    }
}
