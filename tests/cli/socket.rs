//! The control socket itself: its file, bad requests, slow clients, its document.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use tapestry::control::{Command, ControlSocket, Refusal, commands, openapi};

use crate::stand_in::StandIn;

#[test]
fn the_socket_is_made_replaced_guarded_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/t.sock");
    let first = ControlSocket::bind(&path).unwrap();
    let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = ControlSocket::bind(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    drop(first);
    assert!(!path.exists(), "removed with the server");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left by one that was killed");
    let second = ControlSocket::bind(&path).unwrap();
    // Another's socket in the same place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(second);
    assert!(path.exists());
    drop(other);

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = ControlSocket::bind(&file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn bad_requests_get_an_error_in_json() {
    let daemon = StandIn::start();
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    let rows: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/", "", 404, "no such path"),
        ("GET", "/v2/status", "", 404, "no such path"),
        ("POST", "/v1/status", "", 405, "no such method"),
        ("POST", "/v1/ports", "{", 422, "EOF"),
        ("POST", "/v1/ports", "[]", 422, "invalid"),
        ("POST", "/v1/ports", "{\"name\": \"a\", \"colour\": 1}", 422, "colour"),
        ("POST", "/v1/ports", "{\"segment\": \"blue\"}", 422, "name"),
        ("POST", "/v1/ports", &large, 422, "length limit"),
        ("POST", "/v1/ports?origin=config", "{\"name\": \"a\"}", 422, "configuration"),
        ("POST", "/v1/ports?origin=me", "{\"name\": \"a\"}", 422, "origin"),
        ("POST", "/v1/fdb", "{\"segment\": \"a\", \"mac\": \"m\"}", 422, "either"),
        (
            "POST",
            "/v1/fdb",
            "{\"segment\":\"a\",\"mac\":\"m\",\"port\":\"p\",\"vtep\":\"v\"}",
            422,
            "either",
        ),
        ("GET", "/v1/fdb?colour=red", "", 422, "colour"),
        ("DELETE", "/v1/fdb?segment=a", "", 422, "mac"),
        ("DELETE", "/v1/ports/nobody", "", 404, "no port"),
        ("POST", "/v1/fdb/flush", "{\"port\": 1}", 422, "string"),
    ];
    for (method, path, body, code, fragment) in rows {
        let (got, answer) = daemon.http(method, path, body);
        assert_eq!(got, *code, "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect(path);
        let error = answer["error"].as_str().expect(path);
        assert!(error.contains(fragment), "{method} {path}: {error}");
    }
    assert_eq!(daemon.http("POST", "/v1/fdb/flush", ""), (200, "{\"removed\":17}".to_owned()));
}

#[test]
fn a_slow_client_blocks_nobody() {
    let daemon = StandIn::start();
    let slow: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.write_all(b"GET /v1/status HT").unwrap();
            stream
        })
        .collect();
    let mut half = UnixStream::connect(daemon.socket()).unwrap();
    half.write_all(b"POST /v1/ports HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{").unwrap();
    assert!(daemon.text(&["status"]).starts_with("version"));
    drop(slow);
}

#[test]
fn a_daemon_that_goes_away_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (handle, inbox) = commands();
    drop(inbox);
    let refusal = runtime.block_on(handle.ask(Command::Status)).unwrap_err();
    assert_eq!(refusal, Refusal::unavailable("the daemon is stopping"));
}

#[test]
fn openapi_lists_every_route_and_every_route_is_there() {
    let daemon = StandIn::start();
    let (code, text) = daemon.http("GET", "/v1/openapi.json", "");
    assert_eq!(code, 200);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document, serde_json::to_value(openapi()).unwrap());
    let mut listed = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let wanted = [
        "DELETE /v1/fdb",
        "DELETE /v1/ips/{address}",
        "DELETE /v1/ports/{name}",
        "GET /v1/drops",
        "GET /v1/fdb",
        "GET /v1/ips",
        "GET /v1/nodes",
        "GET /v1/openapi.json",
        "GET /v1/peers",
        "GET /v1/pods",
        "GET /v1/ports",
        "GET /v1/segments",
        "GET /v1/status",
        "POST /v1/fdb",
        "POST /v1/fdb/flush",
        "POST /v1/gc",
        "POST /v1/nodes/confirm",
        "POST /v1/nodes/release",
        "POST /v1/ports",
        "POST /v1/reload",
    ];
    assert_eq!(listed, wanted.iter().map(|route| (*route).to_owned()).collect());
    for route in &listed {
        let (method, path) = route.split_once(' ').unwrap();
        let (_, body) =
            daemon.http(method, &path.replace("{name}", "tap-a").replace("{address}", "::1"), "");
        assert!(!body.contains("no such path"), "{route}: {body}");
        assert!(!body.contains("no such method"), "{route}: {body}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in [
        "PortRow",
        "FdbRow",
        "PeerRow",
        "DropRow",
        "SegmentRow",
        "Status",
        "ReloadReport",
        "PortSpec",
        "NodeRow",
        "PodRow",
        "IpRow",
        "GcReport",
        "ClusterStatus",
        "Failure",
        "Traffic",
    ] {
        assert!(schemas.contains_key(name), "{name}");
    }
    // Every reference leads somewhere.
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}
