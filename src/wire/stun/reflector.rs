//! Questions to STUN servers and their answers.

use std::net::SocketAddr;

use stun_codec::rfc5389::attributes::{ErrorCode, MappedAddress, XorMappedAddress};
use stun_codec::rfc5389::methods::BINDING;
use stun_codec::rfc5780::attributes::{ChangeRequest, OtherAddress};
use stun_codec::{Message, MessageClass};

use super::{Attribute, StunError, TransactionId, class, decode, encode, possible};

/// A question to a STUN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunRequest {
    /// Random; the response repeats it.
    pub transaction: TransactionId,
    /// Whether the server shall answer from its other address, and from its other port
    /// (RFC 5780, section 7.2).
    pub change: (bool, bool),
}

impl StunRequest {
    /// The datagram to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::new(MessageClass::Request, BINDING, self.transaction);
        if self.change != (false, false) {
            message.add_attribute(ChangeRequest::new(self.change.0, self.change.1));
        }
        encode::<Attribute>(message)
    }
}

/// What a STUN server said. Not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunResponse {
    /// That of the request.
    pub transaction: TransactionId,
    /// The asker's address as the server sees it, or the error code the server gave instead.
    pub mapped: Result<SocketAddr, u16>,
    /// Another address of the same server (RFC 5780, section 7.4).
    pub other: Option<SocketAddr>,
}

impl StunResponse {
    /// Reads a success or error response.
    pub fn decode(datagram: &[u8]) -> Result<Self, StunError> {
        let class = class(datagram)?;
        let message: Message<Attribute> = decode(datagram)?;
        let mapped = match class {
            MessageClass::SuccessResponse => {
                let xored = message.get_attribute().map(XorMappedAddress::address);
                let plain = || message.get_attribute().map(MappedAddress::address);
                Ok(possible(xored.or_else(plain).ok_or(StunError::Malformed)?)?)
            }
            MessageClass::ErrorResponse => {
                Err(message.get_attribute().map(ErrorCode::code).ok_or(StunError::Malformed)?)
            }
            MessageClass::Request | MessageClass::Indication => return Err(StunError::Class),
        };
        let other = message.get_attribute().map(OtherAddress::address);
        let other = other.and_then(|address| possible(address).ok());
        Ok(Self { transaction: message.transaction_id(), mapped, other })
    }
}
