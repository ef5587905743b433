//! Two devices that know nothing of each other but shared secrets find each other through a DHT of
//! eight nodes on loopback: by the doorbell, by their records, and at the rendezvous of an invite.
//! The real state machines drive the real adapter; only the select loop is written here.
//!
//! ```text
//!   Publisher ─┐            ┌─ node ─ node ─ … (8)
//!              ├─ io::Dht ──┤
//!   Directory ─┘            └─ io::Dht ── Publisher, Directory
//! ```

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test with a real clock")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime};

use ginnel::identity::{IdSecret, WgPublicKey};
use ginnel::io::dht::node::Node;
use ginnel::io::dht::{Dht, DhtConfig};
use ginnel::membership::UnixTime;
use ginnel::membership::invite::InviteId;
use ginnel::mesh::directory::{Directory, Found, Source};
use ginnel::mesh::event::DhtInput;
use ginnel::mesh::publisher::Publisher;
use ginnel::wire::record::{NetworkSecret, Rendezvous};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

const INVITE: InviteId = InviteId([4; 16]);

fn id(number: u8) -> IdSecret {
    IdSecret::from_seed([number; 32])
}

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, number], 41641))
}

fn unix() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

struct Device {
    directory: Directory,
    publisher: Publisher,
    dht: Dht,
    events: mpsc::Receiver<DhtInput>,
    found: Vec<Found>,
}

impl Device {
    fn start(number: u8, config: &DhtConfig) -> Self {
        let now = Instant::now();
        let rng = |salt: u8| StdRng::seed_from_u64(u64::from(number) * 256 + u64::from(salt));
        let mut directory = Directory::new(rng(0), now);
        let mut publisher = Publisher::new(rng(1), now);
        directory.set_wall(unix(), now);
        publisher.set_wall(unix(), now);
        publisher.set_endpoints(&[endpoint(number)], now);
        let (dht, events) = Dht::start(config.clone());
        Self { directory, publisher, dht, events, found: Vec::new() }
    }

    fn member(number: u8, config: &DhtConfig) -> Self {
        let mut device = Self::start(number, config);
        let now = Instant::now();
        let secret = NetworkSecret::new(1, [0x42; 32]);
        device.directory.set_network(id(number).public(), secret.clone(), now);
        device.publisher.set_network(id(number), secret, now);
        device
    }

    fn set_lonely(&mut self, lonely: bool) {
        self.directory.set_lonely(lonely, Instant::now());
        self.publisher.set_lonely(lonely, Instant::now());
    }

    /// One turn of the loop.
    async fn turn(&mut self) {
        while let Some(item) = self.publisher.poll_publish() {
            self.dht.publish(item);
        }
        while let Some(key) = self.publisher.poll_lookup().or_else(|| self.directory.poll_lookup())
        {
            self.dht.lookup(key);
        }
        while let Some(found) = self.directory.poll_event() {
            self.found.push(found);
        }
        let due = [self.directory.poll_timeout(), self.publisher.poll_timeout()];
        let due = due.into_iter().flatten().map(|(at, _)| at).min();
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        tokio::select! {
            event = self.events.recv() => {
                let event = event.unwrap();
                let now = Instant::now();
                self.directory.handle_dht(&event, now);
                self.publisher.handle_dht(&event, now);
            }
            () = tokio::time::sleep_until(due.into()) => {
                let now = Instant::now();
                self.directory.handle_timeout(now);
                self.publisher.handle_timeout(now);
            }
        }
    }

    fn has_found(&self, wanted: impl Fn(&Found) -> bool) -> bool {
        self.found.iter().any(wanted)
    }
}

/// Of how many others each node must know before the network is used.
const MEET: usize = 4;

async fn network() -> (Vec<Node>, DhtConfig) {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let first = Node::start(any, &[]).await.unwrap();
    let bootstrap = vec![first.address().to_string()];
    let mut nodes = vec![first];
    for _ in 1..8 {
        nodes.push(Node::start(any, &bootstrap).await.unwrap());
    }
    let known = async {
        for node in &nodes {
            while node.len().await < MEET {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("the nodes find one another");
    (nodes, DhtConfig { bootstrap, ..DhtConfig::default() })
}

/// Runs both until `done`, and tells how long it took.
async fn run(
    one: &mut Device,
    two: &mut Device,
    limit: Duration,
    done: impl Fn(&Device, &Device) -> bool,
) -> Duration {
    let start = Instant::now();
    while !done(one, two) {
        assert!(start.elapsed() < limit, "not found in {limit:?}");
        tokio::select! {
            () = one.turn() => {}
            () = two.turn() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    start.elapsed()
}

fn is_device(found: &Found, number: u8, by: Source) -> bool {
    matches!(found, Found::Device { device, endpoints, source }
        if *device == id(number).public() && *source == by && *endpoints == [endpoint(number)])
}

#[tokio::test]
async fn two_lonely_devices_that_both_just_started_find_each_other_by_the_doorbell() {
    let (_nodes, config) = network().await;
    let (mut one, mut two) = (Device::member(1, &config), Device::member(2, &config));
    one.set_lonely(true);
    two.set_lonely(true);
    let took = run(&mut one, &mut two, Duration::from_secs(20), |one, two| {
        one.has_found(|found| is_device(found, 2, Source::Bell))
            && two.has_found(|found| is_device(found, 1, Source::Bell))
    })
    .await;
    println!("doorbell: both found after {took:?}");
}

#[tokio::test]
async fn a_wanted_device_is_found_by_its_record() {
    let (_nodes, config) = network().await;
    let (mut one, mut two) = (Device::member(1, &config), Device::member(2, &config));
    one.directory.want(id(2).public(), Instant::now());
    let took = run(&mut one, &mut two, Duration::from_secs(20), |one, _| {
        one.has_found(|found| is_device(found, 2, Source::Record))
    })
    .await;
    println!("record: found after {took:?}");
}

#[tokio::test]
async fn a_sponsor_and_a_joining_device_find_each_other() {
    let (_nodes, config) = network().await;
    let (mut sponsor, mut joining) = (Device::member(1, &config), Device::start(2, &config));
    let (rv, now) = (Rendezvous::new([6; 32]), Instant::now());
    let wg = WgPublicKey([8; 32]);
    sponsor.publisher.host(INVITE, &rv, 0, wg, now);
    sponsor.directory.seek_joiner(INVITE, &rv, true, now);
    joining.publisher.arrive(INVITE, &rv, now);
    joining.directory.seek_sponsors(INVITE, &rv, now);
    let took = run(&mut sponsor, &mut joining, Duration::from_secs(20), |sponsor, joining| {
        let endpoints = vec![endpoint(2)];
        let guest = Found::Joiner { invite: INVITE, endpoints };
        let endpoints = vec![endpoint(1)];
        let host = Found::Sponsor { invite: INVITE, wg, endpoints };
        sponsor.found.contains(&guest) && joining.found.contains(&host)
    })
    .await;
    println!("rendezvous: both found after {took:?}");
}
