//! Probes through the tunnel that a local client asked for: one a second, each answered by the
//! device itself, so that what is measured is the path and not the other host's firewall.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::event::RequestId;
use super::peer::{Peer, Purpose};
use super::sessions::WANTED_FOR;
use super::*;
use crate::api::{ErrorKind, PingSummary, Pong, Response, SCHEMA};
use crate::identity::DeviceId;

/// Between two probes, as ping(8) has it.
const INTERVAL: Duration = Duration::from_secs(1);

/// A probe that is not answered within this time is lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often to look whether the device is connected by now, before the first probe: the answer
/// to `join` and to the first probe after it should not wait for a whole interval.
const CONNECT_POLL: Duration = Duration::from_millis(20);

/// Series of probes at once; a local user gets no more.
const MAX_SERIES: usize = 32;

/// The series of probes under way.
#[derive(Debug, Default)]
pub struct Pings {
    series: BTreeMap<RequestId, Series>,
    /// Probes on their way: whose, which, and since when.
    flying: BTreeMap<u64, (RequestId, u32, Instant)>,
}

/// One client's probes of one device.
#[derive(Debug)]
struct Series {
    device: DeviceId,
    count: Option<u32>,
    until_direct: bool,
    give_up: Instant,
    next: Instant,
    sent: u32,
    round_trips: Vec<f64>,
    path: Option<api::PathStatus>,
}

impl Pings {
    /// When something is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let next = self.series.values().map(|series| series.next.min(series.give_up)).min();
        let lost = self.flying.values().map(|(_, _, since)| *since + ANSWER_WITHIN).min();
        [next, lost].into_iter().flatten().min().map(|at| (at, "a probe is due"))
    }
}

impl Mesh {
    /// Starts a series of probes.
    pub(super) fn start_ping(
        &mut self,
        id: RequestId,
        device: &str,
        (count, until_direct, timeout_ms): (Option<u32>, bool, u64),
        now: Instant,
    ) -> Option<Response> {
        let device = match self.find(device) {
            Ok(member) => member.id,
            Err(refusal) => return Some(refusal),
        };
        if device == self.me.identity.id.public() {
            return Some(Response::error(ErrorKind::Usage, "that is this device itself"));
        }
        if self.clients.pings.series.len() >= MAX_SERIES {
            return Some(Response::error(ErrorKind::Failed, "too many pings are under way"));
        }
        let give_up = now + Duration::from_millis(timeout_ms);
        let series = Series {
            device,
            count,
            until_direct,
            give_up,
            next: now,
            sent: 0,
            round_trips: Vec::new(),
            path: None,
        };
        self.clients.pings.series.insert(id, series);
        // Not until the client's time-out: a client that names a year and goes away must not keep
        // the peer for a year. Each probe prolongs it.
        self.want_member(&device, Purpose::User, now + WANTED_FOR, now);
        self.handle_pings(now);
        None
    }

    /// The client went away.
    pub(super) fn cancel(&mut self, id: RequestId) {
        self.clients.pings.series.remove(&id);
        self.clients.joining.retain(|(request, _)| *request != id);
    }

    /// Whatever is due.
    pub(super) fn handle_pings(&mut self, now: Instant) {
        let lost = |(_, _, since): &mut (RequestId, u32, Instant)| now >= *since + ANSWER_WITHIN;
        let gone: Vec<_> =
            self.clients.pings.flying.extract_if(.., |_, probe| lost(probe)).collect();
        for (_, (id, seq, _)) in gone {
            self.probe_ended(id, Pong { seq, rtt_ms: None, path: None }, now);
        }
        let due: Vec<_> = self.clients.pings.series.keys().copied().collect();
        for id in due {
            self.advance_series(id, now);
        }
    }

    fn advance_series(&mut self, id: RequestId, now: Instant) {
        let Some(series) = self.clients.pings.series.get_mut(&id) else { return };
        if now >= series.give_up {
            return self.end_series(id);
        }
        if now < series.next || series.count.is_some_and(|count| series.sent >= count) {
            // Every probe is out: the last answers and the time-out end the series.
            if now >= series.next {
                series.next = series.give_up;
            }
            return;
        }
        let device = series.device;
        let connected = self.peers.member(&device).and_then(|key| self.peers.get(key));
        let Some(key) = connected.filter(|peer| peer.is_connected()).map(|peer| peer.key) else {
            series.next = now + CONNECT_POLL;
            return self.want_member(&device, Purpose::User, now + INTERVAL, now);
        };
        series.next = now + INTERVAL;
        series.sent += 1;
        let token = self.rng.random();
        self.clients.pings.flying.insert(token, (id, series.sent, now));
        self.probe(key, token, now);
        self.want_member(&device, Purpose::User, now + WANTED_FOR, now);
    }

    /// An answer came through the tunnel.
    pub(super) fn handle_pong(&mut self, from: PeerKey, token: u64, now: Instant) {
        let Some((id, seq, since)) = self.clients.pings.flying.remove(&token) else { return };
        let rtt = now.duration_since(since).as_secs_f64() * 1000.0;
        let path = self.peers.get(from).and_then(Peer::path_status);
        self.probe_ended(id, Pong { seq, rtt_ms: Some(rtt), path }, now);
    }

    fn probe_ended(&mut self, id: RequestId, pong: Pong, now: Instant) {
        let Some(series) = self.clients.pings.series.get_mut(&id) else { return };
        if let Some(rtt) = pong.rtt_ms {
            series.round_trips.push(rtt);
            series.path = pong.path.clone();
        }
        let kind = pong.path.as_ref().map(|path| path.kind);
        let direct = matches!(kind, Some(api::PathKind::Direct | api::PathKind::Lan));
        let all_out = series.count.is_some_and(|count| series.sent >= count);
        let flying = self.clients.pings.flying.values().any(|(owner, _, _)| *owner == id);
        let done = (series.until_direct && direct) || (all_out && !flying) || now >= series.give_up;
        self.reply(id, Response::Pong(pong));
        if done {
            self.end_series(id);
        }
    }

    fn end_series(&mut self, id: RequestId) {
        let Some(series) = self.clients.pings.series.remove(&id) else { return };
        self.clients.pings.flying.retain(|_, (owner, _, _)| *owner != id);
        let trips = &series.round_trips;
        let fold = |pick: fn(f64, f64) -> f64| trips.iter().copied().reduce(pick);
        let member = self.ledger.roster().get(&series.device);
        let summary = PingSummary {
            schema: SCHEMA,
            device: member.map(|member| member.name.to_string()).unwrap_or_default(),
            sent: series.sent,
            received: u32::try_from(trips.len()).unwrap_or(u32::MAX),
            min_ms: fold(f64::min),
            avg_ms: (!trips.is_empty()).then(|| trips.iter().sum::<f64>() / trips.len() as f64),
            max_ms: fold(f64::max),
            path: series.path.clone(),
        };
        self.reply(id, Response::PingSummary(summary));
    }
}
