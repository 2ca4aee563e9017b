//! One connection to one member of an etcd cluster. Every call has its time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire;
use crate::cluster::causes::causes;
use crate::cluster::store::Gone;
use crate::config;

const CONNECT: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(5);
/// A member that is stopped or cut off, and so resets nothing, is noticed after the sum of both.
const PING: Duration = Duration::from_secs(3);
const PONG: Duration = Duration::from_secs(3);
/// A page of the largest values that etcd takes by default is larger than tonic's limit.
const MAX_MESSAGE: usize = 64 << 20;
/// As etcd's own clients say that a member without a leader shall not keep them waiting.
const REQUIRE_LEADER: &str = "hasleader";

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Another member, or a later try, may do better.
    #[error("{0}")]
    Trouble(String),
    /// etcd works, and does not let this node do it.
    #[error("etcd refuses it: {0}")]
    Denied(String),
    /// What was asked for is forgotten: everything has to be asked for anew.
    #[error("etcd has compacted what this node has not seen yet")]
    Compacted,
    /// Nobody listens any more.
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message();
        let message = if message.is_empty() { status.code().description() } else { message };
        match status.code() {
            Code::PermissionDenied | Code::ResourceExhausted => Self::Denied(message.to_owned()),
            // Also a revision that is yet to come is out of range, and an answer that is too long.
            Code::OutOfRange if message.contains("has been compacted") => Self::Compacted,
            _ => Self::Trouble(message.to_owned()),
        }
    }
}

/// A stream of answers, and the sender whose end would end it.
pub(super) struct Stream<Q, A> {
    pub(super) ask: mpsc::Sender<Q>,
    pub(super) answers: Streaming<A>,
}

#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects to one endpoint, and logs in if there is a user. Files are read anew each time:
    /// certificates are renewed.
    pub(super) async fn connect(config: &config::Etcd, url: &str) -> Result<Self, Failure> {
        let endpoint = endpoint(config, url)?;
        let channel = timeout(CONNECT, endpoint.connect())
            .await
            .map_err(|_| Failure::Trouble(format!("no connection within {CONNECT:?}")))?
            .map_err(|error| Failure::Trouble(causes(&error)))?;
        let mut client = Self { channel, token: None };
        if let Some((name, file)) = &config.user {
            let password = String::from_utf8(read(file)?)
                .map_err(|_| Failure::Trouble(format!("{}: not UTF-8", file.display())))?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            let request = wire::AuthenticateRequest { name: name.clone(), password };
            let answer: Result<wire::AuthenticateResponse, _> =
                client.call(AUTHENTICATE, request).await;
            let token = match answer {
                Ok(answer) => Some(answer.token),
                // As etcd's own clients do: a user may be given before etcd asks for one.
                Err(Failure::Trouble(text)) if text.ends_with("authentication is not enabled") => {
                    None
                }
                Err(failure) => return Err(failure),
            };
            let odd = |_| Failure::Trouble("etcd gave a token that is none".to_owned());
            client.token = token.map(|token| token.parse().map_err(odd)).transpose()?;
        }
        Ok(client)
    }

    pub(super) async fn range(
        &self,
        request: wire::RangeRequest,
    ) -> Result<wire::RangeResponse, Failure> {
        self.call(RANGE, request).await
    }

    pub(super) async fn txn(
        &self,
        request: wire::TxnRequest,
    ) -> Result<wire::TxnResponse, Failure> {
        self.call(TXN, request).await
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<i64, Failure> {
        let request = wire::LeaseGrantRequest { ttl };
        let answer: wire::LeaseGrantResponse = self.call(GRANT, request).await?;
        Ok(answer.id)
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        let _: wire::LeaseRevokeResponse =
            self.call(REVOKE, wire::LeaseRevokeRequest { id }).await?;
        Ok(())
    }

    pub(super) async fn watch(
        &self,
        request: wire::WatchCreateRequest,
    ) -> Result<Stream<wire::WatchRequest, wire::WatchResponse>, Failure> {
        self.stream(WATCH, wire::WatchRequest { create_request: Some(request) }).await
    }

    pub(super) async fn keep_alive(
        &self,
        id: i64,
    ) -> Result<Stream<wire::LeaseKeepAliveRequest, wire::LeaseKeepAliveResponse>, Failure> {
        self.stream(KEEP_ALIVE, wire::LeaseKeepAliveRequest { id }).await
    }

    async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let call = async {
            grpc.ready().await.map_err(|error| Failure::Trouble(causes(&error)))?;
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(self.request(message), path, ProstCodec::<Q, A>::default());
            Ok(answer.await?.into_inner())
        };
        timeout(CALL, call).await.map_err(|_| late())?
    }

    async fn stream<Q, A>(&self, path: &'static str, first: Q) -> Result<Stream<Q, A>, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (ask, asked) = mpsc::channel(4);
        // There is room: the channel is new.
        let _ = ask.try_send(first);
        let mut request = self.request(ReceiverStream::new(asked));
        request.metadata_mut().insert(REQUIRE_LEADER, MetadataValue::from_static("true"));
        let mut grpc = self.grpc();
        let call = async {
            grpc.ready().await.map_err(|error| Failure::Trouble(causes(&error)))?;
            let path = PathAndQuery::from_static(path);
            let answer = grpc.streaming(request, path, ProstCodec::<Q, A>::default());
            Ok::<_, Failure>(answer.await?.into_inner())
        };
        let answers = timeout(CALL, call).await.map_err(|_| late())??;
        Ok(Stream { ask, answers })
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

fn late() -> Failure {
    Failure::Trouble(format!("no answer within {CALL:?}"))
}

fn endpoint(config: &config::Etcd, url: &str) -> Result<Endpoint, Failure> {
    let bad = |error: tonic::transport::Error| Failure::Trouble(causes(&error));
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(bad)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true);
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    let mut tls = ClientTlsConfig::new();
    tls = match &config.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &config.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    endpoint.tls_config(tls).map_err(bad)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::Trouble(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_forgotten_is_compacted() {
        let failure = |text: &str| Failure::from(Status::out_of_range(text));
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(failure(compacted), Failure::Compacted);
        for other in [
            "etcdserver: mvcc: required revision is a future revision",
            "Error, decoded message length too large: found 70000000 bytes, the limit is: 67108864 bytes",
        ] {
            assert_eq!(failure(other), Failure::Trouble(other.to_owned()));
        }
    }
}
