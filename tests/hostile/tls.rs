//! TLS: 1.2 at least, and a certificate that is valid now, for this host, from an authority that is trusted. Else nothing is
//! sent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use graphtoken::exchange::Provider;
use graphtoken::failure::NoAnswer;
use reqwest::Certificate;
use rstest::rstest;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(10);

/// An authority, and what it issued.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=authority",
        );
        fs::write(authority.0.path().join("index.txt"), "").unwrap();
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\nrand_serial = yes\n\
                      default_md = sha256\npolicy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n";
        fs::write(authority.0.path().join("ca.cnf"), config).unwrap();
        authority
    }

    /// A certificate for this name, valid between these times (`YYYYMMDDHHMMSSZ`).
    fn issue(&self, name: &str, from: &str, to: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=server -addext subjectAltName={name}"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config ca.cnf -cert ca.crt -keyfile ca.key -startdate {from} -enddate {to} -in server.csr \
             -out server.crt"
        ));
    }

    fn openssl(&self, args: &str) {
        let made = Command::new("openssl").args(args.split_whitespace()).current_dir(self.0.path()).output();
        let made = made.expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn provider(&self) -> Provider {
        let trusted = fs::read(self.0.path().join("ca.crt")).unwrap();
        Provider::new(1000.0, vec![Certificate::from_pem(&trusted).unwrap()]).unwrap()
    }
}

/// `openssl s_server`, which answers a GET with a page. It is killed when it is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-key", "server.key", "-cert", "server.crt"])
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned));
        let address = address.expect("s_server says where it listens");
        // It must not meet a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url: format!("https://{address}/") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const OURS: &str = "IP:127.0.0.1";
const LONG_AGO: &str = "20200101000000Z";
const FAR_OFF: &str = "20760101000000Z";

#[rstest]
#[case::tls_1_3("-tls1_3", true)]
#[case::tls_1_2("-tls1_2", true)]
#[case::tls_1_1("-tls1_1", false)]
#[case::tls_1_0("-tls1", false)]
#[tokio::test]
async fn tls_is_1_2_at_least(#[case] version: &str, #[case] taken: bool) {
    let authority = Authority::new();
    authority.issue(OURS, LONG_AGO, FAR_OFF);
    // What old versions need of OpenSSL to be offered at all.
    let server = Server::start(authority.0.path(), &[version, "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(
        taken || speaks(&server.url, version),
        "this openssl does not offer {version}, so nothing is shown"
    );
    let answered = authority.provider().present(&server.url, &"a-token".into(), "an-id", DEADLINE).await;
    assert_eq!(answered.map(|answer| answer.status), if taken { Ok(200) } else { Err(NoAnswer::Tls) });
}

/// Whether a server can be talked to in this version.
fn speaks(url: &str, version: &str) -> bool {
    let address = url.trim_start_matches("https://").trim_end_matches('/');
    let client = Command::new("openssl")
        .args(["s_client", "-connect", address, version, "-cipher", "ALL:@SECLEVEL=0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&client.stdout).contains("Cipher is") && client.status.success()
}

#[rstest]
#[case::as_it_should_be(OURS, LONG_AGO, FAR_OFF, true, true)]
#[case::of_another_host("DNS:login.microsoftonline.com", LONG_AGO, FAR_OFF, true, false)]
#[case::expired(OURS, LONG_AGO, "20210101000000Z", true, false)]
#[case::not_yet_valid(OURS, "20700101000000Z", FAR_OFF, true, false)]
#[case::of_an_authority_that_nobody_trusts(OURS, LONG_AGO, FAR_OFF, false, false)]
#[tokio::test]
async fn a_certificate_is_verified(
    #[case] name: &str,
    #[case] from: &str,
    #[case] to: &str,
    #[case] trusted: bool,
    #[case] taken: bool,
) {
    let authority = Authority::new();
    authority.issue(name, from, to);
    let server = Server::start(authority.0.path(), &[]);
    let provider = if trusted { authority.provider() } else { Provider::new(1000.0, Vec::new()).unwrap() };
    let answered = provider.present(&server.url, &"a-token".into(), "an-id", DEADLINE).await;
    assert_eq!(answered.map(|answer| answer.status), if taken { Ok(200) } else { Err(NoAnswer::Tls) });
}
