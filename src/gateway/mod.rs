//! The node's gateway: how the kernel of the node and the pods reach each other, the outside and
//! the Services.
//!
//! [`ways`] says which of the other nodes are reached through the tunnel and which by plain routes;
//! [`port`] what the gateway port's device is; [`ruleset`] the rules of address translation as the
//! text of one nftables table, with what a [`census`] of the other nodes counts; [`rules`] gives it
//! to `nft`; [`keeper`] sees that it stays;
//! [`preflight`] and [`firewall`] say what on this node stands in the way. `docs/gateway.md` is the
//! written table of who is translated and who is not.

pub mod census;
pub mod firewall;
pub mod keeper;
mod listing;
pub mod mapping;
pub mod port;
pub mod preflight;
pub mod rules;
pub mod ruleset;
pub mod stir;
pub mod ways;
