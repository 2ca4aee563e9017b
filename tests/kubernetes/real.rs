//! The same store against a real API server.

use std::io::Write as _;
use std::path::PathBuf;

use super::seen::{Running, own};
use tapestry::cluster::kubernetes::Pace;
use tapestry::cluster::store::{Order, Release};
use tokio::sync::oneshot;

/// With `TAPESTRY_KUBECONFIG` set to a kubeconfig: joins the cluster as the Node that
/// `TAPESTRY_KUBE_NODE` names (default: `node-1`), sees itself written there, and withdraws. The
/// Node's NetworkUnavailable is not touched.
#[tokio::test]
async fn a_real_api_server() {
    let Some(kubeconfig) = std::env::var_os("TAPESTRY_KUBECONFIG").map(PathBuf::from) else {
        // Past the capture of the test's output: that it did not run is to be seen.
        let said = "NOT RUN: a_real_api_server: TAPESTRY_KUBECONFIG names no kubeconfig\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    };
    let node = std::env::var("TAPESTRY_KUBE_NODE").unwrap_or_else(|_| "node-1".into());
    let mut store = Running::start(kubeconfig.clone(), &node, Pace { page: 2, ..Pace::default() });
    let own = own();
    store.until("a list", |seen| seen.lists > 0).await;
    let seen = store.until("this node", |seen| seen.members.contains_key(&node)).await;
    assert_eq!(seen.vtep(&node).unwrap(), own.vtep.to_string(), "{:?}", seen.refused);
    assert_eq!(seen.refused, None);
    // Another one sees what was written, as another node would.
    let mut other = Running::start(kubeconfig, "no-such-node", Pace::default());
    let name = node.clone();
    other
        .until("what was written", |seen| {
            seen.vtep(&name).is_some_and(|vtep| vtep == own.vtep.to_string())
        })
        .await;
    let (answer, outcome) = oneshot::channel();
    store.order(Order::Release(Release { node: node.clone(), force: true, answer })).await;
    outcome.await.unwrap().unwrap();
    other.until("that it is gone", |seen| !seen.members.contains_key(&name)).await;
    other.hang_up().await;
    store.hang_up().await;
}
