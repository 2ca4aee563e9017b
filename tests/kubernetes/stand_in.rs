//! A server that answers as the recorded one did: the same bodies, statuses and events, about
//! Nodes that a test can change.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Piece = Result<Frame<Bytes>, io::Error>;

/// A body that comes piece by piece. An error cuts the connection.
pub(crate) struct Pieces(mpsc::UnboundedReceiver<Piece>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(context)
    }
}

/// What goes wrong with the next request of a kind.
pub(crate) enum Fault {
    /// This answer.
    Answer(u16, String),
    /// A watch that says this and ends.
    Events(String),
}

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    List,
    Watch,
    Get,
    Patch,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    version: u64,
    /// Versions below it are compacted.
    floor: u64,
    events: Vec<(u64, String)>,
    watches: Vec<mpsc::UnboundedSender<Piece>>,
    token: String,
    faults: VecDeque<(Kind, Fault)>,
    requests: Vec<(Kind, String)>,
    patches: Vec<(String, Value)>,
    /// Compacts after each page, so that no list becomes whole.
    hasty: bool,
}

/// The server.
pub(crate) struct StandIn {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    serving: Option<tokio::task::JoinHandle<()>>,
    dir: tempfile::TempDir,
}

/// A recorded answer.
pub(crate) fn recorded(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/data");
    fs::read_to_string(dir.join(name)).unwrap()
}

