//! Carries what the parts queued on to where it belongs, until nothing is queued.
//!
//! A part's event often becomes another part's input, so the parts are drained here, between
//! inputs, and never call one another. Each round costs what is queued: the parts answer at once
//! when they have nothing, and only touched peers are visited.

use std::sync::Arc;
use std::time::Instant;

use super::directory::{Found, Source};
use super::event::{InterfaceConfig, Output};
use super::lan::Nearby;
use super::peer::Who;
use super::*;
use crate::forward::{ForwardingTable, LocalAddresses};
use crate::identity::address::IPV6_PREFIX_LEN;
use crate::membership::roster::Standing;

/// More rounds than any chain of events needs; a loop between parts would be a bug, and must not
/// take the agent with it.
const MAX_ROUNDS: usize = 64;

impl Mesh {
    /// Drains every part.
    pub(super) fn settle(&mut self, now: Instant) {
        for round in 0.. {
            let busy = self.settle_peers(now)
                | self.settle_reach(now)
                | self.settle_directory(now)
                | self.settle_publisher()
                | self.settle_beacons(now)
                | self.settle_gossip(now)
                | self.settle_joins(now);
            if !busy {
                break;
            }
            if round == MAX_ROUNDS {
                tracing::error!("the parts of the mesh keep one another busy");
                break;
            }
        }
        if self.peers.take_slots_changed() {
            // First, so that the answers to what is sent below find their slots.
            self.outputs.push_front(Output::Table(Arc::new(self.table())));
        }
        self.set_deadlines();
    }

    fn set_deadlines(&mut self) {
        for (timer, due) in [
            (Timer::Reach, self.reach.poll_timeout()),
            (Timer::Directory, self.directory.poll_timeout()),
            (Timer::Publisher, self.publisher.poll_timeout()),
            (Timer::Beacons, self.beacons.poll_timeout()),
            (Timer::Gossip, self.gossip.poll_timeout()),
            (Timer::Joins, self.joins_due()),
            (Timer::Clients, self.clients.poll_timeout()),
        ] {
            self.deadlines.set(timer, due);
        }
    }

    fn settle_peers(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(key) = self.peers.next_touched() {
            self.drain_path(key, now);
            busy = true;
        }
        busy
    }

    fn settle_reach(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(transmit) = self.reach.poll_transmit() {
            self.expect_answer(&transmit.payload);
            self.outputs.push_back(Output::Transmit(transmit));
            busy = true;
        }
        while self.reach.poll_event().is_some() {
            self.endpoints_changed(now);
            busy = true;
        }
        busy
    }

    fn settle_directory(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(key) = self.directory.poll_lookup() {
            self.outputs.push_back(Output::Lookup(key));
            busy = true;
        }
        while let Some(found) = self.directory.poll_event() {
            self.handle_found(found, now);
            busy = true;
        }
        busy
    }

    fn handle_found(&mut self, found: Found, now: Instant) {
        match found {
            Found::Device { device, endpoints, source } => {
                // Whoever rings or beacons looks for company; others are only reached if wanted.
                let rings = matches!(source, Source::Bell | Source::Lan);
                let key = match self.peers.member(&device) {
                    None if rings => {
                        self.keep_company(&device, now).or_else(|| self.bring_removed(&device, now))
                    }
                    known => known,
                };
                if let Some(peer) = key.and_then(|key| self.peers.touch(key)) {
                    peer.path.set_remotes(&endpoints, now);
                    if rings && peer.path.primary().is_none() {
                        // It is there now: old addresses are worth another try.
                        peer.path.restart(now);
                    }
                }
            }
            Found::Sponsor { wg, endpoints, .. } => self.meet_sponsor(wg, &endpoints, now),
            Found::Joiner { invite, endpoints } => {
                let who = Who::Guest(invite);
                let caller = self.tags.guests().find(|caller| caller.who == who).copied();
                if let Some(caller) = caller {
                    self.meet_guest(caller, &endpoints, now);
                }
            }
        }
    }

