//! One STUN server: the question under way and the last answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Transmit;
use crate::wire::stun::{StunRequest, TransactionId};

/// The gap before the first retransmission; it doubles each time (RFC 8489, section 6.2.1).
const RTO: Duration = Duration::from_millis(500);

/// How often a question is sent. The RFC's seven would take 39 s; after four, that is 7.5 s, the
/// server or the way to it is down, and the next round comes anyway.
const SENDS: u32 = 4;

#[derive(Debug)]
pub(super) struct Server {
    pub address: SocketAddr,
    /// Another server named it; it is not configured.
    pub learnt: bool,
    question: Option<Question>,
    answer: Option<Answer>,
    asked_ever: bool,
    /// The last question was not answered, or refused.
    silent: bool,
}

#[derive(Debug)]
struct Question {
    transaction: TransactionId,
    sent_at: Instant,
    sends: u32,
}

#[derive(Debug)]
struct Answer {
    mapped: SocketAddr,
    rtt: Duration,
    at: Instant,
}

impl Server {
    pub fn new(address: SocketAddr, learnt: bool) -> Self {
        Self { address, learnt, question: None, answer: None, asked_ever: false, silent: false }
    }

    /// It was never asked.
    pub fn is_new(&self) -> bool {
        !self.asked_ever
    }

    /// Starts a transaction. The old answer stays until this one ends.
    pub fn ask(&mut self, transaction: TransactionId, now: Instant) -> Transmit {
        self.asked_ever = true;
        self.question = Some(Question { transaction, sent_at: now, sends: 1 });
        self.request(transaction)
    }

    /// Sends the question again, or gives up.
    pub fn repeat(&mut self, now: Instant) -> Option<Transmit> {
        let question = self.question.as_mut().filter(|question| question.sends < SENDS);
        let Some(question) = question else {
            self.question = None;
            self.silent = true;
            return None;
        };
        question.sends += 1;
        question.sent_at = now;
        let transaction = question.transaction;
        Some(self.request(transaction))
    }

    /// When [`repeat`](Self::repeat) is due, while an answer is outstanding.
    pub fn due(&self) -> Option<Instant> {
        self.question.as_ref().map(|question| question.sent_at + RTO * (1 << (question.sends - 1)))
    }

    pub fn awaits(&self, transaction: &TransactionId) -> bool {
        self.question.as_ref().is_some_and(|question| question.transaction == *transaction)
    }

    /// The question was answered; `None` for an error or an address of the other family.
    pub fn answered(&mut self, mapped: Option<SocketAddr>, now: Instant) {
        let Some(question) = self.question.take() else { return };
        // From the last sending: too short if an earlier one was answered, but never too long.
        let rtt = now.saturating_duration_since(question.sent_at);
        self.silent = mapped.is_none();
        if let Some(mapped) = mapped {
            self.answer = Some(Answer { mapped, rtt, at: now });
        }
    }

    /// It says nothing, now and about the past.
    pub fn forget(&mut self) {
        self.question = None;
        self.answer = None;
    }

    /// What it saw, unless it fell silent since.
    pub fn current(&self) -> Option<SocketAddr> {
        self.last().filter(|_| !self.silent)
    }

    /// What it saw last.
    pub fn last(&self) -> Option<SocketAddr> {
        self.answer.as_ref().map(|answer| answer.mapped)
    }

    pub fn rtt(&self) -> Option<Duration> {
        self.answer.as_ref().filter(|_| !self.silent).map(|answer| answer.rtt)
    }

    pub fn answered_at(&self) -> Option<Instant> {
        self.answer.as_ref().map(|answer| answer.at)
    }

    fn request(&self, transaction: TransactionId) -> Transmit {
        let payload = StunRequest { transaction, change: (false, false) }.encode();
        Transmit::new(self.address, payload)
    }
}
