//! What the command line and the agent say to each other: plain serde types, one JSON object a line
//! over the agent's Unix socket.
//!
//! A client sends one [`Request`] and reads [`Response`]s until one of them is
//! [final](Response::is_final). Everything here is part of the stable interface: fields are added,
//! never renamed or removed. Times are whole milliseconds unless the name says otherwise, sizes are
//! bytes, and what is absent is `null`.

mod joining;
mod members;
mod probes;
mod request;
mod status;

use serde::{Deserialize, Serialize};

pub use joining::{Created, Invited, JoinStage, Joined, Stage};
pub use members::{Log, LogEntry, MemberEntry, Members, Whois};
pub use probes::{Netcheck, NetcheckAddress, NetcheckNetwork, NetcheckStun, PingSummary, Pong};
pub use request::Request;
pub use status::{
    DhtState, DhtStatus, NatMapping, NatStatus, NetworkState, NetworkStatus, PathKind, PathStatus,
    PeerState, PeerStatus, PortMappingKind, Role, SelfStatus, Status,
};

/// The version of every JSON object that a verb prints.
pub const SCHEMA: u32 = 1;

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// A network was made.
    Created(Created),
    /// An invite was opened.
    Invited(Invited),
    /// A stage of joining was reached; more follows.
    JoinStage(JoinStage),
    /// Joined, and the interface is up.
    Joined(Joined),
    /// Done, with nothing more to say.
    Done,
    /// The state of everything.
    Status(Status),
    /// One probe came back, or did not; more follows.
    Pong(Pong),
    /// The end of a series of probes.
    PingSummary(PingSummary),
    /// What this side of the network looks like.
    Netcheck(Netcheck),
    /// The roster.
    Members(Members),
    /// The signed membership history.
    Log(Log),
    /// Who has an address or name.
    Whois(Whois),
    /// It did not work.
    Error(Error),
}

impl Response {
    /// Whether nothing follows this response.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::JoinStage(_) | Self::Pong(_))
    }

    /// An error response.
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Error(Error { kind, message: message.into() })
    }
}

/// Why something did not work: one sentence, and the kind that decides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What happened, to what, and what to do.
    pub message: String,
}

/// The kinds of failure a script can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// Exit code 1.
    Failed,
    /// Exit code 2.
    Usage,
    /// Exit code 4.
    NotPermitted,
    /// Exit code 5.
    NotFound,
    /// Exit code 6.
    Unreachable,
}

impl ErrorKind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotPermitted => 4,
            Self::NotFound => 5,
            Self::Unreachable => 6,
        }
    }
}
