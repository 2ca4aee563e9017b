//! Requests to the API server. Credentials, TLS and kubeconfigs are kube's; bodies are read here,
//! within bounds.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::failure::Failure;
use super::object::Object;
use super::wire::{self, Event, Lines, Page, Refusal};
use crate::cluster::causes::causes;

/// A page that is longer is no page: 500 Nodes of the largest size that etcd takes are not reached
/// by any real cluster, 20 KiB each is usual.
const MAX_BODY: usize = 256 << 20;
/// etcd takes objects of up to 1.5 MiB.
const MAX_EVENT: usize = 8 << 20;
/// The field manager of what is written here.
const MANAGER: &str = "tapestry";

/// How long what takes how long is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For a whole answer, and for the beginning of a watch.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), answer: Duration::from_secs(30) }
    }
}

/// How the API server is reached.
#[derive(Debug)]
pub(super) struct Api {
    kubeconfig: Option<PathBuf>,
    patience: Patience,
    client: Option<Connected>,
    /// A plugin that a kubeconfig names may hang: it is asked once at a time.
    connecting: Option<JoinHandle<Result<Connected, Failure>>>,
}

#[derive(Clone)]
struct Connected(Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// What of a Node is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its metadata and spec.
    Object,
    /// Its status, a subresource with a right of its own.
    Status,
}

impl Api {
    /// By a kubeconfig; `None`: by the service account of the pod that this process runs in.
    #[must_use]
    pub(super) fn new(kubeconfig: Option<PathBuf>, patience: Patience) -> Self {
        Self { kubeconfig, patience, client: None, connecting: None }
    }

    /// Forgets the credentials and connections: the next request reads them anew.
    pub(super) fn forget(&mut self) {
        self.client = None;
    }

    /// A page of the list of all Nodes: the first, or the one that `next` leads to.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Failure::Gone`] if `next` is too old.
    pub(super) async fn list(&mut self, limit: usize, next: Option<&str>) -> Result<Page, Failure> {
        let mut uri = "/api/v1/nodes".to_owned();
        if limit > 0 {
            uri.push_str(&format!("?limit={limit}"));
            if let Some(next) = next {
                uri.push_str(&format!("&continue={}", encoded(next)));
            }
        }
        Ok(wire::page(&self.get(&uri).await?)?)
    }

    /// One Node.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Failure::NotFound`] if there is none of that name.
    pub(super) async fn node(&mut self, name: &str) -> Result<Object, Failure> {
        object(&self.get(&format!("/api/v1/nodes/{}", encoded(name))).await?)
    }

    /// Changes a Node by a strategic merge patch, and returns what it is then.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Failure::Conflict`] if the patch names another uid.
    pub(super) async fn patch(
        &mut self,
        name: &str,
        part: Part,
        patch: &Value,
    ) -> Result<Object, Failure> {
        let status = match part {
            Part::Object => "",
            Part::Status => "/status",
        };
        let uri = format!("/api/v1/nodes/{}{status}?fieldManager={MANAGER}", encoded(name));
        let request = Request::patch(uri)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/strategic-merge-patch+json")
            .body(Body::from(patch.to_string().into_bytes()));
        object(&self.whole(request).await?)
    }

    /// Watches all Nodes from a version on, for so long at most.
    ///
    /// # Errors
    ///
    /// [`Failure`], if it does not begin. [`Failure::Gone`] may also be the first event.
    pub(super) async fn watch(
        &mut self,
        version: &str,
        lasting: Duration,
    ) -> Result<Watch, Failure> {
        let uri = format!(
            "/api/v1/nodes?watch=1&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds={}",
            encoded(version),
            lasting.as_secs().max(1)
        );
        // Compression would hold events back until a block is full.
        let request = Request::get(uri)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .body(Body::empty());
        let response = self.answered(request).await?;
        Ok(Watch { body: response.into_body(), lines: Lines::new(MAX_EVENT) })
    }

    async fn get(&mut self, uri: &str) -> Result<Vec<u8>, Failure> {
        self.whole(Request::get(uri).header(ACCEPT, "application/json").body(Body::empty())).await
    }

    async fn whole(
        &mut self,
        request: Result<Request<Body>, hyper::http::Error>,
    ) -> Result<Vec<u8>, Failure> {
        let patience = self.patience.answer;
        let whole = async {
            let response = self.answered(request).await?;
            collected(response, MAX_BODY).await
        };
        tokio::time::timeout(patience, whole).await.unwrap_or_else(|_| Err(silent(patience)))
    }

