//! A stand-alone DHT node: the bootstrap of a closed network or of a lab (`ginnel dht`).
//!
//! It is a full Mainline node in server mode: it routes, and stores items (BEP 44) in memory. With
//! no bootstrap node it is the first of a network of its own. The crate's server has no rate limit,
//! so [`Limiter`] sets one.
//!
//! A node that is asked does not put the asker into its table (only into a second one, of which it
//! tells), and refreshes its table every 15 minutes. So the first nodes of a young network would
//! know hardly any later ones; [`refresh`] looks around more often at first.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use n0_mainline::{RequestFilter, RequestSpecific, ServerSettings};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::resolve;

/// Requests a second that one address may make on average; a look-up of a busy client sends one or
/// two to each node.
const RATE: u32 = 50;

/// Requests an address may make at once.
const BURST: u32 = 200;

/// Requests a second that all addresses together may make: what half a core answers.
const TOTAL_RATE: u32 = 5000;

/// The most addresses that are counted; one is forgotten once its burst is paid off.
const MAX_SOURCES: usize = 8192;

/// The first and the longest wait before a node looks around for others again.
const REFRESH_GAP: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));

/// A running node; it stops when dropped.
#[derive(Debug)]
pub struct Node {
    dht: n0_mainline::Dht,
    address: SocketAddrV4,
    /// Holds the refreshing task, and ends it.
    _refresh: JoinSet<()>,
}

impl Node {
    /// Starts a node on `listen`, of which the address must be one of this host's (or 0.0.0.0);
    /// the socket itself is bound to all of them. With `bootstrap` given, at least one of it must
    /// resolve.
    pub async fn start(listen: SocketAddrV4, bootstrap: &[String]) -> io::Result<Self> {
        drop(tokio::net::UdpSocket::bind((*listen.ip(), 0)).await?);
        let seeds = resolve(bootstrap).await;
        if seeds.is_empty() && !bootstrap.is_empty() {
            let text = format!("no bootstrap node resolves: {}", bootstrap.join(", "));
            return Err(io::Error::other(text));
        }
        let filter = Box::new(Limiter::default());
        let dht = n0_mainline::Dht::builder()
            .bootstrap(&seeds)
            .port(listen.port())
            .server_mode()
            .server_settings(ServerSettings { filter, ..ServerSettings::default() })
            .build()?;
        let port = dht.info().await?.local_addr().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(refresh(dht.clone()));
        let address = SocketAddrV4::new(*listen.ip(), port);
        Ok(Self { dht, address, _refresh: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// How many nodes are in its routing table.
    pub async fn len(&self) -> usize {
        self.dht.info().await.map_or(0, |info| info.routing_table_size())
    }

    /// Whether it knows no other node.
    pub async fn is_empty(&self) -> bool {
        self.len().await == 0
    }
}

/// Runs a node until SIGINT or SIGTERM. Prints `listening on IP:PORT` to stdout once it does.
pub async fn run_node(listen: SocketAddrV4, bootstrap: Vec<String>) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let node = Node::start(listen, &bootstrap).await?;
    // A closed stdout is no reason to stop serving.
    let _ = writeln!(io::stdout(), "listening on {}", node.address());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Looks for nodes near the own id, seldom as time goes on. It must be the own id: the crate takes
/// the target of a `find_node` for the id of whoever asks.
async fn refresh(dht: n0_mainline::Dht) {
    let mut gap = REFRESH_GAP.0;
    loop {
        tokio::time::sleep(gap).await;
        gap = (gap * 2).min(REFRESH_GAP.1);
        let Ok(info) = dht.info().await else { return };
        let _ = dht.find_node(*info.id()).await;
    }
}

/// Refuses requests of an address, or of all, that come faster than the bounds. Each is a leaky
/// bucket of which only the time is kept at which it will be empty (GCRA). Loopback is not
/// counted: whole test networks live there.
#[derive(Debug, Clone, Default)]
struct Limiter(Arc<Mutex<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    total: Option<Instant>,
    sources: BTreeMap<Ipv4Addr, Instant>,
}

impl RequestFilter for Limiter {
    fn allow_request(&self, _request: &RequestSpecific, from: SocketAddrV4) -> bool {
        from.ip().is_loopback() || self.0.lock().take(*from.ip(), Instant::now())
    }
}

impl Buckets {
    fn take(&mut self, source: Ipv4Addr, now: Instant) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, empty_at| *empty_at > now);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let own = self.sources.entry(source).or_insert(now);
        pour(own, (RATE, BURST), now)
            && pour(self.total.get_or_insert(now), (TOTAL_RATE, TOTAL_RATE), now)
    }
}

/// Adds one to the bucket that is empty at `empty_at`, unless it is full.
fn pour(empty_at: &mut Instant, bound: (u32, u32), now: Instant) -> bool {
    let (rate, burst) = bound;
    let one = Duration::from_secs(1) / rate;
    let next = (*empty_at).max(now) + one;
    let fits = next <= now + one * burst;
    if fits {
        *empty_at = next;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let mut buckets = Buckets::default();
        let now = Instant::now();
        let source = Ipv4Addr::new(9, 9, 9, 9);
        let taken = |buckets: &mut Buckets, source, at| {
            (0..1000).filter(|_| buckets.take(source, at)).count()
        };
        assert_eq!(taken(&mut buckets, source, now), BURST as usize);
        assert_eq!(taken(&mut buckets, Ipv4Addr::new(9, 9, 9, 8), now), BURST as usize);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&mut buckets, source, later), RATE as usize);
    }

    #[test]
    fn a_flood_of_forged_sources_stays_within_bounds() {
        let mut buckets = Buckets::default();
        let now = Instant::now();
        let taken =
            (0..20_000_u32).filter(|i| buckets.take(Ipv4Addr::from(0x0900_0000 + i), now)).count();
        assert_eq!(taken, TOTAL_RATE as usize);
        assert!(buckets.sources.len() <= MAX_SOURCES);
        // Once it is over, a new source is served again.
        assert!(buckets.take(Ipv4Addr::new(8, 8, 8, 8), now + Duration::from_secs(5)));
    }
}
