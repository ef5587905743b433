//! What is due by time, and what the host and the roster change under our feet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidate::Surroundings;
use super::event::{DhtInput, InterfaceSnapshot, Output, Persist};
use super::path::{Demand, Path};
use super::peer::{Need, Peer, Purpose, Who};
use super::sessions::FOLLOW_AFTER;
use super::tags::Caller;
use super::*;
use crate::identity::DeviceId;
use crate::identity::address::{IPV6_PREFIX_LEN, ipv6_prefix};
use crate::membership::roster::Standing;

/// How often a peer's needs are looked at: closely while user data flows, so that a dead path is
/// noticed within seconds.
const ACTIVE_EVERY: Duration = Duration::from_secs(1);
/// How long a look at an active peer lasts: the packet path says when user data flows past that.
const WATCHED_FOR: Duration = Duration::from_secs(2);
/// While nothing flows, all that changes with time is that a peer is needed no more, and that may
/// wait; what has a time of its own is due then. A thousand tunnels at this pace cost nothing.
pub(super) const WARM_EVERY: Duration = Duration::from_secs(30);

/// How often the cache goes to disk, where it changed. It only makes a start quicker.
const CACHE_EVERY: Duration = Duration::from_secs(60);

impl Mesh {
    pub(super) fn handle_timer(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Path(key) => {
                if let Some(peer) = self.peers.touch(key) {
                    peer.path.handle_timeout(now);
                }
            }
            Timer::Tunnel(key) => {
                self.handle_tunnel_timeout(key, now);
                if self.peers.get(key).is_some_and(|peer| peer.lacks_session(now)) {
                    // Keys end after three minutes without data; a peer that is needed has some.
                    self.handle_peer_due(key, now);
                }
            }
            Timer::Peer(key) => self.handle_peer_due(key, now),
            Timer::Reach => self.reach.handle_timeout(now),
            Timer::Directory => self.directory.handle_timeout(now),
            Timer::Publisher => self.publisher.handle_timeout(now),
            Timer::Beacons => self.beacons.handle_timeout(now),
            Timer::Gossip => self.gossip.handle_timeout(self.ledger.logs(), now),
            Timer::Joins => self.handle_joins_due(now),
            Timer::Clients => {
                self.handle_pings(now);
                self.first_invite(now);
            }
            Timer::Roster => self.roster_changed(now),
            Timer::Tags => self.roll_tags(now),
            Timer::Cache => self.save_cache(now),
            Timer::Neighbours => self.choose_neighbours(now),
            Timer::Company => self.call_remembered(now),
            Timer::Hold => self.release_user_data(now),
        }
    }

    /// This device is a member: everything that runs by itself begins.
    pub(super) fn begin(&mut self, cache: &[u8], now: Instant) {
        self.load_cache(cache);
        self.secret_known(now);
        if self.settings.port_mapping {
            self.outputs.push_back(Output::MapPort);
        }
        self.reach.set_demand(true, now);
        self.roster_changed(now);
        // Those that were derived before may call only now.
        self.tags.note_member();
        self.choose_neighbours(now);
        self.connections_changed(now);
        self.deadlines.set(Timer::Cache, Some((now + CACHE_EVERY, "the cache is saved")));
    }

    /// K_net is known: records and beacons can be read and written.
    pub(super) fn secret_known(&mut self, now: Instant) {
        if let Some(secret) = &self.me.secret {
            let own = self.me.identity.id.public();
            self.directory.set_network(own, secret.clone(), now);
            let id = self.me.identity.id.clone();
            self.publisher.set_network(id, secret.clone(), now);
            self.beacons.set_network(own, secret, now);
        }
    }

    /// Where this device stands decides whether the interface is on.
    pub(super) fn refresh_state(&mut self, now: Instant) {
        use api::NetworkState as S;
        if matches!(self.joins, Joins::Joiner(_)) {
            self.me.state = S::Joining;
            return;
        }
        let before = self.me.state;
        self.me.state = match self.ledger.roster().standing(&self.me.identity.id.public()) {
            Standing::Live if self.me.up => S::Up,
            Standing::Live => S::Down,
            Standing::Expired { .. } => S::Expired,
            Standing::Revoked { .. } | Standing::Refused(_) | Standing::Unknown => S::Revoked,
        };
        if matches!(self.me.state, S::Revoked | S::Expired) && self.me.state != before {
            self.retire(now);
        }
        let wanted = (self.me.state == S::Up).then(|| self.interface());
        if wanted != self.me.interface {
            self.me.interface = wanted.clone();
            self.outputs.push_back(Output::Configure(wanted));
            self.peers.note_slots_changed();
        }
    }

    /// This device does not belong any more: nothing of it stays open.
    fn retire(&mut self, now: Instant) {
        let keys: Vec<_> = self.peers.iter().map(|peer| peer.key).collect();
        keys.into_iter().for_each(|key| self.drop_peer(key, now));
        self.outputs.push_back(Output::UnmapPort);
    }

    /// Looks after one peer: its handshake, how closely its path is watched, whether it may go.
    pub(super) fn handle_peer_due(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.touch(key) else { return };
        if peer.handshake_at.is_none() && peer.lacks_session(now) {
            peer.call_at(if peer.leads { now } else { now + FOLLOW_AFTER });
        }
        if peer.handshake_at.is_some_and(|at| at <= now) {
            self.shake_hands(key, now);
        }
        let Some(peer) = self.peers.touch(key) else { return };
        if peer.greeting.again_at().is_some_and(|at| at <= now) {
            // No answer through a tunnel that stands: the path may be dead.
            peer.path.restart(now);
            self.say_hello(key, now);
        }
        self.seek_introduction(key, None, now);
        let Some(peer) = self.peers.touch(key) else { return };
        // Before the look, so that data which it misses is told.
        peer.slot.watch(now);
        let need = peer.need(now);
        let (demand, next) = match need {
            Need::None => {
                if !self.is_needed_otherwise(key, now) {
                    return self.let_go(key, now);
                }
                (Demand::Idle, WARM_EVERY)
            }
            Need::Warm => (Demand::Warm, WARM_EVERY),
            Need::Active => (Demand::Active, ACTIVE_EVERY),
        };
        let Some(peer) = self.peers.touch(key) else { return };
        if need == Need::Active {
            peer.slot.watch(now + WATCHED_FOR);
        }
        peer.path.set_demand(demand, now);
        peer.path.note_traffic(peer.last_sent(), peer.last_seen(), now);
        peer.path.note_large(peer.last_large());
        self.next_look(key, now + next);
    }

    /// A peer is looked at again: by `latest`, or when a handshake or a `Hello` is due. A look that is
    /// due by now is not put off: whatever came first may come again and again.
    pub(super) fn next_look(&mut self, key: PeerKey, latest: Instant) {
        let Some(peer) = self.peers.get(key) else { return };
        if self.deadlines.get(&Timer::Peer(key)).is_some_and(|at| at <= self.last_now) {
            return;
        }
        let asking = peer.path.primary().is_none().then(|| peer.asking.due());
        let due = [peer.handshake_at, peer.greeting.again_at(), asking, Some(peer.wanted_until)];
        let due = due.into_iter().flatten();
        // What could not be done when it was due is tried at the next look.
        let due = due.filter(|at| *at > self.last_now);
        let due = due.fold(latest, Instant::min);
        self.deadlines.set(Timer::Peer(key), Some((due, "a peer's needs are looked at")));
    }

    /// A member stays, silently, for as long as it wants us: dropped, it would come back with a
    /// handshake and a greeting each time it asks. Guests and sponsors stay for as long as the join
    /// machines know them.
    fn is_needed_otherwise(&self, key: PeerKey, now: Instant) -> bool {
        let Some(peer) = self.peers.get(key) else { return false };
        match peer.who {
            Who::Member(_) => peer.may_be_wanted_by_it(now),
            Who::Sponsor | Who::Admitter => matches!(self.joins, Joins::Joiner(_)),
            Who::Guest(_) | Who::Applicant | Who::Removed(_) => peer.is_connected(),
        }
    }

    /// Somebody waits for this member until then.
    pub(super) fn want_member(
        &mut self,
        device: &DeviceId,
        purpose: Purpose,
        until: Instant,
        now: Instant,
    ) {
        let Some(key) = self.bring_member(device, purpose, now) else { return };
        if let Some(peer) = self.peers.touch(key) {
            peer.wanted_until = peer.wanted_until.max(until);
        }
    }

    pub(super) fn roll_tags(&mut self, now: Instant) {
        let in_use = self.peers.iter().map(|peer| Caller { who: peer.who, remote: peer.remote });
        let next = self.tags.roll(self.wall.at(now), in_use);
        let due = (self.wall.instant(next, now), "another hour of tags");
        self.deadlines.set(Timer::Tags, Some(due));
        let unix = self.unix(now).0;
        self.peers.iter_mut().for_each(|peer| peer.path.set_wall_clock(unix));
    }

    pub(super) fn handle_wall_clock(&mut self, unix: UnixTime, now: Instant) {
        let jumped = self.unix(now).0.abs_diff(unix.0) > 1;
        self.wall = Wall::new(unix, now);
        self.set_wall(unix, now);
        if jumped {
            self.roster_changed(now);
        }
    }

    /// Tells every part what the wall clock shows.
    pub(super) fn set_wall(&mut self, unix: UnixTime, now: Instant) {
        self.directory.set_wall(unix, now);
        self.publisher.set_wall(unix, now);
        self.beacons.set_wall(unix, now);
        self.roll_tags(now);
    }

    /// The host slept: sessions, mappings and addresses may all be gone.
    pub(super) fn handle_suspended(&mut self, now: Instant) {
        self.reach.suspect(now);
        for peer in self.peers.iter() {
            peer.slot.tunnel.lock().forget();
            self.deadlines.set(Timer::Peer(peer.key), Some((now, "the host slept")));
        }
        self.connections_changed(now);
        self.restart_paths(now);
    }

    pub(super) fn handle_interfaces(&mut self, snapshot: InterfaceSnapshot, now: Instant) {
        if snapshot == self.me.interfaces {
            return;
        }
        self.reach.handle_interfaces(&snapshot, now);
        self.publisher.stir(now);
        self.beacons.stir(now);
        self.directory.set_interfaces(&snapshot, now);
        self.directory.stir(now);
        self.me.interfaces = snapshot;
        let surroundings = self.surroundings();
        for peer in self.peers.iter_mut() {
            peer.path.set_surroundings(surroundings.clone(), now);
        }
        self.restart_paths(now);
        self.refresh_state(now);
    }

    fn restart_paths(&mut self, now: Instant) {
        let keys: Vec<_> = self.peers.iter().map(|peer| peer.key).collect();
        for key in keys {
            if let Some(peer) = self.peers.touch(key) {
                peer.path.restart(now);
            }
        }
    }

    pub(super) fn handle_dht(&mut self, event: DhtInput, now: Instant) {
        if let DhtInput::State(state, nodes) = event {
            self.me.dht = (state, nodes);
        }
        self.publisher.handle_dht(&event, now);
        self.directory.handle_dht(&event, now);
    }

    /// With no live tunnel the doorbell is rung; with none to the outside, nothing but STUN keeps our
    /// mapping open. Guests and removed devices that call count for nothing: they introduce nobody, and
    /// what they say of our address is not heard.
    pub(super) fn connections_changed(&mut self, now: Instant) {
        let lonely = !self.peers.iter().any(Peer::is_company);
        // Checks on a local path keep no mapping open.
        let is_outside = |path: Path| path.kind != api::PathKind::Lan;
        let outside = |peer: &Peer| peer.path.primary().is_some_and(is_outside);
        let enclosed = !self.peers.iter().any(|peer| peer.is_company() && outside(peer));
        self.reach.set_enclosed(enclosed, now);
        self.beacons.set_searching(lonely, now);
        self.publisher.set_lonely(lonely, now);
        self.directory.set_lonely(lonely, now);
    }

    fn save_cache(&mut self, now: Instant) {
        let published = self.publisher.export();
        // What was not said again runs out by itself, on disk too.
        if self.directory.take_news() || published != self.me.cached.published {
            let cache = Cache { devices: self.directory.export(now), published };
            if cache != self.me.cached {
                self.outputs.push_back(Output::Persist(vec![Persist::Cache(cache.encode())], None));
                self.me.cached = cache;
            }
        }
        self.deadlines.set(Timer::Cache, Some((now + CACHE_EVERY, "the cache is saved")));
    }

    fn load_cache(&mut self, bytes: &[u8]) {
        let Some(cache) = Cache::decode(bytes) else { return };
        // What cannot be read is learnt anew.
        let _ = self.directory.import(&cache.devices);
        let _ = self.publisher.import(&cache.published);
    }

    /// Where this host is, for paths.
    pub(super) fn surroundings(&self) -> Arc<Surroundings> {
        let pool = self.ledger.genesis().and_then(|genesis| genesis.pool());
        let ipv4 = pool.map(|pool| (pool.base().into(), pool.prefix_len()));
        let ipv6 = (ipv6_prefix(self.ledger.network()).into(), IPV6_PREFIX_LEN);
        let overlay: Vec<_> = ipv4.into_iter().chain([ipv6]).collect();
        let port = self.settings.listen_port;
        Arc::new(Surroundings::new(&self.me.interfaces, port, &overlay))
    }
}
