//! Port mappings: asks the routers of this host to send a UDP port's datagrams here.
//!
//! For each wanted port and each IPv4 default gateway behind which we have a private address, one
//! task keeps one mapping. It tries PCP (RFC 6887), then NAT-PMP (RFC 6886), and beside them UPnP
//! IGD. The first success counts and the others stop: most routers that speak several keep one
//! table for all, in which two mappings of one port would remove one another.
//!
//! * The lease is one hour, renewed at half; UPnP's "for ever" (0) is never asked for. A renewal
//!   that fails is tried once more from scratch before the mapping is told lost.
//! * [`PortMapper::shutdown`] removes all mappings, in at most [`SHUTDOWN_LIMIT`].
//! * **After a `kill -9`** the mapping stays until its lease ends. The next start asks for the same
//!   ports and gets the same mapping: UPnP and NAT-PMP take the request for a renewal; PCP does so
//!   only with the same nonce, which is why the nonce is derived from a secret the agent keeps.
//! * Everything a router says is bounded in time and size. UPnP is the risk (SSDP is answered by
//!   whoever hears it): the search leaves from the LAN address, and igd-next takes a `LOCATION`
//!   and a control URL only on the responder's own address, plain HTTP, no redirects, 1,500 bytes
//!   of SSDP and 1 MiB of XML at most, 64 levels deep, control characters encoded by the URL
//!   parser. Beyond that we accept only the default gateway itself as the responder, and limit each
//!   exchange to [`protocol::EXCHANGE_LIMIT`].
//! * The external address is told as the router told it. Behind a second NAT it may be a private
//!   one, and useless; the port may still be of use with the address that STUN saw.

mod protocol;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use protocol::Mapping;

/// How long [`PortMapper::shutdown`] waits for the routers; a stop of the service should not hang
/// on a router that is gone.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_millis(1_500);

/// How long an exchange that is under way when its keeper is stopped may still take; with a removal
/// that is repeated once it fits [`SHUTDOWN_LIMIT`].
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// The shortest and longest time to the next renewal, whatever lease a router grants: one of a
/// second would make us its slave, one of a year would outlive a reboot of the router.
const RENEW_MIN: Duration = Duration::from_secs(30);
const RENEW_MAX: Duration = Duration::from_secs(1_800);

/// The waits after failed attempts, doubling from the first to the last: someone may switch UPnP
/// on, but a router that never answers should cost a few packets an hour.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_LAST: Duration = Duration::from_secs(3_600);

/// How many events may wait for the agent; a port makes few in an hour, so more means that it hangs.
const EVENTS: usize = 64;

/// A router that is a default gateway, and our address on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// The kernel's index of the link.
    pub link: u32,
    /// Our address.
    pub local: Ipv4Addr,
    /// The router's address.
    pub router: Ipv4Addr,
}

/// The protocol that made a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Port Control Protocol.
    Pcp,
    /// NAT Port Mapping Protocol.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

/// News of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortMapEvent {
    /// A mapping is in force, new or at another external address than before.
    Mapped {
        /// Our UDP port.
        port: u16,
        /// The protocol that made it.
        kind: Kind,
        /// The address and port outside, as the router says.
        external: SocketAddr,
    },
    /// The mapping is in force no more.
    Lost {
        /// Our UDP port.
        port: u16,
        /// The protocol that had made it.
        kind: Kind,
    },
}

/// Keeps the mappings of all networks of an agent. Needs a tokio runtime.
#[derive(Debug)]
pub struct PortMapper {
    secret: [u8; 32],
    events: mpsc::Sender<PortMapEvent>,
    gateways: Vec<Gateway>,
    ports: Vec<NonZeroU16>,
    keepers: BTreeMap<(NonZeroU16, Gateway), KeeperHandle>,
    /// Keepers that were told to stop and may still be removing their mapping of that port at that
    /// router.
    stopping: Vec<((NonZeroU16, Ipv4Addr), JoinHandle<()>)>,
}

#[derive(Debug)]
struct KeeperHandle {
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// What a keeper shall do; the number tells one refresh from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Keep(u64),
    Stop,
}

impl PortMapper {
    /// Starts with no port and no gateway. `secret` never leaves this host; keep it between
    /// starts, so that mappings of a killed agent are recognised as ours.
    pub fn start(secret: [u8; 32]) -> (Self, mpsc::Receiver<PortMapEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let mapper = Self {
            secret,
            events,
            gateways: Vec::new(),
            ports: Vec::new(),
            keepers: BTreeMap::new(),
            stopping: Vec::new(),
        };
        (mapper, receiver)
    }

