//! Namespaces, peers, traffic and captures for Tapestry's tests, benches and demo.