/// The recorded Nodes.
pub(crate) fn recorded_nodes() -> Vec<Value> {
    let list: Value = serde_json::from_str(&recorded("nodes-list.json")).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// A recorded Node as a member's: with the annotations that it would write.
pub(crate) fn member(mut node: Value, vtep: &str) -> Value {
    let name = node["metadata"]["name"].as_str().unwrap().to_owned();
    node["metadata"]["annotations"] = json!({
        "tapestry.dev/vtep": vtep,
        "tapestry.dev/identity": format!("machine-of-{name}"),
        "tapestry.dev/node-uid": node["metadata"]["uid"],
    });
    node
}

impl StandIn {
    /// With these Nodes; who has the token `first` is let in.
    pub(crate) async fn start(nodes: impl IntoIterator<Item = Value>) -> Self {
        let state = State { version: 239, floor: 200, token: "first".into(), ..State::default() };
        let mut server = Self {
            state: Arc::new(Mutex::new(state)),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            serving: None,
            dir: tempfile::tempdir().unwrap(),
        };
        for node in nodes {
            let name = node["metadata"]["name"].as_str().unwrap().to_owned();
            server.state().nodes.insert(name, node);
        }
        server.come_back().await;
        server.write_kubeconfig("first");
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Writes it with another token.
    pub(crate) fn write_kubeconfig(&self, token: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: k, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n",
            self.address
        );
        fs::write(self.kubeconfig(), text).unwrap();
    }

    /// Lets in who has this token only.
    pub(crate) fn require(&self, token: &str) {
        self.state().token = token.to_owned();
    }

    /// Cuts every connection and takes no more.
    pub(crate) fn go_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        self.state().watches.clear();
    }

    /// Listens, where it did before if it did.
    pub(crate) async fn come_back(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        self.address = listener.local_addr().unwrap();
        self.serving = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
    }

    /// What goes wrong next.
    pub(crate) fn fault(&self, kind: Kind, fault: Fault) {
        self.state().faults.push_back((kind, fault));
    }

    /// Puts a Node, as a controller or kubelet does.
    pub(crate) fn put(&self, node: Value) {
        self.state().put(node);
    }

    /// Changes a Node.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let mut node = state.nodes[name].clone();
        change(&mut node);
        state.put(node);
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state();
        let mut node = state.nodes.remove(name).unwrap();
        let version = state.stamp(&mut node);
        state.happen(version, "DELETED", &node);
    }

    /// A bookmark on every watch.
    pub(crate) fn bookmark(&self) {
        let mut state = self.state();
        let lines = recorded("nodes-watch.jsonl");
        let line = lines.lines().find(|line| line.contains("BOOKMARK")).unwrap();
        let mut event: Value = serde_json::from_str(line).unwrap();
        event["object"]["metadata"]["resourceVersion"] = state.version.to_string().into();
        let line = format!("{event}\n");
        state.send(&line);
    }

    /// Compacts everything so far.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.compact();
    }

    /// Compacts after each page from now on.
    pub(crate) fn hasty(&self, hasty: bool) {
        self.state().hasty = hasty;
    }

    /// Ends every watch as at its timeout.
    pub(crate) fn end_watches(&self) {
        self.state().watches.clear();
    }

    /// Sends part of an event and cuts every watch.
    pub(crate) fn cut(&self, part: &str) {
        let mut state = self.state();
        for watch in std::mem::take(&mut state.watches) {
            let _ = watch.send(Ok(Frame::data(Bytes::from(part.to_owned()))));
            let _ = watch.send(Err(io::Error::other("cut")));
        }
    }

    pub(crate) fn node(&self, name: &str) -> Value {
        self.state().nodes[name].clone()
    }

    /// How many requests of a kind there were.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.state().requests.iter().filter(|(found, _)| *found == kind).count()
    }

    /// The URIs of the requests of a kind.
    pub(crate) fn uris(&self, kind: Kind) -> Vec<String> {
        let state = self.state();
        let of_kind = state.requests.iter().filter(|(found, _)| *found == kind);
        of_kind.map(|(_, uri)| uri.clone()).collect()
    }

    /// What was patched, by URI.
    pub(crate) fn patches(&self) -> Vec<(String, Value)> {
        self.state().patches.clone()
    }

    /// Waits until it is so.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}; requests: {:?}", self.state().requests);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl State {
    fn stamp(&mut self, node: &mut Value) -> u64 {
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.version
    }

    fn put(&mut self, mut node: Value) -> Value {
        let version = self.stamp(&mut node);
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = if self.nodes.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        self.nodes.insert(name, node.clone());
        self.happen(version, kind, &node);
        node
    }

    fn happen(&mut self, version: u64, kind: &str, node: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": alone(node)}));
        self.send(&line);
        self.events.push((version, line));
    }

    fn send(&mut self, line: &str) {
        let piece = || Ok(Frame::data(Bytes::from(line.to_owned())));
        self.watches.retain(|watch| watch.send(piece()).is_ok());
    }

    fn compact(&mut self) {
        self.version += 1;
        self.floor = self.version;
        self.events.clear();
    }

    fn fault(&mut self, kind: Kind) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == kind)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }

    fn list(&mut self, query: &BTreeMap<String, String>) -> Response<Pieces> {
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let token = query.get("continue").map(|token| token.split_once('-').unwrap());
        let (version, start) =
            token.map_or((self.version, ""), |(version, start)| (version.parse().unwrap(), start));
        if version < self.floor {
            return answer(410, recorded("nodes-list-continue-410.json"));
        }
        let rest: Vec<&Value> =
            self.nodes.iter().filter(|(name, _)| name.as_str() > start).map(|(_, n)| n).collect();
        let items: Vec<&Value> = rest.iter().take(limit).copied().collect();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if items.len() < rest.len() {
            let last = items.last().unwrap()["metadata"]["name"].as_str().unwrap();
            metadata["continue"] = format!("{version}-{last}").into();
            metadata["remainingItemCount"] = (rest.len() - items.len()).into();
        }
        let list =
            json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items});
        let list = list.to_string();
        if self.hasty {
            self.compact();
        }
        answer(200, list)
    }

    fn watch(&mut self, query: &BTreeMap<String, String>) -> Response<Pieces> {
        let (sender, pieces) = mpsc::unbounded_channel();
        let say = |text: String| drop(sender.send(Ok(Frame::data(Bytes::from(text)))));
        let from: u64 = query["resourceVersion"].parse().unwrap();
        if from < self.floor {
            let status: Value =
                serde_json::from_str(&recorded("nodes-list-exact-410.json")).unwrap();
            say(format!("{}\n", json!({"type": "ERROR", "object": status})));
            return streamed(200, pieces);
        }
        match self.fault(Kind::Watch) {
            Some(Fault::Answer(status, body)) => return answer(status, body),
            Some(Fault::Events(text)) => {
                say(text);
                return streamed(200, pieces);
            }
            None => {}
        }
        let since: Vec<String> = self
            .events
            .iter()
            .filter(|(version, _)| *version > from)
            .map(|(_, line)| line.clone())
            .collect();
        since.into_iter().for_each(say);
        self.watches.push(sender);
        streamed(200, pieces)
    }

    fn patch(&mut self, path: &str, patch: &Value) -> Response<Pieces> {
        let (name, part) = path.split_once('/').unwrap_or((path, ""));
        let Some(mut node) = self.nodes.get(name).cloned() else {
            return answer(404, recorded("node-get-404.json"));
        };
        if patch["metadata"]["uid"] != node["metadata"]["uid"] {
            return answer(409, recorded("node-put-409.json"));
        }
        // What of a strategic merge patch is used: maps are merged, null removes, the list of
        // conditions is merged by type. The status is a subresource of its own.
        if part == "status" {
            let conditions = &mut node["status"]["conditions"];
            if conditions.is_null() {
                *conditions = json!([]);
            }
            let conditions = conditions.as_array_mut().unwrap();
            for condition in patch["status"]["conditions"].as_array().unwrap() {
                conditions.retain(|standing| standing["type"] != condition["type"]);
                conditions.push(condition.clone());
            }
        } else {
            let annotations = &mut node["metadata"]["annotations"];
            if annotations.is_null() {
                *annotations = json!({});
            }
            let annotations = annotations.as_object_mut().unwrap();
            for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
                if value.is_null() {
                    annotations.remove(key);
                } else {
                    annotations.insert(key.clone(), value.clone());
                }
            }
        }
        let node = self.put(node);
        answer(200, alone(&node).to_string())
    }

    fn answered(
        &mut self,
        method: &Method,
        uri: &hyper::Uri,
        authorized: Option<&str>,
        content: Option<&str>,
        body: &[u8],
    ) -> Response<Pieces> {
        let query: BTreeMap<String, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let path = uri.path().strip_prefix("/api/v1/nodes").unwrap_or("?");
        let kind = match (method, path) {
            (&Method::GET, "") if query.contains_key("watch") => Kind::Watch,
            (&Method::GET, "") => Kind::List,
            (&Method::GET, _) => Kind::Get,
            (&Method::PATCH, _) => Kind::Patch,
            other => panic!("{other:?}"),
        };
        self.requests.push((kind, uri.to_string()));
        if authorized != Some(&format!("Bearer {}", self.token)) {
            return answer(401, recorded("unauthorized-401.json"));
        }
        if kind != Kind::Watch
            && let Some(Fault::Answer(status, body)) = self.fault(kind)
        {
            return answer(status, body);
        }
        let path = path.trim_start_matches('/');
        match kind {
            Kind::List => self.list(&query),
            Kind::Watch => self.watch(&query),
            Kind::Get => match self.nodes.get(path) {
                Some(node) => answer(200, alone(node).to_string()),
                None => answer(404, recorded("node-get-404.json")),
            },
            Kind::Patch => {
                assert_eq!(content, Some("application/strategic-merge-patch+json"));
                assert_eq!(query["fieldManager"], "tapestry");
                let patch: Value = serde_json::from_slice(body).unwrap();
                self.patches.push((path.to_owned(), patch.clone()));
                self.patch(path, &patch)
            }
        }
    }
}

/// A Node outside of a list, which has its kind.
fn alone(node: &Value) -> Value {
    let mut object = json!({"kind": "Node", "apiVersion": "v1"});
    object.as_object_mut().unwrap().extend(node.as_object().unwrap().clone());
    object
}

fn streamed(status: u16, pieces: mpsc::UnboundedReceiver<Piece>) -> Response<Pieces> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    response.body(Pieces(pieces)).unwrap()
}

fn answer(status: u16, body: String) -> Response<Pieces> {
    let (sender, pieces) = mpsc::unbounded_channel();
    let _ = sender.send(Ok(Frame::data(Bytes::from(body))));
    streamed(status, pieces)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Ends with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let state = Arc::clone(&state);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let text = |key| head.headers.get(key).and_then(|value| value.to_str().ok());
                    Ok::<_, Infallible>(state.lock().unwrap().answered(
                        &head.method,
                        &head.uri,
                        text(AUTHORIZATION),
                        text(CONTENT_TYPE),
                        &body,
                    ))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