    /// Keeps a mapping of `port` from now on, or gives it back. Port 0 is nobody's.
    pub fn set(&mut self, port: u16, wanted: bool) {
        let Some(port) = NonZeroU16::new(port) else { return };
        self.ports.retain(|present| *present != port);
        if wanted {
            self.ports.push(port);
        }
        self.reconcile();
    }

    /// Takes the gateways as they are now ([`super::netlink::Snapshot::gateways`]). New ones are
    /// asked at once, mappings of those that left are told lost.
    pub fn network_changed(&mut self, gateways: Vec<Gateway>) {
        self.gateways = gateways;
        self.gateways.retain(|gateway| is_translated(gateway.local));
        self.reconcile();
    }

    /// Renews or retries everything at once: after sleep, or when a mapping seems not to work.
    pub fn refresh(&mut self) {
        for keeper in self.keepers.values() {
            keeper.orders.send_modify(|order| {
                if let Order::Keep(count) = order {
                    *count += 1;
                }
            });
        }
    }

    /// Removes all mappings, as far as the routers answer within [`SHUTDOWN_LIMIT`].
    pub async fn shutdown(mut self) {
        self.ports.clear();
        self.reconcile();
        let limit = Instant::now() + SHUTDOWN_LIMIT;
        for (_, mut task) in self.stopping.drain(..) {
            if tokio::time::timeout_at(limit, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    /// Starts and stops keepers so that there is one for each port and gateway.
    fn reconcile(&mut self) {
        let (ports, gateways) = (&self.ports, &self.gateways);
        let gone = self.keepers.extract_if(.., |(port, gateway), _| {
            !ports.contains(port) || !gateways.contains(gateway)
        });
        for ((port, gateway), keeper) in gone {
            keeper.orders.send_replace(Order::Stop);
            self.stopping.push(((port, gateway.router), keeper.task));
        }
        self.stopping.retain(|(_, task)| !task.is_finished());
        let (ports, gateways) = (self.ports.clone(), self.gateways.clone());
        for port in ports {
            for gateway in &gateways {
                if !self.keepers.contains_key(&(port, *gateway)) {
                    self.start_keeper(port, *gateway);
                }
            }
        }
    }

    fn start_keeper(&mut self, port: NonZeroU16, gateway: Gateway) {
        let (orders, receiver) = watch::channel(Order::Keep(0));
        let nonce = nonce(&self.secret, port, gateway);
        let key = (port, gateway.router);
        let keeper = Keeper {
            port,
            events: self.events.clone(),
            orders: receiver,
            slot: Slot { port, gateway, nonce, mapping: None },
            told: None,
        };
        let before: Vec<_> =
            self.stopping.extract_if(.., |(busy, _)| *busy == key).map(|(_, task)| task).collect();
        let task = tokio::spawn(async move {
            // Else a removal that is under way could hit the new mapping. Each is bounded by the
            // patience of its exchanges.
            for task in before {
                task.await.ok();
            }
            keeper.run().await;
        });
        self.keepers.insert((port, gateway), KeeperHandle { orders, task });
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        for keeper in self.keepers.values() {
            keeper.orders.send_replace(Order::Stop);
        }
    }
}

/// Keeps one port mapped at one gateway.
struct Keeper {
    port: NonZeroU16,
    events: mpsc::Sender<PortMapEvent>,
    orders: watch::Receiver<Order>,
    slot: Slot,
    /// What the agent was told to be in force.
    told: Option<(Kind, SocketAddr)>,
}

/// The mapping itself.
struct Slot {
    port: NonZeroU16,
    gateway: Gateway,
    nonce: [u32; 3],
    mapping: Option<Mapping>,
}

impl Keeper {
    async fn run(mut self) {
        let mut retry = RETRY_FIRST;
        while *self.orders.borrow_and_update() != Order::Stop {
            if !self.round().await {
                break;
            }
            self.tell(self.slot.now());
            let wait = match &self.slot.mapping {
                Some(mapping) => {
                    retry = RETRY_FIRST;
                    (mapping.lease() / 2).clamp(RENEW_MIN, RENEW_MAX)
                }
                None => {
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                    wait
                }
            };
            // An order, or an agent that is gone, ends the wait early.
            if let Ok(Err(_)) = tokio::time::timeout(wait, self.orders.changed()).await {
                break;
            }
        }
        self.tell(None);
        if let Some(mapping) = self.slot.mapping.take() {
            mapping.remove().await;
        }
    }

    /// One attempt; `false` when it was stopped.
    async fn round(&mut self) -> bool {
        {
            let attempt = self.slot.renew_or_map();
            tokio::pin!(attempt);
            tokio::select! {
                () = &mut attempt => return true,
                () = stopped(&mut self.orders) => {}
            }
            if self.told.is_none() {
                // What the router may just be granting shall be known, to be removed.
                tokio::time::timeout(STOP_PATIENCE, attempt).await.ok();
            }
        }
        false
    }

    /// Tells what is in force from now on, if that is news.
    fn tell(&mut self, now: Option<(Kind, SocketAddr)>) {
        let port = self.port.get();
        let before = std::mem::replace(&mut self.told, now);
        if let Some((kind, _)) = before.filter(|(kind, _)| now.is_none_or(|(new, _)| new != *kind))
        {
            tracing::info!(port, ?kind, "port mapping lost");
            self.send(PortMapEvent::Lost { port, kind });
        }
        if let Some((kind, external)) = now.filter(|_| now != before) {
            tracing::info!(port, ?kind, %external, "port mapped");
            self.send(PortMapEvent::Mapped { port, kind, external });
        }
    }

    fn send(&self, event: PortMapEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::warn!(?event, "the agent does not take the news of port mappings");
        }
    }
}

impl Slot {
    fn now(&self) -> Option<(Kind, SocketAddr)> {
        self.mapping.as_ref().map(|mapping| (mapping.kind(), mapping.external()))
    }

    /// Renews the mapping, or makes one. The old one stays in place until the new one is there or
    /// none can be had, so that a stop in between still removes it.
    async fn renew_or_map(&mut self) {
        let renewed = match &mut self.mapping {
            Some(mapping) => mapping.renew().await,
            None => false,
        };
        if !renewed {
            self.mapping = protocol::map(self.gateway, self.port, self.nonce).await;
        }
    }
}

/// Waits for the order to stop, or for an agent that is gone.
async fn stopped(orders: &mut watch::Receiver<Order>) {
    orders.wait_for(|order| *order == Order::Stop).await.ok();
}

/// Whether an address can only be reached through a translator: private (RFC 1918) or shared
/// (RFC 6598) space. Others need no mapping, and link-local ones have no router.
fn is_translated(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || (a == 100 && b & 0xc0 == 64)
}

/// The PCP nonce of a mapping: the same after a restart, unknown to others on the LAN, who could
/// remove the mapping with it.
fn nonce(secret: &[u8; 32], port: NonZeroU16, gateway: Gateway) -> [u32; 3] {
    let context =
        [&port.get().to_be_bytes()[..], &gateway.local.octets(), &gateway.router.octets()].concat();
    let key = crate::identity::kdf(secret, "pcp nonce", &context);
    std::array::from_fn(|word| {
        let bytes: [u8; 4] = std::array::from_fn(|byte| key[word * 4 + byte]);
        u32::from_be_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Gateway = Gateway {
        link: 2,
        local: Ipv4Addr::new(192, 168, 1, 7),
        router: Ipv4Addr::new(192, 168, 1, 1),
    };

    #[test]
    fn only_addresses_behind_a_translator_are_mapped() {
        for inside in ["10.1.2.3", "172.31.0.1", "192.168.9.9", "100.64.0.1", "100.127.255.255"] {
            assert!(is_translated(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "169.254.1.1", "203.0.113.1"] {
            assert!(!is_translated(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn the_nonce_lives_through_restarts_and_differs_by_port_and_gateway() {
        let port = NonZeroU16::new(41_641).unwrap();
        let other = Gateway { router: Ipv4Addr::new(192, 168, 1, 2), ..GATEWAY };
        assert_eq!(nonce(&[7; 32], port, GATEWAY), nonce(&[7; 32], port, GATEWAY));
        assert_ne!(nonce(&[7; 32], port, GATEWAY), nonce(&[8; 32], port, GATEWAY));
        assert_ne!(nonce(&[7; 32], port, GATEWAY), nonce(&[7; 32], port, other));
        let next = NonZeroU16::new(41_642).unwrap();
        assert_ne!(nonce(&[7; 32], port, GATEWAY), nonce(&[7; 32], next, GATEWAY));
    }

    #[tokio::test]
    async fn public_gateways_and_port_zero_start_nothing() {
        let (mut mapper, mut events) = PortMapper::start([0; 32]);
        mapper.set(0, true);
        mapper.network_changed(vec![Gateway { local: Ipv4Addr::new(8, 8, 8, 8), ..GATEWAY }]);
        mapper.set(4_000, true);
        assert!(mapper.keepers.is_empty());
        mapper.shutdown().await;
        assert_eq!(events.recv().await, None);
    }
}
