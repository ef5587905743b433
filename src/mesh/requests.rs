//! What local clients ask of one network, and the acts that follow.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use zeroize::Zeroizing;

use super::candidate::is_public;
use super::event::{Output, Persist, RequestId};
use super::writes::{Act, Then};
use super::*;
use crate::api::{ErrorKind, Request, Response, SCHEMA};
use crate::identity::AdminSecret;
use crate::membership::invite::Hint;
use crate::membership::policy::{MAX_REASON_LEN, clean_reason};
use crate::membership::{Author, Invite, Member, OpBody, SignedOp, Verified};
use crate::wire::control::Goodbye;
use crate::wire::saved::Intent;

/// The longest life of an invite, in seconds: 7 days.
const MAX_INVITE_LIFE: u64 = 7 * 86_400;

/// How long a first invite waits for this device's public addresses, which make a join quick.
const GATHER_TIME: Duration = Duration::from_millis(1500);

/// The life of the invite that `create` prints, in seconds: a day.
const FIRST_INVITE_LIFE: u64 = 86_400;

impl Mesh {
    pub(super) fn handle_request(&mut self, id: RequestId, request: Request, now: Instant) {
        let answer = match request {
            Request::Join { timeout_ms, .. } => {
                self.attach_join(id, Duration::from_millis(timeout_ms), now)
            }
            Request::Leave { .. } => self.leave(id, now),
            Request::Up { .. } => self.switch(id, true, now),
            Request::Down { .. } => self.switch(id, false, now),
            other => match self.check_member() {
                Err(refusal) => Some(refusal),
                Ok(()) => self.handle_member_request(id, other, now),
            },
        };
        if let Some(answer) = answer {
            self.reply(id, answer);
        }
    }

    /// The requests that only a member of the network can have answered.
    fn handle_member_request(
        &mut self,
        id: RequestId,
        request: Request,
        now: Instant,
    ) -> Option<Response> {
        match request {
            Request::Invite { name, expires_s, admin, offline, .. } => {
                self.vouched(offline, |mesh| mesh.invite(id, name, expires_s, admin, now))
            }
            Request::Ping { device, count, until_direct, timeout_ms } => {
                self.start_ping(id, &device, (count, until_direct, timeout_ms), now)
            }
            Request::Members { .. } => Some(Response::Members(self.members())),
            Request::Revoke { device, reason, offline } => {
                self.vouched(offline, |mesh| mesh.revoke(id, &device, reason, now))
            }
            Request::Log { .. } => Some(Response::Log(self.log())),
            Request::Whois { device } => Some(match self.find(&device) {
                Ok(member) => Response::Whois(api::Whois {
                    schema: SCHEMA,
                    network: self.name().unwrap_or_default().to_owned(),
                    member: self.member_entry(member),
                    address: device.parse::<IpAddr>().ok(),
                }),
                Err(refusal) => refusal,
            }),
            Request::Create { .. }
            | Request::Status
            | Request::Netcheck
            | Request::Join { .. }
            | Request::Leave { .. }
            | Request::Up { .. }
            | Request::Down { .. } => {
                Some(Response::error(ErrorKind::Failed, "this is not a matter of one network"))
            }
        }
    }

    /// Opens an invite.
    pub(super) fn invite(
        &mut self,
        id: RequestId,
        name: Option<String>,
        expires_s: u64,
        admin: bool,
        now: Instant,
    ) -> Option<Response> {
        if admin {
            let text = "this version has one admin a network: --admin is not supported yet";
            return Some(Response::error(ErrorKind::Failed, text));
        }
        if expires_s == 0 || expires_s > MAX_INVITE_LIFE {
            let text = "an invite lasts from one second to seven days";
            return Some(Response::error(ErrorKind::Usage, text));
        }
        let name = match name.map(|name| name.parse::<DeviceName>()).transpose() {
            Ok(name) => name,
            Err(error) => return Some(Response::error(ErrorKind::Usage, error.to_string())),
        };
        self.open_invite(id, name, expires_s, false, now)
    }

    /// Signs and writes an invite; the answer follows once it is on disk.
    pub(super) fn open_invite(
        &mut self,
        request: RequestId,
        name: Option<DeviceName>,
        expires_s: u64,
        created: bool,
        now: Instant,
    ) -> Option<Response> {
        let admin = self.me.identity.admin.as_ref().map(AdminSecret::public);
        if admin.is_some_and(|admin| !self.ledger.roster().may_open_invite(&admin)) {
            let text = "64 invites are open, which is the most: let some run out";
            return Some(Response::error(ErrorKind::Failed, text));
        }
        let invite = Invite::new(*self.ledger.network(), self.rng.random(), self.hints());
        let open = invite.keys().open(UnixTime(self.unix(now).0 + expires_s), false, name);
        let then = Then::Invited { request, token: invite.token(), created };
        self.act(OpBody::InviteOpen(open), then, now).err()
    }

