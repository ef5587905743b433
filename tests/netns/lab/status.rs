//! Reading `status --json` by its stable names.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ginnel::identity::WgPublicKey;
use serde_json::Value;

/// One answer of `status --json`.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

impl Status {
    /// The first network; `null` when there is none.
    pub fn network(&self) -> &Value {
        &self.0["networks"][0]
    }

    /// Names of all networks.
    pub fn networks(&self) -> Vec<&str> {
        let list = self.0["networks"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|network| network["name"].as_str()).collect()
    }

    /// `up`, `down`, `joining`, `revoked`, `expired`; empty when there is no network.
    pub fn state(&self) -> &str {
        self.network()["state"].as_str().unwrap_or_default()
    }

    /// The tunnel's UDP port.
    pub fn listen_port(&self) -> Result<u16> {
        let port =
            self.network()["listen_port"].as_u64().context("the status has no listen_port")?;
        Ok(u16::try_from(port)?)
    }

    /// This device's overlay IPv4 address.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.address("ipv4")
    }

    /// This device's overlay IPv6 address.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.address("ipv6")
    }

    /// This device's WireGuard key.
    pub fn public_key(&self) -> Result<WgPublicKey> {
        let text = self.network()["self"]["public_key"].as_str().context("no public key")?;
        text.parse().with_context(|| format!("{text:?} is no key"))
    }

    /// `upnp`, `pcp`, `nat-pmp`, `none`.
    pub fn port_mapping(&self) -> &str {
        self.network()["nat"]["port_mapping"].as_str().unwrap_or_default()
    }

    /// The peer of this name.
    pub fn peer(&self, name: &str) -> Option<&Value> {
        let peers = self.network()["peers"].as_array()?;
        peers.iter().find(|peer| peer["name"].as_str() == Some(name))
    }

    /// Whether the peer is there and connected.
    pub fn is_connected(&self, name: &str) -> bool {
        self.peer(name).is_some_and(|peer| peer["state"].as_str() == Some("connected"))
    }

    /// `direct`, `lan`, `relay`, `tcp`; `None` without a path.
    pub fn path_kind(&self, name: &str) -> Option<&str> {
        self.peer(name)?["path"]["kind"].as_str()
    }

    /// Where the path leads.
    pub fn path_endpoint(&self, name: &str) -> Option<&str> {
        self.peer(name)?["path"]["endpoint"].as_str()
    }

    fn address(&self, key: &str) -> Result<IpAddr> {
        let text = self.network()["self"][key].as_str();
        let text = text.with_context(|| format!("the status has no self.{key}: {:#}", self.0))?;
        text.parse().with_context(|| format!("self.{key} is {text:?}"))
    }
}
