//! The daemon's log: stderr, as the journal or a terminal wants it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged: the first of these that is set.
const VARIABLES: [&str; 2] = ["TAPESTRY_LOG", "RUST_LOG"];

/// What is logged without one. The Kubernetes client has an error for each try while the API server
/// is away; that it is away is told once, by who asked.
const USUAL: &str = "info,kube_client::client::builder=off";

/// Starts logging to stderr. Colours go only to a terminal; under systemd, which stamps each line
/// itself, there is no time. A second start changes nothing.
pub(super) fn start() {
    let wanted = VARIABLES.iter().find_map(|name| std::env::var(name).ok());
    let (filter, wrong) = match EnvFilter::try_new(wanted.as_deref().unwrap_or(USUAL)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(USUAL), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, "the log filter is wrong; \"info\" it is");
    }
}