    /// Where this device may be found at once, for an invite: the best public address and the
    /// best local one.
    fn hints(&self) -> Vec<Hint> {
        let wg = self.me.identity.wg.public();
        let endpoints = self.reach.endpoints();
        let public = endpoints.iter().find(|at| is_public(at));
        let local = endpoints.iter().find(|at| at.is_ipv4() && !is_public(at));
        public.into_iter().chain(local).map(|address| Hint { wg, address: *address }).collect()
    }

    fn revoke(
        &mut self,
        request: RequestId,
        device: &str,
        reason: Option<String>,
        now: Instant,
    ) -> Option<Response> {
        let member = match self.find(device) {
            Ok(member) => member.clone(),
            Err(refusal) => return Some(refusal),
        };
        if member.id == self.me.identity.id.public() {
            let text = "this device cannot revoke itself; use `ginnel leave`";
            return Some(Response::error(ErrorKind::Failed, text));
        }
        let reason = reason.unwrap_or_default();
        if reason.len() > MAX_REASON_LEN {
            let text = format!("a reason has at most {MAX_REASON_LEN} bytes");
            return Some(Response::error(ErrorKind::Usage, text));
        }
        let Some(secret) = &self.me.secret else {
            return Some(Response::error(ErrorKind::Failed, "this device lacks K_net"));
        };
        let body = OpBody::Revoke {
            device: member.id,
            reason: clean_reason(&reason),
            knet_generation: secret.generation,
            knet_hash: crate::identity::hash(secret.key()),
        };
        self.act(body, Then::Revoked { request }, now).err()
    }

    /// Signs `body` with the admin key and writes it; it takes effect when it is on disk.
    pub(super) fn act(&mut self, body: OpBody, then: Then, now: Instant) -> Result<(), Response> {
        let op = self.sign(body, now)?;
        let file = Persist::Ops(vec![op.signed().encode()]);
        let ticket = self.writes.wait(Act { ops: vec![op], then });
        self.outputs.push_back(Output::Persist(vec![file], Some(ticket)));
        Ok(())
    }

    fn sign(&self, body: OpBody, now: Instant) -> Result<Verified<SignedOp>, Response> {
        let refuse = |kind, text: &str| Err(Response::error(kind, text));
        let Some(admin) = &self.me.identity.admin else {
            return refuse(ErrorKind::NotPermitted, "this device is not an admin of the network");
        };
        if !self.ledger.roster().is_admin(&admin.public()) {
            return refuse(ErrorKind::NotPermitted, "this device is not an admin of the network");
        }
        if self.me.may_be_stale {
            let text = "no other device of the network has confirmed this admin's log since it \
                        started: try again when one is connected, or add --offline if the log was \
                        not restored from a backup";
            return refuse(ErrorKind::Failed, text);
        }
        if self.writes.is_signing() {
            return refuse(ErrorKind::Failed, "another change is being written; try again");
        }
        let cannot = |error: &dyn std::fmt::Display| {
            Response::error(ErrorKind::Failed, format!("cannot sign: {error}"))
        };
        let author = Author::Admin(admin.public());
        let op = self.ledger.next(author, self.unix(now), body).map_err(|e| cannot(&e))?;
        SignedOp::sign_admin(&op, admin, self.ledger.network()).map_err(|e| cannot(&e))
    }

    /// Leaves for good: says goodbye, then forgets everything.
    fn leave(&mut self, id: RequestId, now: Instant) -> Option<Response> {
        self.say_goodbye(Goodbye::Leaving, now);
        self.outputs.push_back(Output::UnmapPort);
        self.outputs.push_back(Output::Configure(None));
        self.outputs.push_back(Output::Forget);
        self.reply(id, Response::Done);
        None
    }

    /// Interface on or off; the answer follows once the intent is on disk.
    fn switch(&mut self, request: RequestId, up: bool, now: Instant) -> Option<Response> {
        use api::NetworkState as S;
        match (self.me.state, up) {
            (S::Revoked | S::Expired | S::Joining, true) => {
                return Some(Response::error(ErrorKind::Failed, self.standing_text()));
            }
            _ => self.me.up = up,
        }
        self.refresh_state(now);
        let ticket = self.writes.wait(Act { ops: Vec::new(), then: Then::Switched { request } });
        let intent = self.intent();
        self.outputs.push_back(Output::Persist(vec![intent], Some(ticket)));
        None
    }

