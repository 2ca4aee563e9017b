//! How a worker fares, beside the frames that its engine counts.

use switch::Counter;

/// One worker's figures. The worker is their only writer.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Stats {
    /// Times that it woke and looked for work: its progress.
    pub(in crate::daemon) turns: Counter,
    /// Units that it took in.
    pub(in crate::daemon) units: Counter,
    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub(in crate::daemon) socket_drops: Counter,
    /// Errors that the underlay reported about peers.
    pub(in crate::daemon) peer_errors: Counter,
    /// Reads of ports that failed and were tried again.
    pub(in crate::daemon) port_read_errors: Counter,
    /// News that nobody took.
    pub(in crate::daemon) news_lost: Counter,
}
