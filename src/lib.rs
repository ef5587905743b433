//! ginnel (SKELETON; the lead owns this file)
pub mod api;
pub mod config;
pub mod identity;
pub mod membership;
pub mod wire;
pub mod forward;
pub mod mesh;
pub mod io;
pub mod agent;
pub mod cli;
