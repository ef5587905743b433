//! What people and scripts are shown of one network.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::peer::{Peer, Who};
use super::*;
use crate::api::{
    DhtStatus, LogEntry, MemberEntry, NetcheckNetwork, NetworkStatus, PathStatus, PeerState,
    PeerStatus, Role, SCHEMA, SelfStatus,
};
use crate::identity::DeviceId;
use crate::identity::address::overlay_ipv6;
use crate::membership::roster::Standing;
use crate::membership::{Author, Member, OpBody};

/// A peer that was looked for in vain for so long is shown as offline: a minute of lookups every few
/// seconds found nothing.
const OFFLINE_AFTER: Duration = Duration::from_secs(60);

impl Peer {
    /// The way to it, where there is one.
    pub fn path_status(&self) -> Option<PathStatus> {
        let path = self.path.primary()?;
        Some(PathStatus { kind: path.kind, endpoint: path.endpoint, via: None })
    }
}

impl Mesh {
    /// The state of this network at `now`.
    pub fn status(&self, now: Instant) -> NetworkStatus {
        NetworkStatus {
            name: self.name().unwrap_or_default().to_owned(),
            id: self.ledger.network().to_string(),
            interface: self.settings.interface.clone(),
            state: self.me.state,
            detail: self.detail(),
            mtu: self.settings.mtu,
            this: self.self_status(),
            listen_port: self.settings.listen_port,
            public_endpoints: self.reach.public_endpoints(),
            nat: self.reach.nat(),
            dht: self.dht_status(now),
            peers: self.peer_statuses(now),
            drops: Default::default(),
        }
    }

    /// What `netcheck` shows of this network's port.
    pub fn netcheck(&self) -> NetcheckNetwork {
        NetcheckNetwork {
            network: self.name().unwrap_or_default().to_owned(),
            listen_port: self.settings.listen_port,
            addresses: self.reach.netcheck_addresses(),
            nat: self.reach.nat(),
            hairpin: None,
            stun: self.reach.netcheck_stun(),
            mtu: self.settings.mtu,
        }
    }

    /// The DHT as this network sees it.
    pub fn dht_status(&self, now: Instant) -> DhtStatus {
        let (state, nodes) = self.me.dht;
        let ago = self.publisher.published_ago(now).map(|ago| ago.as_secs());
        DhtStatus { state, nodes, published_s_ago: ago }
    }

    pub(super) fn members(&self) -> api::Members {
        let mut members: Vec<_> =
            self.ledger.roster().members().map(|member| self.member_entry(member)).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let network = self.name().unwrap_or_default().to_owned();
        api::Members { schema: SCHEMA, network, members }
    }

    pub(super) fn member_entry(&self, member: &Member) -> MemberEntry {
        MemberEntry {
            name: member.name.to_string(),
            role: role(member),
            ipv4: member.ipv4,
            ipv6: member.ipv6,
            expires: member.not_after.rfc3339(),
            id: member.id.to_string(),
            public_key: member.wg.to_string(),
            this: member.id == self.me.identity.id.public(),
        }
    }

    pub(super) fn log(&self) -> api::Log {
        let mut ops: Vec<_> = self.ledger.logs().iter().collect();
        ops.sort_by_key(|op| (op.op().time, op.op().author, op.op().seq, op.id()));
        let entries = ops.into_iter().map(|signed| {
            let op = signed.op();
            LogEntry {
                time: op.time.rfc3339(),
                author: self.author_name(&op.author),
                author_key: match op.author {
                    Author::Root(key) => key.to_string(),
                    Author::Admin(key) => key.to_string(),
                },
                seq: op.seq,
                kind: op.body.kind_name().to_owned(),
                summary: op.body.summary(&|device| self.device_name(device)),
                effective: self.ledger.roster().is_effective(&signed.id()),
                id: crate::identity::NetworkId(signed.id().0).to_string(),
            }
        });
        let network = self.name().unwrap_or_default().to_owned();
        api::Log { schema: SCHEMA, network, entries: entries.collect() }
    }

    fn author_name(&self, author: &Author) -> String {
        let Author::Admin(admin) = author else { return "root".to_owned() };
        let device = self.ledger.logs().iter().find_map(|op| match &op.op().body {
            OpBody::AdminAdd { admin: added, device } if added == admin => Some(*device),
            _ => None,
        });
        device.map_or_else(|| admin.to_string(), |device| self.device_name(&device))
    }

    /// The name a device has or had, or the start of its key.
    fn device_name(&self, device: &DeviceId) -> String {
        if let Some(member) = self.ledger.roster().get(device) {
            return member.name.to_string();
        }
        let granted = self.ledger.logs().iter().find_map(|op| match &op.op().body {
            OpBody::Grant(certificate) if certificate.id == *device => {
                Some(certificate.name.to_string())
            }
            _ => None,
        });
        granted.unwrap_or_else(|| device.to_string().chars().take(8).collect())
    }

