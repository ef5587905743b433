//! One mapping by one of the three protocols.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp, pcp,
};
use igd_next::aio::Gateway as IgdGateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};

use super::{Gateway, Kind};

/// The lease asked for, in seconds: short enough that the mapping of a machine that died does not
/// linger, long enough to be renewed twice an hour only.
const LEASE: u32 = 3_600;

/// The longest any exchange with a router may take. A router on the LAN answers in milliseconds;
/// slow ones parse XML for a second.
pub const EXCHANGE_LIMIT: Duration = Duration::from_secs(3);

/// How long a UPnP search waits for answers, and for the description of the device. Measured
/// against miniupnpd: 0.2 to 0.3 s.
const SEARCH_LIMIT: Duration = Duration::from_millis(1_500);

/// When PCP and NAT-PMP requests are repeated: after 250 and 750 ms; given up at 1.75 s.
const REPEATS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

/// When a removal is repeated: once, within what a shutdown allows.
const REMOVAL_REPEATS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(400),
    max_retries: 1,
    max_retry_timeout: None,
};

/// What routers show in their list of mappings.
const DESCRIPTION: &str = "ginnel";

/// A mapping in force.
pub struct Mapping {
    external: SocketAddr,
    lease: Duration,
    by: By,
}

/// Who keeps it, with all that a renewal needs.
enum By {
    Pmp(PortMapping),
    Upnp { device: IgdGateway<Tokio>, local: SocketAddrV4 },
}

impl Mapping {
    /// The protocol.
    pub fn kind(&self) -> Kind {
        match &self.by {
            By::Upnp { .. } => Kind::Upnp,
            By::Pmp(mapping) => match mapping.mapping_type() {
                PortMappingType::NatPmp => Kind::NatPmp,
                PortMappingType::Pcp { .. } => Kind::Pcp,
            },
        }
    }

    /// The address outside.
    pub fn external(&self) -> SocketAddr {
        self.external
    }

    /// For how long it was granted.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Renews it; `false` when the router did not, and nothing is known of the mapping any more.
    pub async fn renew(&mut self) -> bool {
        let renewed = match &mut self.by {
            By::Pmp(mapping) => match limited(mapping.renew()).await {
                Some(Ok(())) => confirm(mapping.clone()).await,
                Some(Err(error)) => {
                    tracing::debug!(%error, "renewal refused");
                    None
                }
                None => None,
            },
            By::Upnp { device, local } => {
                map_upnp_port(device.clone(), *local, self.external.port()).await
            }
        };
        match renewed {
            Some(renewed) => {
                *self = renewed;
                true
            }
            None => false,
        }
    }

    /// Removes it, as far as the router answers.
    pub async fn remove(self) {
        let removed = match self.by {
            By::Pmp(mut mapping) => {
                mapping.timeout_config = REMOVAL_REPEATS;
                limited(mapping.try_drop())
                    .await
                    .map(|result| result.map_err(|(e, _)| e.to_string()))
            }
            By::Upnp { device, .. } => {
                let port = self.external.port();
                limited(device.remove_port(PortMappingProtocol::UDP, port))
                    .await
                    .map(|result| result.map_err(|e| e.to_string()))
            }
        };
        match removed {
            Some(Ok(())) => tracing::debug!(external = %self.external, "port mapping removed"),
            Some(Err(error)) => tracing::debug!(%error, "port mapping not removed"),
            None => tracing::debug!("port mapping not removed: no answer"),
        }
    }
}

/// Maps `port` at `gateway` by whichever protocol answers first; `None` where none does.
pub async fn map(gateway: Gateway, port: NonZeroU16, nonce: [u32; 3]) -> Option<Mapping> {
    let by_pmp = map_by_pmp(gateway, port, nonce);
    let search = find_device(gateway);
    tokio::pin!(by_pmp, search);
    tokio::select! {
        biased;
        mapping = &mut by_pmp => match mapping {
            Some(mapping) => Some(mapping),
            None => map_by_upnp(search.await?, gateway, port).await,
        },
        // PCP is not ahead of a whole UPnP search: it will hardly come.
        device = &mut search => match device {
            Some(device) => match map_by_upnp(device, gateway, port).await {
                Some(mapping) => Some(mapping),
                None => by_pmp.await,
            },
            None => by_pmp.await,
        },
    }
}

