//! `io` against the real kernel, in network namespaces of its own.
//!
//! Needs root; without it each test says so and passes. Nothing outside the namespaces is touched.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test with a real clock")]

mod namespace;
mod netlink;
mod offload;
mod portmap;
mod store;
mod tun;
mod udp;
