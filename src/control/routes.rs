//! The routes of the control socket, and the document that describes them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use core::time::Duration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi};

use super::cluster::{GcReport, GcScope, IpRow, NodeRow, PodRow};
use super::model::{
    Done, DropRow, Failure, FdbRow, FdbScope, FdbStatic, Flushed, ObjectOrigin, PeerRow, PortRow,
    ReloadReport, SegmentRow, Status,
};
use super::{Answer, Command, Handle, Refusal, RefusalKind, Reply};
use crate::config::PortSpec;

/// The largest request body in bytes. A port with a full trunk stays far below.
const MAX_BODY: usize = 1 << 20;
/// How long the daemon may take for one command. Making a port in a namespace takes some
/// milliseconds; a reload makes many.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tapestry control socket",
        description = "HTTP/1.1 and JSON over the Unix socket of a Tapestry daemon. \
            Fields are added, never renamed or removed.",
    ),
    paths(
        status,
        port_list,
        port_add,
        port_del,
        segment_list,
        peer_list,
        fdb_list,
        fdb_add,
        fdb_del,
        fdb_flush,
        drops,
        node_list,
        node_release,
        node_confirm,
        pod_list,
        ip_list,
        ip_release,
        gc,
        reload,
        openapi_json,
    )
)]
struct Api;

/// The OpenAPI document of the control socket.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

/// The routes, asking the daemon behind `handle`.
pub(super) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/ports", get(port_list).post(port_add))
        .route("/v1/ports/{name}", delete(port_del))
        .route("/v1/segments", get(segment_list))
        .route("/v1/peers", get(peer_list))
        .route("/v1/fdb", get(fdb_list).post(fdb_add).delete(fdb_del))
        .route("/v1/fdb/flush", post(fdb_flush))
        .route("/v1/drops", get(drops))
        .route("/v1/nodes", get(node_list))
        .route("/v1/nodes/release", post(node_release))
        .route("/v1/nodes/confirm", post(node_confirm))
        .route("/v1/pods", get(pod_list))
        .route("/v1/ips", get(ip_list))
        .route("/v1/ips/{address}", delete(ip_release))
        .route("/v1/gc", post(gc))
        .route("/v1/reload", post(reload))
        .route("/v1/openapi.json", get(openapi_json))
        .fallback(async || failure(StatusCode::NOT_FOUND, "no such path", None))
        .method_not_allowed_fallback(async || {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method", None)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(handle)
}

type Shared = State<Handle>;
type Params<T> = Result<Query<T>, QueryRejection>;
type Body = Result<Bytes, BytesRejection>;

/// Who makes the object.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Maker {
    /// `api` (the default) or `cni`.
    #[serde(default)]
    origin: ObjectOrigin,
}

/// Which reasons.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Reasons {
    /// Those that are zero too.
    #[serde(default)]
    all: bool,
}

/// Which entry.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Entry {
    /// The segment's name.
    segment: String,
    /// The station.
    mac: String,
}

/// What the daemon is and does.
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, body = Status), (status = "default", body = Failure)))]
async fn status(State(handle): Shared) -> Response {
    ask(&handle, Command::Status).await
}

/// Every port.
#[utoipa::path(get, path = "/v1/ports", responses(
    (status = 200, body = [PortRow]), (status = "default", body = Failure)))]
async fn port_list(State(handle): Shared) -> Response {
    ask(&handle, Command::PortList).await
}

/// Makes a port, which lasts until it is removed.
#[utoipa::path(post, path = "/v1/ports", params(Maker), request_body = PortSpec, responses(
    (status = 201, body = PortRow), (status = 409, body = Failure),
    (status = 422, body = Failure), (status = "default", body = Failure)))]
async fn port_add(State(handle): Shared, maker: Params<Maker>, body: Body) -> Response {
    let asked = async {
        let maker = query(maker)?;
        let spec: PortSpec = json(body)?;
        if maker.origin == ObjectOrigin::Config {
            return Err(Refusal::invalid("only the configuration makes such ports").at("origin"));
        }
        patient(&handle, |reply| Command::PortAdd(Box::new(spec), maker.origin, reply)).await
    };
    match asked.await {
        Ok(row) => (StatusCode::CREATED, axum::Json(row)).into_response(),
        Err(refusal) => refused(refusal),
    }
}