/// PCP, then NAT-PMP, both suggesting the same port outside.
async fn map_by_pmp(gateway: Gateway, port: NonZeroU16, nonce: [u32; 3]) -> Option<Mapping> {
    let router = GatewayAddress::IpV4(gateway.router);
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LEASE),
        timeout_config: Some(REPEATS),
    };
    let request =
        pcp::BaseMapRequest::new(router, gateway.local.into(), InternetProtocol::Udp, port);
    match limited(pcp::port_mapping(request, Some(nonce), None, options)).await? {
        Ok(mapping) => {
            if let Some(mapping) = confirm(mapping).await {
                return Some(mapping);
            }
        }
        // Nobody listens there, or nobody answers: the same port would be asked once more.
        Err(pcp::Failure::Timeout | pcp::Failure::Socket(_)) => return None,
        Err(error) => tracing::debug!(%error, "no mapping by PCP"),
    }
    match limited(natpmp::port_mapping(router, InternetProtocol::Udp, port, options)).await? {
        Ok(mapping) => confirm(mapping).await,
        Err(error) => {
            tracing::debug!(%error, "no mapping by NAT-PMP");
            None
        }
    }
}

/// Completes a granted mapping with its external address; `None`, and nothing left behind, where
/// there is none.
async fn confirm(mapping: PortMapping) -> Option<Mapping> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Some(external_ip),
        PortMappingType::NatPmp => {
            limited(natpmp::external_address(mapping.gateway(), Some(REPEATS)))
                .await
                .and_then(Result::ok)
                .map(IpAddr::V4)
        }
    };
    let external = ip.and_then(|ip| usable(ip, mapping.external_port().get()));
    let lease = Duration::from_secs(mapping.lifetime().into());
    let made = Mapping {
        external: external.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        lease,
        by: By::Pmp(mapping),
    };
    if external.is_some() && !lease.is_zero() {
        return Some(made);
    }
    made.remove().await;
    None
}

/// Finds the gateway's UPnP device.
async fn find_device(gateway: Gateway) -> Option<IgdGateway<Tokio>> {
    let mut options = SearchOptions::default();
    options.bind_addr = (gateway.local, 0).into();
    options.timeout = Some(SEARCH_LIMIT);
    options.single_search_timeout = Some(SEARCH_LIMIT);
    options.gateway_ip_version = igd_next::GatewayIpVersion::V4;
    let device = match search_gateway(options).await {
        Ok(device) => device,
        Err(error) => {
            tracing::debug!(%error, "no UPnP device");
            return None;
        }
    };
    // Another host of the LAN may answer faster and would learn, and choose, our public address.
    if device.addr.ip() != IpAddr::V4(gateway.router) {
        tracing::warn!(from = %device.addr, "a UPnP answer that is not the gateway's was ignored");
        return None;
    }
    Some(device)
}

/// The same port outside if it is free, any other if not.
async fn map_by_upnp(
    device: IgdGateway<Tokio>,
    gateway: Gateway,
    port: NonZeroU16,
) -> Option<Mapping> {
    let local = SocketAddrV4::new(gateway.local, port.get());
    map_upnp_port(device, local, port.get()).await
}

async fn map_upnp_port(
    device: IgdGateway<Tokio>,
    local: SocketAddrV4,
    outside: u16,
) -> Option<Mapping> {
    const UDP: PortMappingProtocol = PortMappingProtocol::UDP;
    let ip = limited(device.get_external_ip()).await?.ok()?;
    usable(ip, outside)?;
    let inside = SocketAddr::V4(local);
    let added = limited(device.add_port(UDP, outside, inside, LEASE, DESCRIPTION)).await?;
    let port = match added {
        Ok(()) => outside,
        Err(AddPortError::PortInUse) => {
            limited(device.add_any_port(UDP, inside, LEASE, DESCRIPTION)).await?.ok()?
        }
        Err(error) => {
            tracing::debug!(%error, "no mapping by UPnP");
            return None;
        }
    };
    Some(Mapping {
        external: usable(ip, port)?,
        lease: Duration::from_secs(LEASE.into()),
        by: By::Upnp { device, local },
    })
}

/// The address outside, if it can be one: a router that is offline says 0.0.0.0.
fn usable(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    let nowhere = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!nowhere && port != 0).then(|| SocketAddr::new(ip, port))
}

async fn limited<T>(exchange: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(EXCHANGE_LIMIT, exchange).await.ok()
}
