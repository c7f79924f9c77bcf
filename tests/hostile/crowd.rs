//! A namespace full of Secrets that are large where the operator reads: it must not take the memory that others need. The API
//! server is one that knows nothing else.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::process::Stage;

/// One user may create so many, and as large.
const SECRETS: usize = 1500;
const ANNOTATION: usize = 250_000;
const LABELS: usize = 1000;
/// What a pod of the chart may take is 256 MiB; this build is larger than that of a release.
const MOST_MIB: u64 = 200;
const LIST_IN: Duration = Duration::from_mins(5);

/// An API server with nothing but these Secrets. Tells when a list of them was followed by a watch.
fn api_server() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let noise: String = (0..2 * ANNOTATION as u64).map(letter).collect();
        let labels: Vec<String> =
            (0..LABELS).map(|m| format!(r#""l{m}":"{}","#, &noise[m * 63..][..63])).collect();
        let labels = labels.concat();
        let noise: &'static Noise = Box::leak(Box::new(Noise { noise, labels }));
        for stream in listener.incoming() {
            let (stream, watched) = (stream.unwrap(), tell.clone());
            // The operator closes a connection in the midst of an answer that is too large.
            std::thread::spawn(move || serve(stream, noise, &watched).ok());
        }
    });
    (address, told)
}

struct Noise {
    noise: String,
    labels: String,
}

/// Text that does not become shorter by packing.
fn letter(n: u64) -> char {
    let mixed = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 58;
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[usize::try_from(mixed).unwrap()]
        .into()
}

fn serve(stream: TcpStream, noise: &Noise, watched: &Sender<()>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    while let Some(first) = lines.next() {
        let first = first?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let query = |name: &str| {
            let value = first.split(['?', '&', ' ']).find_map(|pair| pair.strip_prefix(name));
            value.and_then(|value| value.parse::<usize>().ok())
        };
        let secrets = first.contains("/secrets?");
        if first.contains("watch=true") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            if secrets {
                let _ = watched.send(());
            }
            continue;
        }
        let from = query("continue=").unwrap_or(0);
        let to = if secrets { SECRETS.min(from + query("limit=").unwrap_or(SECRETS)) } else { from };
        let next = if to < SECRETS && secrets { to.to_string() } else { String::new() };
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        write!(
            stream,
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"1","continue":"{next}"}},"items":["#
        )?;
        for n in from..to {
            if n > from {
                stream.write_all(b",")?;
            }
            write_secret(&mut stream, n, noise)?;
        }
        return stream.write_all(b"]}");
    }
    Ok(())
}

/// Every second one pretends to be the operator's.
fn write_secret(stream: &mut TcpStream, n: usize, Noise { noise, labels }: &Noise) -> std::io::Result<()> {
    let at = n * 151 % ANNOTATION;
    let manager = if n.is_multiple_of(2) { "graphtoken-operator" } else { "Helm" };
    write!(
        stream,
        r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"s-{n}","namespace":"ns","uid":"u-{n}","resourceVersion":"{n}",
        "labels":{{{labels}"app.kubernetes.io/managed-by":"{manager}","graphtoken.io/name":"s-{n}"}},
        "annotations":{{"graphtoken.io/x":"{}"}}}}}}"#,
        &noise[at..at + ANNOTATION]
    )
}

#[cfg(target_os = "linux")]
#[test]
fn a_crowd_of_large_secrets_takes_little_memory() {
    let (address, watched) = api_server();
    let stage = Stage::new(address);
    let mut operator = stage.operator();
    watched.recv_timeout(LIST_IN).expect("all of them are listed");
    let status = fs::read_to_string(operator.proc("status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(operator.0.try_wait().unwrap().is_none(), "{}", fs::read_to_string(stage.path("log")).unwrap());
    assert!(peak < MOST_MIB * 1024, "it had {} MiB at its most", peak / 1024);
}
