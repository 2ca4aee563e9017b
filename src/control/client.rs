//! The asking end of the control socket: one request, one answer, and the caller waits.

use core::time::Duration;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::Failure;

/// The largest answer in bytes: an FDB of a million entries has about 150 MB.
const MAX_ANSWER: usize = 1 << 30;
/// Longer than the daemon gives itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no daemon answers on {}: {reason}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The daemon said no.
    #[error("{}", .failure.error)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason.
        failure: Failure,
    },
}

impl Client {
    /// The daemon that listens on `socket`; nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Reads.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new())
    }

    /// Makes or does.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.unreachable(error))?;
        self.request(Method::POST, path, body.into())
    }

    /// Removes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, Bytes::new())
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.unreachable(error))?;
        let (status, answer) = runtime.block_on(async {
            let exchange = tokio::time::timeout(PATIENCE, self.exchange(method, path, body));
            exchange.await.unwrap_or_else(|_| Err(self.unreachable("it does not answer")))
        })?;
        if status.is_success() {
            let strange = |error| self.unreachable(format!("a strange answer: {error}"));
            return serde_json::from_slice(&answer).map_err(strange);
        }
        let failure = serde_json::from_slice(&answer)
            .unwrap_or_else(|_| Failure { error: format!("the daemon says {status}"), path: None });
        Err(ClientError::Refused { status: status.as_u16(), failure })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tapestry")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.unreachable(error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.unreachable(error))?;
        Ok((status, body.to_bytes()))
    }

    fn unreachable(&self, reason: impl ToString) -> ClientError {
        ClientError::Unreachable { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// `path?key=value&…` of the values that are there; just `path` without any.
#[must_use]
pub fn with_query(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (key, value) in pairs {
        if let Some(value) = value {
            out.push(separator);
            out.push_str(key);
            out.push('=');
            out.push_str(&escape(value));
            separator = '&';
        }
    }
    out
}

/// The text as one segment of a path or one value of a query (RFC 3986 section 2.3).
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
