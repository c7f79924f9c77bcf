//! A server that means harm: raw TCP, for no honest HTTP library sends such things.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Beyond any head of a request that is sent here.
const MAX_HEAD: usize = 64 * 1024;
/// Between two pieces of an answer that is to last for ever.
const SLOWLY: Duration = Duration::from_secs(1);
/// Endless, and no faster than a network: the machine is needed for the tests, too.
const QUICKLY: Duration = Duration::from_millis(1);
const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// What is done to whoever asks for a path below the name.
pub struct Trick {
    /// The first part of the path.
    pub name: &'static str,
    /// What is sent first.
    opens: Vec<u8>,
    /// What is sent over and over afterwards, and the pause before each time. Without it the connection ends.
    goes_on: Option<(Vec<u8>, Duration)>,
}

/// All that is done.
pub fn tricks() -> Vec<Trick> {
    let mut tricks = bodies();
    tricks.extend(heads());
    tricks.extend(chunks());
    tricks.extend(documents());
    tricks
}

fn once(name: &'static str, answer: impl Into<Vec<u8>>) -> Trick {
    Trick { name, opens: answer.into(), goes_on: None }
}

fn on_and_on(name: &'static str, opens: impl Into<Vec<u8>>, piece: impl Into<Vec<u8>>) -> Trick {
    Trick { name, opens: opens.into(), goes_on: Some((piece.into(), QUICKLY)) }
}

fn slowly(name: &'static str, opens: impl Into<Vec<u8>>, piece: &str) -> Trick {
    Trick { name, opens: opens.into(), goes_on: Some((piece.into(), SLOWLY)) }
}

fn bodies() -> Vec<Trick> {
    vec![
        on_and_on("endless-body", format!("{JSON}\r\n{{\"a\":\""), "a".repeat(MAX_HEAD)),
        slowly("dripping-body", format!("{JSON}Content-Length: 100000\r\n\r\n"), " "),
        once("cut-body", format!("{JSON}Content-Length: 99999999999\r\n\r\n{{")),
        once("length-beyond-numbers", format!("{JSON}Content-Length: {}\r\n\r\n{{", "9".repeat(40))),
        once("two-lengths", format!("{JSON}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}")),
        once("negative-length", format!("{JSON}Content-Length: -2\r\n\r\n{{}}")),
    ]
}

fn heads() -> Vec<Trick> {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    vec![
        slowly("silence", "", ""),
        slowly("dripping-head", "HTTP/1.1 200 OK\r\nX-A: ", "a"),
        on_and_on("endless-reason", "HTTP/1.1 200 ", "a".repeat(MAX_HEAD)),
        on_and_on("endless-header", "HTTP/1.1 200 OK\r\nX-A: ", "a".repeat(MAX_HEAD)),
        on_and_on("endless-headers", "HTTP/1.1 200 OK\r\n", "X-A: a\r\n".repeat(1000)),
        on_and_on("endless-hints", "", hints.repeat(100)),
        once(
            "switched-protocols",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
        ),
        once("no-http", "<html>who are you?</html>\n"),
        once("another-http", [0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]),
        once("nothing", ""),
        once("zeros", vec![0; 4096]),
    ]
}

fn chunks() -> Vec<Trick> {
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n\r\n");
    let extended = format!("1;{}\r\n \r\n", "a".repeat(1000));
    vec![
        on_and_on("endless-chunks", chunked.as_str(), format!("10000\r\n{}\r\n", "a".repeat(0x10000))),
        on_and_on("tiny-chunks", chunked.as_str(), "1\r\n \r\n".repeat(1000)),
        on_and_on("endless-extension", format!("{chunked}1;"), "a".repeat(MAX_HEAD)),
        on_and_on("endless-extensions", chunked.as_str(), extended),
        on_and_on("endless-trailers", format!("{chunked}2\r\n{{}}\r\n0\r\n"), "X-A: a\r\n".repeat(1000)),
        once("chunk-beyond-numbers", format!("{chunked}{}\r\n{{}}", "f".repeat(40))),
    ]
}

/// Answers that HTTP has nothing against.
fn documents() -> Vec<Trick> {
    let json = |name, body: String| once(name, format!("{JSON}Content-Length: {}\r\n\r\n{body}", body.len()));
    let token =
        |life: &str| format!("{{\"access_token\":\"a-token-of-a-hostile-server\",\"expires_in\":{life}}}");
    let deep = 100_000;
    vec![
        json("deep-lists", format!("{{\"access_token\":{}{}}}", "[".repeat(deep), "]".repeat(deep))),
        json("deep-objects", format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep))),
        json("many-lists", format!("[{}[]]", "[],".repeat(300_000))),
        json("many-members", format!("{{{}\"a\":1}}", "\"a\":1,".repeat(150_000))),
        json("long-token", format!("{{\"access_token\":\"{}\"}}", "a".repeat(1_000_000))),
        json("life-of-nothing", token("0")),
        json("life-in-the-past", token("-1e9")),
        json("life-of-words", token("\"forever\"")),
        json("life-of-lists", token("[3600]")),
        once("bomb", bomb(&token("3600"))),
    ]
}

/// A small answer that would be a large one, with a token in it, to whoever unpacks it.
fn bomb(token: &str) -> Vec<u8> {
    static PACKED: OnceLock<Vec<u8>> = OnceLock::new();
    let document = || format!("{token}{}", " ".repeat(16 * 1024 * 1024));
    let packed = PACKED.get_or_init(|| gzip(document().as_bytes()));
    let length = packed.len();
    let mut answer = format!("{JSON}Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    answer.extend(packed);
    answer
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("document");
    std::fs::write(&file, plain).unwrap();
    let packed = std::process::Command::new("gzip").arg("-c").arg(&file).output().expect("gzip is installed");
    assert!(packed.status.success() && packed.stdout.len() < plain.len() / 100);
    packed.stdout
}

/// A running server of tricks. It stops when it is dropped.
pub struct Hostile {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Hostile {
    /// Starts one.
    pub async fn start(tricks: Vec<Trick>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tricks, requests) = (Arc::new(tricks), Arc::<Mutex<Vec<String>>>::default());
        let noted = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An error is a client that has had enough.
                tokio::spawn(serve(stream, Arc::clone(&tricks), Arc::clone(&noted)));
            }
        });
        Self { address, requests, server }
    }

    /// Where this is done; anything may follow.
    pub fn url(&self, trick: &str) -> String {
        format!("http://{}/{trick}", self.address)
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    tricks: Arc<Vec<Trick>>,
    requests: Arc<Mutex<Vec<String>>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        if client.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let name = head.split(['/', ' ', '?']).nth(2).unwrap_or_default().to_owned();
    requests.lock().unwrap().push(head);
    let Some(trick) = tricks.iter().find(|trick| trick.name == name) else { return Ok(()) };
    client.write_all(&trick.opens).await?;
    if let Some((piece, pause)) = &trick.goes_on {
        loop {
            tokio::time::sleep(*pause).await;
            client.write_all(piece).await?;
        }
    }
    client.shutdown().await?;
    // What was sent is to be read before a reset; and a client that waits for more may wait.
    let mut rest = [0; 1024];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}
