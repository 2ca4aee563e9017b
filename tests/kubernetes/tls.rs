//! Certificates, both ways, with OpenSSL's server as the other side. It speaks no Kubernetes: that
//! its page makes no sense says that it was reached.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::seen::{Running, brisk};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(dir: &Path, args: &str) {
    let args = args.split(' ').map(|arg| arg.replace('+', " "));
    let made = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// An authority `ca`, and certificates `server` and `client` of it; another authority, `other`.
fn certificates(dir: &Path) {
    for name in ["ca", "other"] {
        let subject = format!("-x509 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem");
        openssl(dir, &format!("req -newkey rsa:2048 -nodes {subject}"));
    }
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    for name in ["server", "client"] {
        let subject = format!("-subj /CN={name} -keyout {name}.key -out {name}.csr");
        openssl(dir, &format!("req -newkey rsa:2048 -nodes {subject}"));
        let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
        openssl(dir, &format!("x509 -req -in {name}.csr {signed} -out {name}.pem"));
    }
}

fn kubeconfig(dir: &Path, port: u16, authority: &str, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: \"https://127.0.0.1:{port}\", \
         certificate-authority: {authority}.pem}}}}]\n\
         users: [{{name: u, user: {{{user}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
    );
    fs::write(dir.join("kubeconfig"), text).unwrap();
}

#[tokio::test]
async fn certificates_are_checked_and_shown() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "openssl is missing");
        let said = "NOT RUN: certificates_are_checked_and_shown: openssl is not installed\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _server = Server(
        Command::new("openssl")
            .current_dir(dir)
            .args(["s_server", "-www", "-quiet", "-cert", "server.pem", "-key", "server.key"])
            .args(["-Verify", "1", "-verify_return_error", "-CAfile", "ca.pem"])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let shown = "client-certificate: client.pem, client-key: client.key";
    kubeconfig(dir, port, "other", shown);
    let mut store = Running::start(dir.join("kubeconfig"), "node-1", brisk());
    let says = |text: &'static str| {
        move |seen: &super::seen::Seen| {
            seen.trouble.as_ref().is_some_and(|trouble| trouble.contains(text))
        }
    };
    store.until("its authority is not ours", says("certificate")).await;
    // Files that a kubeconfig names are read anew with it.
    kubeconfig(dir, port, "ca", "token: none");
    store.until("it wants ours", says("cannot be reached")).await;
    kubeconfig(dir, port, "ca", shown);
    store.until("it is reached", says("makes no sense")).await;
}