    /// An answer of success, its body unread.
    async fn answered(
        &mut self,
        request: Result<Request<Body>, hyper::http::Error>,
    ) -> Result<Response<Body>, Failure> {
        let request = request.map_err(|error| Failure::Malformed(error.to_string()))?;
        let client = self.connected().await?;
        let patience = self.patience.answer;
        let answer = async {
            let response = client.send(request).await.map_err(|error| from_kube(&error))?;
            if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
        };
        tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| Err(silent(patience)))
    }

    async fn connected(&mut self) -> Result<Client, Failure> {
        if let Some(Connected(client)) = &self.client {
            return Ok(client.clone());
        }
        let connecting = self.connecting.get_or_insert_with(|| {
            let (kubeconfig, patience) = (self.kubeconfig.clone(), self.patience);
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || connect(kubeconfig, patience, &runtime))
        });
        let made = tokio::time::timeout(self.patience.answer, connecting).await;
        let made = made.map_err(|_| {
            Failure::Credentials("the plugin that the kubeconfig names does not answer".to_owned())
        })?;
        self.connecting = None;
        let made = made.map_err(|error| Failure::Credentials(error.to_string()))??;
        Ok(self.client.insert(made).0.clone())
    }
}

/// A client by what the files say now. Reads files and may run a plugin: it blocks.
fn connect(
    kubeconfig: Option<PathBuf>,
    patience: Patience,
    runtime: &Handle,
) -> Result<Connected, Failure> {
    let wrong = |error: &dyn std::error::Error| Failure::Credentials(causes(error));
    let mut config = match kubeconfig {
        Some(path) => {
            let named = |error: &dyn std::error::Error| {
                Failure::Credentials(format!("{}: {}", path.display(), causes(error)))
            };
            let file = Kubeconfig::read_from(&path).map_err(|error| named(&error))?;
            let options = KubeConfigOptions::default();
            let config = runtime.block_on(Config::from_custom_kubeconfig(file, &options));
            config.map_err(|error| named(&error))?
        }
        None => Config::incluster_env().map_err(|error| {
            Failure::Credentials(format!(
                "{}; outside of a cluster, set cluster.kubernetes.kubeconfig",
                causes(&error)
            ))
        })?,
    };
    config.connect_timeout = Some(patience.connect);
    // Tries are repeated here, with what is known here.
    config.default_retry = false;
    let _within = runtime.enter();
    Client::try_from(config).map(Connected).map_err(|error| wrong(&error))
}

/// A running watch.
#[derive(Debug)]
pub(super) struct Watch {
    body: Body,
    lines: Lines,
}

impl Watch {
    /// The next event; `None`: the server has ended the watch, as it does after some minutes.
    /// Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// If the connection is cut, which may be in the middle of an event, or what comes is none.
    pub(super) async fn event(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(line) = self.lines.line()? {
                return Ok(Some(wire::event(&line)?));
            }
            let mut body = pin!(&mut self.body);
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        self.lines.push(piece);
                    }
                }
                Some(Err(error)) => return Err(from_kube(&error)),
                None => return Ok(None),
            }
        }
    }
}

async fn collected(response: Response<Body>, max: usize) -> Result<Vec<u8>, Failure> {
    match Limited::new(response.into_body(), max).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Failure::Malformed(format!("an answer is longer than {max} bytes")))
        }
        Err(error) => Err(Failure::Unreachable(causes(error.as_ref()))),
    }
}

/// What a refusal says. A proxy in front of the server may answer with something else than a
/// Status; what counts then is the HTTP status.
async fn refused(response: Response<Body>) -> Failure {
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| text.parse().ok());
    let body = collected(response, 1 << 20).await.unwrap_or_default();
    let mut refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(after) = after {
        refusal.details.get_or_insert_default().retry_after_seconds.get_or_insert(after);
    }
    if refusal.message.is_empty() && status == StatusCode::UNAUTHORIZED {
        refusal.message = "Unauthorized".to_owned();
    }
    Failure::from_refusal(status.as_u16(), refusal)
}

fn object(body: &[u8]) -> Result<Object, Failure> {
    let text = std::str::from_utf8(body).map_err(|error| Failure::Malformed(error.to_string()))?;
    Object::parse(text).map_err(|error| Failure::Malformed(error.to_string()))
}

fn silent(patience: Duration) -> Failure {
    Failure::Unreachable(format!("no answer within {patience:?}"))
}

fn from_kube(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Auth(error) => Failure::Credentials(causes(error)),
        other => Failure::Unreachable(causes(other)),
    }
}

/// A value within a URI: all but letters, digits and `-._~` as `%XX` (RFC 3986 section 2.3).
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_a_uri_are_encoded() {
        assert_eq!(encoded("node-1.example_org~"), "node-1.example_org~");
        assert_eq!(encoded("a b&c=ä/"), "a%20b%26c%3D%C3%A4%2F");
    }
}
