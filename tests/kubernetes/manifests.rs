//! What is packaged for Kubernetes: every field is one that the API has, and the parts fit.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tapestry::config::{Config, Store};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubernetes")
}

fn documents(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir().join(name)).unwrap();
    text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

/// What of `typed` is not in `known`, by its path.
fn unknown(typed: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (typed, known) {
        (Value::Object(typed), Value::Object(known)) => {
            for (key, value) in typed {
                let path = format!("{path}.{key}");
                match known.get(key) {
                    Some(known) => unknown(value, known, &path, found),
                    // An empty map or list says as much as none.
                    None if value == &serde_json::json!({}) => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(typed), Value::Array(known)) if typed.len() == known.len() => {
            for (at, (typed, known)) in typed.iter().zip(known).enumerate() {
                unknown(typed, known, &format!("{path}[{at}]"), found);
            }
        }
        (typed, known) if typed == known => {}
        _ => found.push(path.to_owned()),
    }
}

/// The object, every field of which has got through the API's own type.
fn object<T: DeserializeOwned + Serialize>(typed: &Value) -> T {
    let object: T = serde_json::from_value(typed.clone()).unwrap();
    let mut found = Vec::new();
    unknown(typed, &serde_json::to_value(&object).unwrap(), "", &mut found);
    assert!(found.is_empty(), "no such fields: {found:?}");
    object
}

#[test]
fn a_field_that_the_api_has_not_is_found() {
    let typed = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "a"}, "automountToken": false,
    });
    let known: ServiceAccount = serde_json::from_value(typed.clone()).unwrap();
    let mut found = Vec::new();
    unknown(&typed, &serde_json::to_value(&known).unwrap(), "", &mut found);
    assert_eq!(found, [".automountToken"]);
}

fn pods(name: &str) -> PodSpec {
    let daemon_set: DaemonSet = object(&documents(name)[0]);
    let spec = daemon_set.spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(spec.selector.match_labels.unwrap(), labels);
    spec.template.spec.unwrap()
}

#[test]
fn every_field_is_one_of_the_api() {
    let _: Namespace = object(&documents("namespace.yaml")[0]);
    let account: ServiceAccount = object(&documents("serviceaccount.yaml")[0]);
    let rbac = documents("rbac.yaml");
    let role: ClusterRole = object(&rbac[0]);
    let binding: ClusterRoleBinding = object(&rbac[1]);
    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    assert_eq!(subject.namespace, account.metadata.namespace);
    pods("daemonset.yaml");
    pods("teardown/daemonset.yaml");
}

#[test]
fn the_role_is_the_least() {
    let role: ClusterRole = object(&documents("rbac.yaml")[0]);
    let mut rights = Vec::new();
    for rule in role.rules.unwrap() {
        for resource in rule.resources.unwrap() {
            rights.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource}")));
        }
    }
    let needed = ["get nodes", "list nodes", "watch nodes", "patch nodes", "patch nodes/status"];
    assert_eq!(rights, needed);
}

#[test]
fn volumes_are_there_and_privileges_are_where_they_belong() {
    for name in ["daemonset.yaml", "teardown/daemonset.yaml"] {
        let spec = pods(name);
        let volumes: Vec<&str> =
            spec.volumes.as_ref().unwrap().iter().map(|volume| volume.name.as_str()).collect();
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            for mount in container.volume_mounts.iter().flatten() {
                assert!(volumes.contains(&mount.name.as_str()), "{}: {}", name, mount.name);
            }
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.privileged, None);
            assert_eq!(security.allow_privilege_escalation, Some(false));
            let capabilities = security.capabilities.as_ref().unwrap();
            assert_eq!(capabilities.drop.as_deref().unwrap(), ["ALL"]);
        }
    }
    let spec = pods("daemonset.yaml");
    let added = |name: &str| {
        let container = spec.containers.iter().find(|container| container.name == name).unwrap();
        let security = container.security_context.clone().unwrap();
        (security.run_as_user.unwrap(), security.capabilities.unwrap().add.unwrap_or_default())
    };
    assert_eq!(added("tapestry"), (64789, vec![]));
    let helpers = ["NET_ADMIN", "SYS_ADMIN", "CHOWN"].map(str::to_owned).to_vec();
    assert_eq!(added("helper"), (0, helpers));
    assert!(spec.tolerations.unwrap().iter().any(|toleration| {
        toleration.operator.as_deref() == Some("Exists") && toleration.key.is_none()
    }));
}

/// The file in the ConfigMap, as it is on a node after the container "prepare", and with what the
/// DaemonSet mounts and asks.
#[test]
fn the_configuration_is_valid_and_fits_the_daemon_set() {
    let text = fs::read_to_string(dir().join("tapestry.toml")).unwrap();
    for (node, address) in [("ip-10-0-0-7.example.org", "192.0.2.7"), ("n", "2001:db8::7")] {
        let text = text.replace("@NODE@", node).replace("@ADDRESS@", address);
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.node.name.as_str(), node);
        let cluster = config.cluster.unwrap();
        let Store::Kubernetes(kubernetes) = &cluster.store else { panic!("{cluster:?}") };
        assert_eq!(kubernetes.node.as_str(), node);
        assert_eq!(kubernetes.kubeconfig, None);
        let spec = pods("daemonset.yaml");
        let daemon = spec.containers.iter().find(|container| container.name == "tapestry").unwrap();
        let mounted = |path: &Path| {
            let mounts = daemon.volume_mounts.as_deref().unwrap();
            mounts.iter().any(|mount| path.starts_with(&mount.mount_path))
        };
        let conflist = cluster.conflist.unwrap();
        for path in [&cluster.attach, &conflist, &config.control.socket, &config.state.dir] {
            assert!(mounted(path), "{}", path.display());
        }
        let probe = daemon.liveness_probe.as_ref().unwrap().http_get.as_ref().unwrap();
        let listen = config.metrics.listen.unwrap();
        assert_eq!(probe.host.as_deref(), Some(listen.ip().to_string().as_str()));
        assert_eq!(serde_json::to_value(&probe.port).unwrap(), listen.port());
    }
}

/// The shell in the init containers, as a shell reads it.
#[test]
fn scripts_are_ones() {
    for name in ["daemonset.yaml", "teardown/daemonset.yaml"] {
        for container in pods(name).init_containers.unwrap() {
            let script = &container.args.unwrap()[0];
            let checked = Command::new("sh").args(["-n", "-c", script]).status().unwrap();
            assert!(checked.success(), "{name}: {script}");
        }
    }
}

#[test]
fn kubectl_builds_it() {
    for (part, objects) in [("", 6), ("teardown", 1)] {
        let built = Command::new("kubectl").arg("kustomize").arg(dir().join(part)).output();
        let Ok(built) = built else {
            assert!(std::env::var_os("CI").is_none(), "kubectl is missing");
            let said = "NOT RUN: kubectl_builds_it: kubectl is not installed\n";
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let text = String::from_utf8(built.stdout).unwrap();
        assert_eq!(text.split("\n---\n").count(), objects, "{text}");
        assert!(!text.contains("image: tapestry\n"), "an image has no registry: {text}");
    }
}
