//! Namespaces, peers, traffic and captures for Tapestry's tests, benches and demo.
//!
//! Everything happens within a [`cell`]: namespaces of the process's own (network, mount, PID and,
//! for an ordinary user, user), so that nothing of it can reach the machine it runs on and nothing
//! outlives it, however it ends. Inside, a [`World`](world::World) is a set of network namespaces
//! and the links between them, a [`Daemon`](daemon::Daemon) is a running `tapestry`, [`peer`] has
//! those it must get on with, [`traffic`] what pods say to each other, and [`suite`] runs the tests.

#![forbid(unsafe_code)]

pub mod capture;
pub mod cell;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod etcd;
pub mod kubernetes;
pub mod overlay;
pub mod peer;
pub mod suite;
pub mod tool;
pub mod traffic;
pub mod world;