/// Removes a port and its device.
#[utoipa::path(delete, path = "/v1/ports/{name}",
    params(("name" = String, Path, description = "The port's name.")), responses(
    (status = 200, body = Done), (status = 404, body = Failure),
    (status = 409, body = Failure), (status = "default", body = Failure)))]
async fn port_del(State(handle): Shared, Path(name): Path<String>) -> Response {
    let done = Done { done: format!("port \"{name}\" is removed") };
    let asked = patient(&handle, |reply| Command::PortDel(name, reply)).await;
    answer(asked.map(|()| done))
}

/// Every segment.
#[utoipa::path(get, path = "/v1/segments", responses(
    (status = 200, body = [SegmentRow]), (status = "default", body = Failure)))]
async fn segment_list(State(handle): Shared) -> Response {
    ask(&handle, Command::SegmentList).await
}

/// Every remote VTEP.
#[utoipa::path(get, path = "/v1/peers", responses(
    (status = 200, body = [PeerRow]), (status = "default", body = Failure)))]
async fn peer_list(State(handle): Shared) -> Response {
    ask(&handle, Command::PeerList).await
}

/// The entries of the FDB that meet every condition given.
#[utoipa::path(get, path = "/v1/fdb", params(FdbScope), responses(
    (status = 200, body = [FdbRow]), (status = 404, body = Failure),
    (status = "default", body = Failure)))]
async fn fdb_list(State(handle): Shared, scope: Params<FdbScope>) -> Response {
    match query(scope) {
        Ok(scope) => ask(&handle, |reply| Command::FdbList(scope, reply)).await,
        Err(refusal) => refused(refusal),
    }
}

/// Sets a static entry, in place of any other.
#[utoipa::path(post, path = "/v1/fdb", request_body = FdbStatic, responses(
    (status = 201, body = FdbRow), (status = 404, body = Failure),
    (status = 422, body = Failure), (status = "default", body = Failure)))]
async fn fdb_add(State(handle): Shared, body: Body) -> Response {
    let asked = async {
        let entry: FdbStatic = json(body)?;
        if entry.port.is_some() == entry.vtep.is_some() {
            return Err(Refusal::invalid("needs either \"port\" or \"vtep\""));
        }
        patient(&handle, |reply| Command::FdbAdd(entry, reply)).await
    };
    match asked.await {
        Ok(row) => (StatusCode::CREATED, axum::Json(row)).into_response(),
        Err(refusal) => refused(refusal),
    }
}

/// Removes an entry, however it came to be.
#[utoipa::path(delete, path = "/v1/fdb", params(Entry), responses(
    (status = 200, body = Done), (status = 404, body = Failure),
    (status = "default", body = Failure)))]
async fn fdb_del(State(handle): Shared, entry: Params<Entry>) -> Response {
    let asked = async {
        let Entry { segment, mac } = query(entry)?;
        let done = Done { done: format!("{mac} in segment \"{segment}\" is removed") };
        patient(&handle, |reply| Command::FdbDel { segment, mac, reply }).await.map(|()| done)
    };
    answer(asked.await)
}

/// Forgets the learned entries that meet every condition given.
#[utoipa::path(post, path = "/v1/fdb/flush", request_body = FdbScope, responses(
    (status = 200, body = Flushed), (status = 404, body = Failure),
    (status = 422, body = Failure), (status = "default", body = Failure)))]
async fn fdb_flush(State(handle): Shared, body: Body) -> Response {
    let asked = async {
        // Without a body everything is flushed.
        let bare = body.as_ref().is_ok_and(Bytes::is_empty);
        let scope = if bare { FdbScope::default() } else { json(body)? };
        patient(&handle, |reply| Command::FdbFlush(scope, reply)).await
    };
    answer(asked.await)
}

/// How often something was dropped, by reason.
#[utoipa::path(get, path = "/v1/drops", params(Reasons), responses(
    (status = 200, body = [DropRow]), (status = "default", body = Failure)))]
async fn drops(State(handle): Shared, reasons: Params<Reasons>) -> Response {
    match query(reasons) {
        Ok(Reasons { all }) => ask(&handle, |reply| Command::Drops { all, reply }).await,
        Err(refusal) => refused(refusal),
    }
}

/// Which node.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NodeName {
    /// Its name; absent: this node.
    name: Option<String>,
}

