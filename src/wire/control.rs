//! The control protocol: what two devices say to each other inside their tunnel.
//!
//! **Packet.** One message is one inner packet: a 40-byte IPv6 header (RFC 8200) from `fe80::1` to
//! `fe80::2` with next header 253 (RFC 3692, for experiments) and hop limit 1, then the message.
//! Such a packet is never written to a TUN and never accepted from one. It is at most
//! [`MAX_PACKET`] bytes with its header; WireGuard's padding after it is cut by the header's length.
//!
//! **Message.** One byte of kind, then the fields in postcard's encoding. The kind is the place of
//! the variant in [`Control`], so variants are only ever appended. A kind that this version does not
//! know decodes to [`Control::Unknown`] and is ignored, which lets a later version speak first. Fields
//! are never added to a kind that was released.
//! Every list carries its bound into the decoder, which allocates no more than its input and fails
//! on trailing bytes.
//!
//! **Conversation.** Every request may be repeated and every answer may be lost: nothing here is
//! acknowledged by itself. On a tunnel between two certified devices [`Hello`] and then [`Proof`]
//! come first, each way; until both hold, nothing else is heard. Then [`Heads`], [`Fetch`] and
//! [`Ops`] keep the logs equal (`mesh::gossip`), [`Endpoints`] and [`Introduction`] tell where
//! devices are, [`Ping`] and [`Pong`] measure. A tunnel under an invite's guest key carries the
//! [`join`] messages and nothing else (`mesh::join`).

pub mod join;
pub mod sync;

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::{DeviceId, IdSecret, NetworkId, Signature, WgPublicKey};
use crate::membership::{OpId, bounded::at_most};
use crate::wire::record::NetworkSecret;

pub use sync::{
    AuthorTag, Fetch, HeadEntry, Heads, MAX_HEADS, MAX_OPS, OpBytes, Ops, Reply, first_8,
};

use join::{JoinAccepted, JoinGranted, JoinHello, JoinOffer, JoinProve, JoinRefused, JoinRequest};

/// The longest inner packet of the control protocol, with its IPv6 header: 1,280 (the smallest MTU
/// of IPv6) less 48 bytes of IPv6 and UDP and 32 of WireGuard, so that it passes any path whole.
pub const MAX_PACKET: usize = 1200;

/// The length of an IPv6 header (RFC 8200).
pub const HEADER_LEN: usize = 40;

/// The longest message.
pub const MAX_MESSAGE: usize = MAX_PACKET - HEADER_LEN;

/// "Use for experimentation and testing" (RFC 3692): no host gives it a meaning.
pub const NEXT_HEADER: u8 = 253;

/// Every control packet claims to come from here: link-local, so that no member's address can be
/// taken for it.
pub const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Every control packet claims to go here.
pub const DESTINATION: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// What [`Hello::version`] says of this program.
pub const VERSION: u16 = 1;

/// The most endpoints of one device: as many as a DHT record holds.
pub const MAX_ENDPOINTS: usize = 12;

/// The most members over whom an introduction comes. In a model of a settled network of ten thousand a
/// request comes to anybody over a dozen on average, with three tries almost surely over 24. A message
/// has room for three more.
pub const MAX_WAY: usize = 24;

/// A random value that makes a conversation fresh.
pub type Nonce = [u8; 16];

/// One message. The order of the variants is the wire format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Who speaks; the first message, each way.
    Hello(Hello),
    /// That the speaker holds the key of its `Hello`; the second, each way.
    Proof(Proof),
    /// Where the speaker's logs end.
    Heads(Heads),
    /// Asks for ops.
    Fetch(Fetch),
    /// Ops, asked for or new.
    Ops(Ops),
    /// The network's secret; only to a proven, live member.
    Secret(Secret),
    /// Where the speaker is.
    Endpoints(Endpoints),
    /// Asks to tell `device` where whoever looks for it is, and to say where `device` is.
    Introduce(IntroductionRequest),
    /// `device` wants to reach you, or is what you asked for.
    Introduced(Introduction),
    /// Asks for a [`Pong`].
    Ping(Ping),
    /// Answers a [`Ping`].
    Pong(Pong),
    /// The speaker goes away on purpose.
    Goodbye(Goodbye),
    /// A guest asks a sponsor who it is.
    JoinHello(JoinHello),
    /// The sponsor shows the network, in parts.
    JoinOffer(JoinOffer),
    /// The guest asks to be let in.
    JoinRequest(Box<JoinRequest>),
    /// The sponsor will hear the new keys.
    JoinAccepted(JoinAccepted),
    /// Over the tunnel of the new keys: here I am.
    JoinProve(JoinProve),
    /// The roster has the device.
    JoinGranted(JoinGranted),
    /// The sponsor will not.
    JoinRefused(JoinRefused),
    /// A kind of a later version; never sent.
    #[serde(skip)]
    Unknown(u8),
}

