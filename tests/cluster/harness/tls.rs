//! An authority that no system trusts, as companies have one for what stands between them and the internet.

use std::path::{Path, PathBuf};
use std::process::Command;

use entra_simulator::Tls;
use tempfile::TempDir;

/// An authority of one test.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes one, and a certificate for `127.0.0.1` that it issued.
    pub fn new() -> Self {
        Self::for_names(&[], "127.0.0.1")
    }

    /// Makes one, and a certificate for these names and this address that it issued.
    pub fn for_names(names: &[&str], address: &str) -> Self {
        let mut names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
        names.push(format!("IP:{address}"));
        let names = names.join(",");
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, args: &str| {
            let args = format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {name}.key -out {name}.crt {args}"
            );
            let made = Command::new("openssl")
                .args(args.split_whitespace())
                .current_dir(folder.path())
                .output()
                .expect("openssl is installed");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        make("ca", "-subj /CN=authority -addext keyUsage=critical,keyCertSign");
        let server = format!(
            "-subj /CN=server -CA ca.crt -CAkey ca.key -addext subjectAltName={names} \
             -addext basicConstraints=critical,CA:FALSE"
        );
        make("server", &server);
        Self { folder }
    }

    /// Its certificate.
    pub fn bundle(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    /// What a server on loopback shows.
    pub fn server(&self) -> Tls {
        let read = |name: &str| std::fs::read_to_string(self.path().join(name)).unwrap();
        Tls { certificates_pem: read("server.crt"), key_pem: read("server.key") }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
