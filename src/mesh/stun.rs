//! STUN messages that arrive: answers of reflectors, answers to our path checks, and checks.

use std::net::SocketAddr;
use std::time::Instant;

use super::members::members_but;
use super::tags::Caller;
use super::*;
use crate::wire::stun::{self, CheckKey, CheckRequest, CheckResponse, StunResponse};

/// Whose a STUN message is, by its own word.
enum Sender {
    /// A check of this caller's, under this key.
    Checker(Caller, CheckKey),
    /// The answer of a reflector.
    Reflector,
    /// The answer to our check of this peer.
    Checked(PeerKey),
}

impl Mesh {
    /// Whether a STUN message is from somebody whom we know, or answers what we asked, by its own
    /// word.
    pub(super) fn expects_stun(&mut self, bytes: &[u8]) -> Result<(), InputError> {
        self.stun_sender(bytes).map(drop)
    }

    fn stun_sender(&mut self, bytes: &[u8]) -> Result<Sender, InputError> {
        let sender = match stun::Envelope::peek(bytes).map_err(|_| InputError::Malformed)? {
            stun::Envelope::Request(tag) => {
                let members = members_but(&self.me, &self.ledger, &self.joins);
                let found = self.tags.find(&tag, members);
                found.map(|(caller, key)| Sender::Checker(caller, key.clone()))
            }
            stun::Envelope::Response(transaction) if self.reach.awaits(&transaction) => {
                Some(Sender::Reflector)
            }
            stun::Envelope::Response(_) => self.peers.checked(bytes).map(Sender::Checked),
        };
        sender.ok_or(InputError::Stranger)
    }

    /// A STUN message leaves; the workers let the answer through where it is a question.
    pub(super) fn expect_answer(&self, message: &[u8]) {
        if let Some(transaction) = stun::question(message) {
            self.tags.expected().expect_answer(transaction);
        }
    }

    /// A STUN message: an answer of a reflector, an answer to a check, or a check.
    pub(super) fn handle_stun(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), InputError> {
        match self.stun_sender(bytes)? {
            Sender::Checker(caller, key) => {
                let request =
                    CheckRequest::decode(bytes, &key).map_err(|_| InputError::NotAuthentic)?;
                let peer = self.bring(caller, now).ok_or(InputError::TooMany)?;
                let peer = self.peers.touch(peer).ok_or(InputError::Stranger)?;
                // The peer's own rate first: one check, replayed by whoever saw it, must not use
                // up the answers that all the others' paths live on.
                if !peer.path.would_answer(from, &request, now) || !self.tags.may_answer(now) {
                    return Err(InputError::TooMany);
                }
                peer.path.handle_request(from, &request, now);
            }
            Sender::Reflector => {
                let response = StunResponse::decode(bytes).map_err(|_| InputError::Malformed)?;
                self.reach.handle_stun(from, &response, now);
            }
            Sender::Checked(key) => {
                let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
                let response = CheckResponse::decode(bytes, peer.path.key());
                let response = response.map_err(|_| InputError::NotAuthentic)?;
                peer.path.handle_response(from, &response, now);
            }
        }
        Ok(())
    }
}