/// How many kinds this version knows.
const KINDS: u8 = 19;

/// Why bytes are not a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("longer than a control message may be")]
    TooLong,
    /// Not a control packet: another protocol, address or length.
    #[error("not a control packet")]
    NotControl,
    /// The fields do not decode, or bytes are left over.
    #[error("malformed control message")]
    Malformed,
}

impl Control {
    /// The message alone. Fails where a list is too long for a packet.
    pub fn encode(&self) -> Result<Vec<u8>, ControlError> {
        let bytes = postcard::to_allocvec(self).map_err(|_| ControlError::Malformed)?;
        if bytes.len() > MAX_MESSAGE { Err(ControlError::TooLong) } else { Ok(bytes) }
    }

    /// Reads a message: at most [`MAX_MESSAGE`] bytes, none left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(ControlError::TooLong);
        }
        match bytes.first() {
            None => Err(ControlError::Malformed),
            // Bit 7 would continue postcard's varint: such kinds are a later version's too.
            Some(kind) if *kind >= KINDS => Ok(Self::Unknown(*kind)),
            Some(_) => match postcard::take_from_bytes(bytes) {
                Ok((message, [])) => Ok(message),
                Ok(_) | Err(_) => Err(ControlError::Malformed),
            },
        }
    }

    /// The whole inner packet of the message.
    pub fn to_packet(&self) -> Result<Vec<u8>, ControlError> {
        encode_packet(&self.encode()?)
    }
}

/// Puts the IPv6 header before a message.
pub fn encode_packet(message: &[u8]) -> Result<Vec<u8>, ControlError> {
    let len = u16::try_from(message.len()).map_err(|_| ControlError::TooLong)?;
    if message.len() > MAX_MESSAGE {
        return Err(ControlError::TooLong);
    }
    let mut packet = Vec::with_capacity(HEADER_LEN + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[NEXT_HEADER, 1]);
    packet.extend_from_slice(&SOURCE.octets());
    packet.extend_from_slice(&DESTINATION.octets());
    packet.extend_from_slice(message);
    Ok(packet)
}

/// The message inside an inner packet; `NotControl` for every other packet. What follows the length
/// of the header is the tunnel's padding.
pub fn decode_packet(packet: &[u8]) -> Result<&[u8], ControlError> {
    let (header, rest) = packet.split_at_checked(HEADER_LEN).ok_or(ControlError::NotControl)?;
    let addressed = header[8..24] == SOURCE.octets() && header[24..40] == DESTINATION.octets();
    if header[0] >> 4 != 6 || header[6] != NEXT_HEADER || !addressed {
        return Err(ControlError::NotControl);
    }
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > MAX_MESSAGE {
        return Err(ControlError::TooLong);
    }
    rest.get(..len).ok_or(ControlError::NotControl)
}

/// Who speaks. Sent by both ends when a tunnel between two certified devices stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    pub version: u16,
    /// The speaker.
    pub id: DeviceId,
    /// The `Grant` that certifies it.
    pub cert: OpId,
    /// `Logs::digest` of the speaker: whether there is anything to fetch.
    pub digest: [u8; 8],
    /// The generation of the network secret it holds; 0 for none.
    pub knet_generation: u32,
    /// Fresh for this tunnel; the listener's [`Proof`] covers it.
    pub nonce: Nonce,
}

/// The type under which a [`Proof`] is signed.
const PROOF: &str = "proof";