    /// A write ended: its act takes effect, or the client hears why not.
    pub(super) fn handle_persisted(
        &mut self,
        ticket: event::Ticket,
        result: Result<(), String>,
        now: Instant,
    ) {
        let Some(act) = self.writes.done(ticket) else { return };
        if let Err(error) = result {
            return self.undo(act.then, &error);
        }
        let ids: Vec<_> = act.ops.iter().map(Verified::id).collect();
        for op in act.ops {
            // The bounds were not reached when the op was signed a moment ago; if they are now,
            // the op is on disk and the next start reports it.
            let _ = self.ledger.append(op);
        }
        if !ids.is_empty() {
            self.gossip.inserted(&ids, None, self.ledger.logs(), now);
            self.roster_changed(now);
        }
        match act.then {
            Then::Founded { request, invite: true } => {
                self.begin(&[], now);
                self.clients.founding = Some((request, now + GATHER_TIME));
            }
            Then::Founded { request, invite: false } => {
                self.begin(&[], now);
                let created = self.created(None, now);
                self.reply(request, Response::Created(created));
            }
            Then::Invited { request, token, created } => {
                self.invited(request, &token, created, now)
            }
            Then::Revoked { request } | Then::Switched { request } => {
                self.reply(request, Response::Done);
            }
            Then::Admitted { device, peer } => self.admitted(device, peer, now),
            Then::Prepared => self.start_joining(now),
            Then::Joined => self.joined(now),
        }
    }

    /// The first invite: once our addresses stand, or when it has waited long enough.
    pub(super) fn first_invite(&mut self, now: Instant) {
        let Some((request, until)) = self.clients.founding else { return };
        let reachable = self.reach.endpoints().iter().any(is_public);
        if reachable || now >= until {
            self.clients.founding = None;
            if let Some(refusal) = self.open_invite(request, None, FIRST_INVITE_LIFE, true, now) {
                self.reply(request, refusal);
            }
        }
    }

    fn undo(&mut self, then: Then, error: &str) {
        let request = match then {
            Then::Founded { request, .. } => {
                self.outputs.push_back(Output::Forget);
                Some(request)
            }
            Then::Prepared => {
                self.outputs.push_back(Output::Forget);
                self.clients.joining.pop().map(|(request, _)| request)
            }
            Then::Invited { request, .. }
            | Then::Revoked { request }
            | Then::Switched { request } => Some(request),
            Then::Admitted { device, .. } => {
                self.admission_failed(&device);
                None
            }
            Then::Joined => self.clients.joining.pop().map(|(request, _)| request),
        };
        if let Some(request) = request {
            let text = format!("nothing was changed: {error}");
            self.reply(request, Response::error(ErrorKind::Failed, text));
        }
    }

    fn invited(&mut self, request: RequestId, token: &str, created: bool, now: Instant) {
        let response = if created {
            Response::Created(self.created(Some(token.to_owned()), now))
        } else {
            let keys = token.parse::<Invite>().map(|invite| invite.keys().id);
            let open = keys.ok().and_then(|id| {
                self.ledger.roster().open_invites().find(|open| open.invite == id).cloned()
            });
            Response::Invited(api::Invited {
                schema: SCHEMA,
                invite: token.to_owned(),
                network: self.name().unwrap_or_default().to_owned(),
                expires: open.map(|open| open.expires.rfc3339()).unwrap_or_default(),
            })
        };
        self.reply(request, response);
    }

    fn created(&self, invite: Option<String>, _now: Instant) -> api::Created {
        let me = self.ledger.roster().get(&self.me.identity.id.public());
        api::Created {
            schema: SCHEMA,
            network: self.name().unwrap_or_default().to_owned(),
            id: self.ledger.network().to_string(),
            ipv4: me.and_then(|me| me.ipv4),
            ipv6: self.ipv6(),
            invite,
        }
    }

    /// The live member that `text` names.
    pub(super) fn find(&self, text: &str) -> Result<&Member, Response> {
        self.ledger
            .roster()
            .by_prefix(text)
            .map_err(|error| Response::error(ErrorKind::NotFound, error.to_string()))
    }

    /// Refuses where this device is not a member (any more).
    fn check_member(&self) -> Result<(), Response> {
        use api::NetworkState as S;
        match self.me.state {
            S::Up | S::Down => Ok(()),
            S::Joining | S::Revoked | S::Expired => {
                Err(Response::error(ErrorKind::Failed, self.standing_text()))
            }
        }
    }

    pub(super) fn reply(&mut self, id: RequestId, response: Response) {
        self.outputs.push_back(Output::Reply(id, response));
    }

    pub(super) fn intent(&self) -> Persist {
        self.intent_of(match &self.joins {
            Joins::Joiner(joiner) => Some(joiner.invite()),
            Joins::Sponsor(_) => None,
        })
    }

    /// What the user wants, with the invite of a join that is not finished.
    pub(super) fn intent_of(&self, invite: Option<&Invite>) -> Persist {
        let intent = Intent {
            name: self.me.name.clone(),
            up: self.me.up,
            invite: invite.map(|invite| invite.token().to_string()),
            interface: self.settings.interface.clone(),
            port: self.settings.listen_port,
        };
        Persist::Intent(intent.encode())
    }

    pub(super) fn secrets(&self) -> Persist {
        let secret = self.me.secret.as_ref();
        Persist::Secrets(secret.map_or_else(Zeroizing::default, NetworkSecret::encode))
    }
}