    /// The address this device has or will have.
    pub(super) fn ipv6(&self) -> Ipv6Addr {
        overlay_ipv6(self.ledger.network(), &self.me.identity.id.public())
    }

    pub(super) fn self_status(&self) -> SelfStatus {
        let me = self.ledger.roster().get(&self.me.identity.id.public());
        SelfStatus {
            name: me.map_or_else(|| self.me.name.to_string(), |me| me.name.to_string()),
            role: me.map_or(Role::Member, role),
            ipv4: me.and_then(|me| me.ipv4),
            ipv6: self.ipv6(),
            public_key: self.me.identity.wg.public().to_string(),
            expires: me.map(|me| me.not_after.rfc3339()),
        }
    }

    /// The live members but this device, by id.
    pub(super) fn others(&self) -> impl Iterator<Item = &Member> {
        let this = self.me.identity.id.public();
        self.ledger.roster().members().filter(move |member| member.id != this)
    }

    /// The members that this device is connected with. Costs a walk over the peers in use, and not, as
    /// [`status`](Self::status) does, over all members.
    pub fn connected(&self) -> impl Iterator<Item = &Member> {
        let connected = self.peers.iter().filter(|peer| peer.is_connected());
        connected.filter_map(|peer| self.ledger.roster().get(&peer.device()?))
    }

    /// Where the others stand, by name.
    fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        let mut others: Vec<_> = self.others().collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others.into_iter().map(|member| self.peer_status(member, now)).collect()
    }

    fn peer_status(&self, member: &Member, now: Instant) -> PeerStatus {
        let peer = self.peers.of(&Who::Member(member.id)).next();
        let (rx_bytes, tx_bytes) = peer.map_or((0, 0), |peer| peer.slot.stats.bytes());
        let age = peer.and_then(|peer| peer.slot.tunnel.lock().session_age(now));
        let seen = peer.and_then(Peer::last_seen);
        let path = peer.filter(|peer| peer.is_connected()).and_then(Peer::path_status);
        let rtt = peer.and_then(|peer| peer.path.primary()).map(|path| path.rtt);
        PeerStatus {
            name: member.name.to_string(),
            ipv4: member.ipv4,
            ipv6: member.ipv6,
            public_key: member.wg.to_string(),
            role: role(member),
            state: peer_state(peer, now),
            mtu: peer.filter(|_| path.is_some()).map(|peer| peer.slot.limit().packet),
            rtt_ms: path.as_ref().and(rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
            path,
            last_handshake_s: age.map(|age| age.as_secs()),
            rx_bytes,
            tx_bytes,
            last_seen_s: seen.map(|at| now.saturating_duration_since(at).as_secs()),
        }
    }

    /// One sentence where the state needs explaining.
    fn detail(&self) -> Option<String> {
        match self.me.state {
            api::NetworkState::Up => self.missing_ipv4(),
            _ => Some(self.standing_text()),
        }
    }

    /// Why there is no IPv4 here, where the network has it.
    fn missing_ipv4(&self) -> Option<String> {
        let pool = self.ledger.genesis().and_then(|genesis| genesis.pool())?;
        self.pool_overlaps().then(|| {
            format!(
                "no IPv4 here: the network's {pool} overlaps a network of this host; IPv6 works"
            )
        })
    }

    /// Where this device stands, in a sentence.
    pub(super) fn standing_text(&self) -> String {
        use api::NetworkState as S;
        match self.me.state {
            S::Up => "the interface is on".to_owned(),
            S::Down => "the interface is off; `ginnel up` turns it on".to_owned(),
            S::Joining => "this device has not been admitted yet".to_owned(),
            S::Expired => {
                "this device's certificate ran out; ask an admin for a new invite".to_owned()
            }
            S::Revoked => match self.ledger.roster().standing(&self.me.identity.id.public()) {
                Standing::Revoked { by, at, reason } => {
                    let by = self.author_name(&Author::Admin(by));
                    let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
                    let at = at.rfc3339();
                    format!(
                        "this device was removed by {by} at {at}{reason}; `ginnel leave` tidies up"
                    )
                }
                _ => "this device was removed; `ginnel leave` tidies up".to_owned(),
            },
        }
    }
}

fn role(member: &Member) -> Role {
    if member.admin.is_some() { Role::Admin } else { Role::Member }
}

fn peer_state(peer: Option<&Peer>, now: Instant) -> PeerState {
    let Some(peer) = peer else { return PeerState::Idle };
    let since = peer.last_seen().unwrap_or(peer.born);
    if peer.is_connected() {
        PeerState::Connected
    } else if now.saturating_duration_since(since) > OFFLINE_AFTER {
        PeerState::Offline
    } else {
        PeerState::Connecting
    }
}