/// Every node of the cluster.
#[utoipa::path(get, path = "/v1/nodes", responses(
    (status = 200, body = [NodeRow]), (status = "default", body = Failure)))]
async fn node_list(State(handle): Shared) -> Response {
    ask(&handle, Command::NodeList).await
}

/// Gives back a node's share of the pods' networks; refused while it has pods.
#[utoipa::path(post, path = "/v1/nodes/release", params(NodeName), responses(
    (status = 200, body = Done), (status = 404, body = Failure),
    (status = 409, body = Failure), (status = "default", body = Failure)))]
async fn node_release(State(handle): Shared, node: Params<NodeName>) -> Response {
    match query(node) {
        Ok(NodeName { name }) => ask(&handle, |reply| Command::NodeRelease(name, reply)).await,
        Err(refusal) => refused(refusal),
    }
}

/// Takes the nodes out that the store has lost and that were kept because they are many.
#[utoipa::path(post, path = "/v1/nodes/confirm", responses(
    (status = 200, body = Done), (status = 409, body = Failure),
    (status = "default", body = Failure)))]
async fn node_confirm(State(handle): Shared) -> Response {
    ask(&handle, Command::NodeConfirm).await
}

/// Every pod on this node.
#[utoipa::path(get, path = "/v1/pods", responses(
    (status = 200, body = [PodRow]), (status = "default", body = Failure)))]
async fn pod_list(State(handle): Shared) -> Response {
    ask(&handle, Command::PodList).await
}

/// Every address of this node's share that is not free.
#[utoipa::path(get, path = "/v1/ips", responses(
    (status = 200, body = [IpRow]), (status = "default", body = Failure)))]
async fn ip_list(State(handle): Shared) -> Response {
    ask(&handle, Command::IpList).await
}

/// Has an address rest no longer. One that a pod has is refused.
#[utoipa::path(delete, path = "/v1/ips/{address}",
    params(("address" = String, Path, description = "The address.")), responses(
    (status = 200, body = Done), (status = 404, body = Failure),
    (status = 409, body = Failure), (status = "default", body = Failure)))]
async fn ip_release(State(handle): Shared, Path(address): Path<String>) -> Response {
    ask(&handle, |reply| Command::IpRelease(address, reply)).await
}

/// Removes attachments whose namespace is gone.
#[utoipa::path(post, path = "/v1/gc", params(GcScope), responses(
    (status = 200, body = GcReport), (status = "default", body = Failure)))]
async fn gc(State(handle): Shared, scope: Params<GcScope>) -> Response {
    match query(scope) {
        Ok(scope) => ask(&handle, |reply| Command::Gc(scope, reply)).await,
        Err(refusal) => refused(refusal),
    }
}

/// Reads the configuration again; one with errors changes nothing.
#[utoipa::path(post, path = "/v1/reload", responses(
    (status = 200, body = ReloadReport), (status = 422, body = Failure),
    (status = "default", body = Failure)))]
async fn reload(State(handle): Shared) -> Response {
    ask(&handle, Command::Reload).await
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses(
    (status = 200, description = "The OpenAPI document of this socket.")))]
async fn openapi_json() -> Response {
    match openapi().to_json() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => refused(Refusal::failed(error)),
    }
}

async fn ask<T: Serialize>(handle: &Handle, make: impl FnOnce(Reply<T>) -> Command) -> Response {
    answer(patient(handle, make).await)
}

async fn patient<T>(handle: &Handle, make: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
    let asked = tokio::time::timeout(PATIENCE, handle.ask(make)).await;
    asked.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Err(Refusal::unavailable(format!("the daemon did not answer within {seconds} s")))
    })
}

fn answer<T: Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(value) => axum::Json(value).into_response(),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: Refusal) -> Response {
    let status = match refusal.kind {
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::Refused => StatusCode::CONFLICT,
        RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(status, &refusal.message, refusal.path)
}

fn failure(status: StatusCode, error: &str, path: Option<String>) -> Response {
    (status, axum::Json(Failure { error: error.to_owned(), path })).into_response()
}

fn query<T>(params: Params<T>) -> Answer<T> {
    params.map(|Query(params)| params).map_err(|error| Refusal::invalid(error.body_text()))
}

fn json<T: DeserializeOwned>(body: Body) -> Answer<T> {
    let body = body.map_err(|error| Refusal::invalid(error.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Refusal::invalid(format!("the body: {error}")))
}
