//! Questions to a peer, "do you hear me at this address?", and their answers.

use std::net::SocketAddr;

use stun_codec::rfc5245::attributes::{IceControlled, IceControlling};
use stun_codec::rfc5389::attributes::{Username, XorMappedAddress};
use stun_codec::rfc5389::methods::BINDING;
use stun_codec::{Message, MessageClass};

use super::{
    Attribute, CheckKey, CheckTag, INTEGRITY_HEADER, INTEGRITY_LEN, MAX_LEN, StunError,
    TransactionId, canonical, class, encode, possible, set_length,
};

/// The type of PADDING (RFC 5780, section 7.6).
const PADDING: [u8; 2] = [0x00, 0x26];

/// A path check: "do you hear me at this address, and from where?"
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckRequest {
    /// Random; the response repeats it.
    pub transaction: TransactionId,
    /// Whose check it is.
    pub tag: CheckTag,
}

impl CheckRequest {
    /// The datagram to send.
    pub fn encode(&self, key: &CheckKey) -> Vec<u8> {
        let mut message = self.unsigned(key);
        key.sign(&mut message);
        encode(message)
    }

    /// The same, padded to `len` bytes, or the next lower multiple of four: at most [`MAX_LEN`],
    /// and no shorter than [`encode`](Self::encode)'s.
    pub fn encode_padded(&self, len: usize, key: &CheckKey) -> Vec<u8> {
        let len = len.min(MAX_LEN) / 4 * 4;
        let mut body: Vec<u8> = encode(self.unsigned(key));
        if let Some(padding) = len.checked_sub(body.len() + INTEGRITY_LEN + 4) {
            body.extend_from_slice(&PADDING);
            body.extend_from_slice(&(padding as u16).to_be_bytes());
            body.resize(body.len() + padding, 0);
            set_length(&mut body);
        }
        let integrity = key.integrity(&body).expect("our own attributes always decode");
        body.extend_from_slice(&INTEGRITY_HEADER);
        body.extend_from_slice(&integrity);
        set_length(&mut body);
        body
    }

    fn unsigned(&self, key: &CheckKey) -> Message<Attribute> {
        let mut message = Message::new(MessageClass::Request, BINDING, self.transaction);
        let name = Username::new(self.tag.digits()).expect("16 digits are a valid name");
        message.add_attribute(name);
        match key.lower {
            true => message.add_attribute(IceControlling::new(0)),
            false => message.add_attribute(IceControlled::new(0)),
        }
        message
    }

    /// The peer's request, verified.
    pub fn decode(datagram: &[u8], key: &CheckKey) -> Result<Self, StunError> {
        if class(datagram)? != MessageClass::Request {
            return Err(StunError::Class);
        }
        let message = key.verify(datagram)?;
        let controlling = message.get_attribute::<IceControlling>().is_some();
        let controlled = message.get_attribute::<IceControlled>().is_some();
        if controlling == controlled {
            return Err(StunError::Malformed);
        }
        if controlling == key.lower {
            return Err(StunError::Reflected);
        }
        let name = message.get_attribute::<Username>().ok_or(StunError::Malformed)?;
        let tag = CheckTag::from_digits(name.name().as_bytes()).ok_or(StunError::Malformed)?;
        Ok(Self { transaction: message.transaction_id(), tag })
    }
}

/// The answer to a path check: "I hear you, from this address".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckResponse {
    /// That of the request.
    pub transaction: TransactionId,
    /// Where the request came from: the asker's address as the answerer sees it.
    pub mapped: SocketAddr,
}

impl CheckResponse {
    /// The datagram to send; never longer than a request.
    pub fn encode(&self, key: &CheckKey) -> Vec<u8> {
        let mut message = Message::new(MessageClass::SuccessResponse, BINDING, self.transaction);
        message.add_attribute(XorMappedAddress::new(canonical(self.mapped)));
        key.sign(&mut message);
        encode(message)
    }

    /// The peer's response, verified.
    pub fn decode(datagram: &[u8], key: &CheckKey) -> Result<Self, StunError> {
        if class(datagram)? != MessageClass::SuccessResponse {
            return Err(StunError::Class);
        }
        let message = key.verify(datagram)?;
        let mapped = message.get_attribute::<XorMappedAddress>().ok_or(StunError::Malformed)?;
        Ok(Self { transaction: message.transaction_id(), mapped: possible(mapped.address())? })
    }
}
