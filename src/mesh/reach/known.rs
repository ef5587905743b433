//! What follows from what the sources said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::super::candidate::{Candidate, CandidateKind, Scope};
use super::Reachability;
use crate::api::{NatMapping, PortMappingKind};

/// How many addresses that only peers saw are told: behind a NAT that maps by destination every
/// peer sees another one, all of them useless to the rest.
pub(super) const MAX_OBSERVED: usize = 2;

/// An address of this device with its source.
pub(super) struct Known {
    pub candidate: Candidate,
    pub source: &'static str,
    /// Whether it is believed.
    pub believed: bool,
}

/// Conclusions.
impl Reachability {
    /// Every address with its source, those of one kind best first.
    pub(super) fn known(&self) -> Vec<Known> {
        let mut out = self.of_interfaces();
        self.add_port_maps(&mut out);
        self.add_reflexive(&mut out);
        self.add_observed(&mut out);
        out
    }

    fn of_interfaces(&self) -> Vec<Known> {
        let mut sorted = self.interfaces.addresses.clone();
        sorted.sort();
        let known = |ip: IpAddr| {
            let kind = match Scope::of(ip) {
                Scope::Never | Scope::Link => return None,
                Scope::Private => CandidateKind::Local,
                Scope::Global => CandidateKind::Interface,
            };
            let address = SocketAddr::new(ip, self.port);
            let candidate = Candidate { kind, address };
            Some(Known { candidate, source: "interface", believed: true })
        };
        sorted.iter().filter_map(|entry| known(entry.address.to_canonical())).collect()
    }

    fn add_port_maps(&self, out: &mut Vec<Known>) {
        let seen: BTreeSet<IpAddr> = self
            .answers()
            .map(|(_, mapped)| mapped.ip())
            .filter(|ip| ip.is_ipv4() && Scope::of(*ip) == Scope::Global)
            .collect();
        for (kind, external) in &self.maps {
            let source = match kind {
                PortMappingKind::Pcp => "pcp",
                PortMappingKind::NatPmp => "nat-pmp",
                PortMappingKind::Upnp => "upnp",
                PortMappingKind::None => continue,
            };
            let mut add = |ip: IpAddr, believed| {
                let address = SocketAddr::new(ip, external.port());
                let candidate = Candidate { kind: CandidateKind::PortMapped, address };
                out.push(Known { candidate, source, believed });
            };
            add(external.ip(), Scope::of(external.ip()) == Scope::Global && external.port() != 0);
            for ip in seen.iter().filter(|ip| **ip != external.ip() && external.is_ipv4()) {
                add(*ip, true);
            }
        }
    }

    fn add_reflexive(&self, out: &mut Vec<Known>) {
        for v6 in [false, true] {
            let answers: Vec<_> =
                self.answers().filter(|(server, _)| server.is_ipv6() == v6).collect();
            let sources = |address: SocketAddr| {
                let servers = answers.iter().filter(|(_, mapped)| *mapped == address);
                let servers: BTreeSet<IpAddr> = servers.map(|(server, _)| server.ip()).collect();
                servers.len() + self.observers(address)
            };
            let agreed = answers.iter().any(|(_, mapped)| sources(*mapped) >= 2);
            for (at, (_, mapped)) in answers.iter().enumerate() {
                let believed = if agreed { sources(*mapped) >= 2 } else { at == 0 };
                let candidate = Candidate { kind: CandidateKind::Reflexive, address: *mapped };
                out.push(Known { candidate, source: "stun", believed });
            }
        }
    }

    fn add_observed(&self, out: &mut Vec<Known>) {
        let mut seen: BTreeMap<SocketAddr, (usize, Instant)> = BTreeMap::new();
        for (address, at) in self.observed.values() {
            let entry = seen.entry(*address).or_insert((0, *at));
            *entry = (entry.0 + 1, entry.1.max(*at));
        }
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        for (at, (address, _)) in seen.into_iter().enumerate() {
            let candidate = Candidate { kind: CandidateKind::Observed, address };
            out.push(Known { candidate, source: "peer", believed: at < MAX_OBSERVED });
        }
    }

    fn observers(&self, address: SocketAddr) -> usize {
        self.observed.values().filter(|(observed, _)| *observed == address).count()
    }

    /// The servers' answers: who, and what it saw. Where all servers of a family fell silent, what
    /// they said last still counts: they may be down, or the line for a while.
    fn answers(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + '_ {
        let silent = |v6: bool| {
            let mut family = self.servers.iter().filter(|server| server.address.is_ipv6() == v6);
            family.all(|server| server.current().is_none())
        };
        let silent = [silent(false), silent(true)];
        self.servers.iter().filter_map(move |server| {
            let v6 = usize::from(server.address.is_ipv6());
            let mapped = if silent[v6] { server.last() } else { server.current() };
            Some((server.address, mapped?))
        })
    }

    /// RFC 4787, section 4.1, by comparing what different servers see.
    pub(super) fn mapping(&self) -> NatMapping {
        let answers: Vec<_> = self.answers().filter(|(server, _)| server.is_ipv4()).collect();
        let own = |mapped: SocketAddr| {
            mapped.port() == self.port
                && self.interfaces.addresses.iter().any(|own| own.address == mapped.ip())
        };
        if answers.iter().any(|(_, mapped)| own(*mapped)) {
            return NatMapping::None;
        }
        let pairs = || {
            answers
                .iter()
                .enumerate()
                .flat_map(|(at, a)| answers[at + 1..].iter().map(move |b| (a, b)))
        };
        let differ = |same_ip: bool| {
            let mut pairs = pairs().filter(|(a, b)| (a.0.ip() == b.0.ip()) == same_ip).peekable();
            pairs.peek().is_some().then(|| pairs.any(|(a, b)| a.1 != b.1))
        };
        // Whether servers with different addresses, and different ports of one, see us differently.
        match (differ(false), differ(true)) {
            (_, Some(true)) => NatMapping::EndpointDependent,
            (Some(true), Some(false)) => NatMapping::AddressDependent,
            (Some(true), None) => NatMapping::EndpointDependent,
            (Some(false), _) => NatMapping::EndpointIndependent,
            (None, _) => NatMapping::Unknown,
        }
    }
}
