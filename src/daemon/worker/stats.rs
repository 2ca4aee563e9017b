//! How a worker fares, beside the frames that its engine counts.

use switch::Counter;

/// One worker's figures. The worker is their only writer.
#[derive(Debug, Default)]
pub struct Stats {
    /// Times that it woke and looked for work: its progress.
    pub turns: Counter,
    /// Units that it took in.
    pub units: Counter,
    /// Errors that the underlay reported about peers.
    pub peer_errors: Counter,
    /// Reads of ports that failed and were tried again.
    pub port_read_errors: Counter,
    /// News that nobody took.
    pub news_lost: Counter,
}
