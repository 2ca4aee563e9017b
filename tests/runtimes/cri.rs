//! The interface by which a kubelet speaks to a runtime (Kubernetes' `runtime/v1/api.proto`), as far as
//! it takes to have sandboxes: written down here, so that nobody needs a protobuf compiler.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// How long a call may take: a busy machine unpacks an image.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// A port of the node that leads to the sandbox; TCP.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMapping {
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
    #[prost(string, tag = "4")]
    pub(crate) host_ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

/// Without it a sandbox gets what the machine has, and that may be a link to nowhere here.
#[derive(Clone, PartialEq, Message)]
struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, optional, tag = "4")]
    dns_config: Option<DnsConfig>,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// Names a sandbox; as a request and as an answer.
#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageAnswer {
    #[prost(message, optional, tag = "1")]
    image: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<Ip>,
}

#[derive(Clone, PartialEq, Message)]
struct Ip {
    #[prost(string, tag = "1")]
    ip: String,
}

/// A connection to a runtime.
pub(crate) struct Cri {
    runtime: Runtime,
    grpc: Grpc<Channel>,
    cgroup: String,
}

impl Cri {
    /// Connects to the socket of a runtime, whose sandboxes shall be below a cgroup.
    pub(crate) fn connect(socket: &Path, cgroup: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime.block_on(endpoint.timeout(PATIENCE).connect())?;
        Ok(Self { runtime, grpc: Grpc::new(channel), cgroup: cgroup.to_owned() })
    }

    fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call_of("RuntimeService", method, request)
    }

    fn call_of<Q, A>(&mut self, service: &str, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.{service}/{method}"))?;
        let answer = self.runtime.block_on(async {
            self.grpc.ready().await?;
            let request = tonic::Request::new(request);
            let answer = self.grpc.unary(request, path, ProstCodec::<Q, A>::default()).await;
            answer.map_err(|status| anyhow::anyhow!("{}", status.message()))
        });
        answer.map(tonic::Response::into_inner).with_context(|| method)
    }

    /// Whether the runtime is up and has an image: one that was imported beside it is known a moment
    /// later.
    pub(crate) fn has_image(&mut self, name: &str) -> Result<bool> {
        let image = Some(ImageSpec { image: name.to_owned() });
        let answer: ImageAnswer =
            self.call_of("ImageService", "ImageStatus", ImageRequest { image })?;
        Ok(answer.image.is_some())
    }

    /// Starts a sandbox: its network, and then what its image runs. Returns its id.
    pub(crate) fn run(&mut self, name: &str, ports: &[PortMapping]) -> Result<String> {
        let metadata = Metadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "tests".to_owned(),
        };
        let config = SandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            dns_config: Some(DnsConfig { servers: vec!["192.0.2.53".to_owned()] }),
            port_mappings: ports.to_vec(),
            linux: Some(Linux { cgroup_parent: self.cgroup.clone() }),
        };
        let answer: SandboxId = self.call("RunPodSandbox", RunSandbox { config: Some(config) })?;
        Ok(answer.id)
    }

    /// The addresses that a kubelet would tell of a sandbox, IPv4 first.
    pub(crate) fn addresses(&mut self, id: &str) -> Result<Vec<IpAddr>> {
        let answer: StatusAnswer =
            self.call("PodSandboxStatus", SandboxId { id: id.to_owned() })?;
        let network = answer.status.and_then(|status| status.network).context("no network")?;
        let texts =
            std::iter::once(network.ip).chain(network.additional.into_iter().map(|ip| ip.ip));
        let mut all = texts.map(|text| Ok(text.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
        all.sort();
        Ok(all)
    }

    /// Stops a sandbox and takes its network down, as often as it is asked.
    pub(crate) fn stop(&mut self, id: &str) -> Result<()> {
        self.call::<_, Nothing>("StopPodSandbox", SandboxId { id: id.to_owned() }).map(drop)
    }

    /// Removes a sandbox.
    pub(crate) fn remove(&mut self, id: &str) -> Result<()> {
        self.call::<_, Nothing>("RemovePodSandbox", SandboxId { id: id.to_owned() }).map(drop)
    }
}
