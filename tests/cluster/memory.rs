//! What of tokens stays in the operator's memory once they were replaced: nothing, for freed memory is wiped.
//!
//! It is read as a debugger reads it, which only root may. Tokens that are in use are in memory, and are not looked for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_simulator::{CLIENT_ID, Config};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::objects::credential;
use crate::harness::{Issuer, Options, World, delegated};

/// A connection that lies idle may hold an old answer in its buffer: it is closed after a minute and a half.
const PATIENCE: Duration = Duration::from_mins(3);

/// A piece at a time: memory is larger than a test should need.
const PIECE: usize = 4 * 1024 * 1024;

/// The values that stand somewhere in a process's own memory, bare or in base64.
fn found(pid: u32, values: &BTreeSet<String>) -> BTreeSet<String> {
    let forms = |value: &String| {
        let bytes = value.as_bytes();
        let encoded = (0..3).map(|skipped| {
            let rest = &bytes[skipped..];
            STANDARD.encode(&rest[..rest.len() - rest.len() % 3]).into_bytes()
        });
        std::iter::once(bytes.to_vec()).chain(encoded).collect::<Vec<_>>()
    };
    let needles: Vec<(&String, Vec<Vec<u8>>)> = values.iter().map(|value| (value, forms(value))).collect();
    let longest = needles.iter().flat_map(|(_, forms)| forms).map(Vec::len).max().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (address(from), address(to));
        while at < end {
            let length = usize::try_from(end - at).unwrap().min(PIECE + longest);
            let mut bytes = vec![0; length];
            memory.seek(SeekFrom::Start(at)).unwrap();
            // A part of it may have gone meanwhile.
            if memory.read_exact(&mut bytes).is_ok() {
                for (value, forms) in &needles {
                    if forms.iter().any(|form| contains(&bytes, form)) {
                        found.insert((*value).clone());
                    }
                }
            }
            at += PIECE as u64;
        }
    }
    found
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    let (first, rest) = form.split_first().unwrap();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| byte == first) {
        at += next + 1;
        if bytes[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "a test that shows nothing is to say so")]
async fn tokens_that_were_replaced_are_not_in_memory_any_more() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return println!("SKIPPED: only root reads another process's memory");
    }
    World::run("memory", async |world| {
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        let seed = entra.mint().unwrap();
        world.seed("seed", &seed).await;
        let mut object = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        object["spec"]["endpoints"]["graph"] = json!(entra.url());
        world.create(&object).await;
        let mut spent = BTreeSet::from([seed]);
        let mut served = BTreeSet::new();
        for count in 1..=4_u64 {
            world.until("mail", "refreshed", |gt| gt.ready() && gt.refresh_count() == count).await;
            let data = world.data(&credential("mail")).await;
            let tokens = [data["refresh_token"].clone(), data["access_token"].clone()];
            spent.append(&mut served);
            served.extend(tokens);
            if count < 4 {
                world.request_refresh("mail", &count.to_string()).await;
            }
        }
        assert_eq!(spent.len(), 7, "a seed, and three pairs");
        let in_use = found(operator.pid(), &served).len();
        let began = Instant::now();
        loop {
            let left = found(operator.pid(), &spent).len();
            println!("after {:?}: {left} of {} spent, {in_use} of 2 in use", began.elapsed(), spent.len());
            if left == 0 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{left} of {} tokens are still in memory", spent.len());
            sleep(Duration::from_secs(3)).await;
        }
    })
    .await;
}