/// Ed25519 by the speaker's `id` over both nonces and both WireGuard keys: ties the permanent key to
/// this very tunnel. Repeated with the speaker's `Hello` until the other end's proof is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The signature.
    pub signature: Signature,
}

/// One end of a tunnel, as its [`Proof`] names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofEnd {
    /// The nonce of its `Hello`.
    pub nonce: Nonce,
    /// Its WireGuard key.
    pub wg: WgPublicKey,
}

impl Proof {
    /// `key`'s proof on a tunnel between `me` and `peer`.
    pub fn sign(key: &IdSecret, network: &NetworkId, me: &ProofEnd, peer: &ProofEnd) -> Self {
        Self { signature: key.sign(PROOF, network, &proof_text(me, peer)) }
    }

    /// Whether it is `id`'s proof on the tunnel between `id` at `them` and `me`.
    pub fn verify(
        &self,
        id: &DeviceId,
        network: &NetworkId,
        them: &ProofEnd,
        me: &ProofEnd,
    ) -> bool {
        id.verify(PROOF, network, &proof_text(them, me), &self.signature)
    }
}

/// The prover's end first, so that a proof cannot be sent back as the other end's.
fn proof_text(prover: &ProofEnd, verifier: &ProofEnd) -> Vec<u8> {
    [prover.nonce.as_slice(), &verifier.nonce, &prover.wg.0, &verifier.wg.0].concat()
}

/// The network's secret (K_net) with its generation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    generation: u32,
    key: [u8; 32],
}

impl From<&NetworkSecret> for Secret {
    fn from(secret: &NetworkSecret) -> Self {
        Self { generation: secret.generation, key: *secret.key() }
    }
}

impl From<&Secret> for NetworkSecret {
    fn from(secret: &Secret) -> Self {
        Self::new(secret.generation, secret.key)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, [redacted])", self.generation)
    }
}

/// Where the speaker is. The highest `seq` is the newest: datagrams overtake one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// As in the device's DHT record: it only grows.
    pub seq: u64,
    /// Addresses of the tunnel's socket, best first.
    #[serde(deserialize_with = "at_most::<MAX_ENDPOINTS, _, _>")]
    pub endpoints: Vec<SocketAddr>,
    /// The NAT in front of it, as in the DHT record.
    pub nat: u8,
}

/// Asks that two devices be introduced to one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntroductionRequest {
    /// The device that is looked for.
    pub device: DeviceId,
    /// Where whoever looks for it is.
    pub at: Endpoints,
    /// To whom the listener passes it on where it is not connected to the device.
    pub passing: Passing,
    /// The members over whom it came to the speaker, first who looks for the device; empty where that is
    /// the speaker.
    #[serde(deserialize_with = "at_most::<MAX_WAY, _, _>")]
    pub way: Vec<DeviceId>,
}

/// A device and where it is said to be. Only a hint: addresses of a third device prove nothing
/// until a path check answers from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The device that is there.
    pub device: DeviceId,
    /// Its endpoints.
    pub at: Endpoints,
    /// The members over whom it goes on, the next one last; empty where it is meant for the listener.
    /// Nobody is on it twice.
    #[serde(deserialize_with = "at_most::<MAX_WAY, _, _>")]
    pub way: Vec<DeviceId>,
}

/// To whom a request for an introduction is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passing {
    /// To nobody.
    Never,
    /// To the member that stands nearest to the device.
    Nearest,
    /// To that one or to any, by lot.
    ByLot,
}

/// Asks for a [`Pong`] of the same token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Tells the answer from others.
    pub token: u64,
    /// Makes the packet as long as is to be measured.
    #[serde(deserialize_with = "at_most::<MAX_MESSAGE, _, _>")]
    pub padding: Vec<u8>,
}

/// Answers a [`Ping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Of the ping.
    pub token: u64,
    /// Where the speaker sees the listener.
    pub observed: Option<SocketAddr>,
}

/// Why a device goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// For good: it gives its membership up.
    Leaving,
    /// For now.
    Down,
    /// It has no use for the tunnel at present. Whoever has makes another.
    Idle,
}

#[cfg(test)]
mod tests;
