//! What a join that failed says: what happened, and what to do.

use super::offer::OfferError;
use crate::api::{Error, ErrorKind, Stage};
use crate::wire::control::join::Refusal;

/// Nobody answered.
pub fn unreachable(message: &str) -> Error {
    Error { kind: ErrorKind::Unreachable, message: message.to_owned() }
}

/// The sponsor could not show the invite's network.
pub fn fake(error: OfferError) -> Error {
    let message = format!(
        "the device that answered does not belong to the network of this invite: {error}; \
         ask for a new invite, this one may be in wrong hands"
    );
    Error { kind: ErrorKind::Failed, message }
}

/// The sponsor refused.
pub fn refused(reason: Refusal) -> Error {
    Error { kind: ErrorKind::Failed, message: sentence(reason).to_owned() }
}

/// What took too long.
pub fn too_late(stage: Stage) -> &'static str {
    match stage {
        Stage::Searching => {
            "no device of the network could be found; check that the device which made the \
                 invite is on and reaches the Internet, and that this one does"
        }
        Stage::Reaching => {
            "a device of the network was found but could not be reached; \
                 `ginnel netcheck` on both sides shows what the NATs do"
        }
        Stage::Connected | Stage::Requested => {
            "the device that was asked did not answer in time; try again"
        }
        Stage::Admitted | Stage::Up => {
            "the network let this device in, but the interface did not come up in time; \
                 `ginnel status` shows why"
        }
    }
}

/// What happened, and what to do.
fn sentence(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Used => {
            "this invite was used by another device already; ask for a new one (`ginnel invite`)"
        }
        Refusal::Expired => "this invite has expired; ask for a new one (`ginnel invite`)",
        Refusal::Closed => "this invite was withdrawn; ask for a new one (`ginnel invite`)",
        Refusal::Unknown => {
            "the network does not know this invite; ask an admin of it for a new one"
        }
        Refusal::CannotAdmit => {
            "only devices answered that may not let others in; try again when an admin is online"
        }
        Refusal::Busy => {
            "another device is using this invite at this moment; if it was not you, \
             ask for a new one"
        }
        Refusal::BadRequest => {
            "the network refused the request of this device as malformed; check that both run \
             the same version of ginnel"
        }
        Refusal::KeyInUse => {
            "the keys of this device belong, or belonged, to another device of the network; \
             `ginnel leave` and join with a new invite"
        }
        Refusal::Failed => {
            "the admin device could not sign or write its log; its agent's log says why"
        }
        Refusal::Other => "the network refused, for a reason this version does not know; upgrade",
    }
}