    fn settle_publisher(&mut self) -> bool {
        let mut busy = false;
        while let Some(item) = self.publisher.poll_publish() {
            self.outputs.push_back(Output::Publish(item));
            busy = true;
        }
        while let Some(key) = self.publisher.poll_lookup() {
            self.outputs.push_back(Output::Lookup(key));
            busy = true;
        }
        busy
    }

    fn settle_beacons(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(beacon) = self.beacons.poll_beacon() {
            self.outputs.push_back(Output::Beacon(beacon));
            busy = true;
        }
        while let Some(nearby) = self.beacons.poll_event() {
            self.handle_nearby(nearby, now);
            busy = true;
        }
        busy
    }

    /// A beacon names its sender, or shows that it holds an invite.
    fn handle_nearby(&mut self, nearby: Nearby, now: Instant) {
        match nearby {
            // Whoever knows K_net can name any device there might be; only those that are or were
            // members are remembered.
            Nearby::Member { device, .. }
                if self.ledger.roster().standing(&device) == Standing::Unknown => {}
            Nearby::Member { device, endpoint } => {
                self.directory.accept(device, &[endpoint], Source::Lan, now);
                let key = self.keep_company(&device, now);
                if let Some(peer) = key.and_then(|key| self.peers.touch(key)) {
                    peer.path.add_remote(endpoint, now);
                }
            }
            Nearby::Sponsor { wg, endpoint, .. } => self.meet_sponsor(wg, &[endpoint], now),
            Nearby::Guest { invite, endpoint } => {
                let found = Found::Joiner { invite, endpoints: vec![endpoint] };
                self.handle_found(found, now);
            }
        }
    }

    fn settle_gossip(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some((device, message)) = self.gossip.poll_transmit() {
            if let Some(key) = self.peers.member(&device) {
                self.tell(key, &message, now);
            }
            busy = true;
        }
        self.check_fresh(now);
        busy
    }

    /// The forwarding table of the peers in use.
    fn table(&self) -> ForwardingTable {
        let local = match &self.me.interface {
            Some(interface) => LocalAddresses {
                ipv6: Some(interface.ipv6),
                ipv4: interface.ipv4,
                routes: self.own_routes(),
            },
            None => LocalAddresses::default(),
        };
        ForwardingTable::new(self.peers.iter().map(|peer| peer.slot.clone()))
            .with_local(local)
            .with_expected(self.tags.expected().clone())
    }

    /// What this device's own certificate lets it send for.
    fn own_routes(&self) -> Vec<(std::net::IpAddr, u8)> {
        let me = self.ledger.roster().get(&self.me.identity.id.public());
        me.map(|me| me.routes.clone()).unwrap_or_default()
    }

    /// How the interface shall look while it is on.
    pub(super) fn interface(&self) -> InterfaceConfig {
        let roster = self.ledger.roster();
        let me = roster.get(&self.me.identity.id.public());
        let pool = self.ledger.genesis().and_then(|genesis| genesis.pool());
        let ipv4 = me.and_then(|me| me.ipv4).zip(pool).map(|(at, pool)| (at, pool.prefix_len()));
        InterfaceConfig {
            ipv6: (self.ipv6(), IPV6_PREFIX_LEN),
            ipv4: ipv4.filter(|_| !self.pool_overlaps()),
            mtu: self.settings.mtu,
            routes: self.others().flat_map(|member| member.routes.iter().copied()).collect(),
        }
    }

    /// Whether this host has a link inside the network's IPv4 pool: then the overlay goes without
    /// IPv4 here, rather than take the link's addresses away.
    pub(super) fn pool_overlaps(&self) -> bool {
        let Some(pool) = self.ledger.genesis().and_then(|genesis| genesis.pool()) else {
            return false;
        };
        self.me.interfaces.addresses.iter().any(|link| match link.address {
            std::net::IpAddr::V4(v4) => pool.overlaps(v4, link.prefix_len),
            std::net::IpAddr::V6(_) => false,
        })
    }
}
