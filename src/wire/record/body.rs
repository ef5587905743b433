//! The record of a device: where it is.
//!
//! Plaintext: `version 1 ‖ nat 1 ‖ heads 8 ‖ endpoints ‖ relays (count 1 ‖ 32 each)`.
//!
//! The key is blinded (see [`crate::identity::blind`]) with
//! `KDF(K_net, "dht blind", id_pk ‖ be64(epoch))`.

use std::net::SocketAddr;

use super::{
    DhtKey, Epoch, EpochTime, ItemKey, NONCE_LEN, NetworkSecret, Reader, RecordError, SignedItem,
    check_age, endpoints, open_item, seal_item,
};
use crate::identity::blind::{DhtSecret, blind_public};
use crate::identity::{DeviceId, IdSecret, kdf};
use crate::membership::UnixTime;

/// The version of the plaintext.
const VERSION: u8 = 1;

/// The most relays a device names.
const MAX_RELAYS: usize = 4;

/// What a device tells those who look for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordBody {
    /// Where it may be reached, best first, at most [`endpoints::MAX_ENDPOINTS`].
    pub endpoints: Vec<SocketAddr>,
    /// Members that relay for it, at most 4.
    pub relays: Vec<DeviceId>,
    /// What its NAT does to ports, in the numbering of the reachability module; 0 = unknown.
    pub nat: u8,
    /// The digest of the logs it holds: equal digests, equal logs.
    pub heads: [u8; 8],
}

/// A record that was opened and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    device: DeviceId,
    seq: i64,
    body: RecordBody,
}

impl Record {
    /// Seals what this device tells under `epoch`; `nonce` is random and used once.
    pub fn seal(
        id: &IdSecret,
        secret: &NetworkSecret,
        epoch: Epoch,
        content: (&RecordBody, i64),
        nonce: [u8; NONCE_LEN],
    ) -> SignedItem {
        let (body, seq) = content;
        let key = DhtSecret::blinded(id, &factor(&id.public(), secret, epoch));
        seal_item(&key, secret.key(), body.encode(), seq, nonce)
    }

    /// Checks and opens the record under `key`.
    pub fn open(item: &SignedItem, key: &RecordKey, now: UnixTime) -> Result<Self, RecordError> {
        let plain = open_item(item, &key.item)?;
        check_age(item.seq, now)?;
        Ok(Self { device: key.device, seq: item.seq, body: RecordBody::decode(&plain)? })
    }

    /// Whose it is.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Its sequence number: Unix time in seconds, by the publisher's clock.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// What it tells; the endpoints are usable or private, never worse.
    pub fn body(&self) -> &RecordBody {
        &self.body
    }
}

impl RecordBody {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.nat];
        out.extend_from_slice(&self.heads);
        endpoints::put_list(&mut out, &self.endpoints);
        let relays = &self.relays[..self.relays.len().min(MAX_RELAYS)];
        out.push(u8::try_from(relays.len()).expect("at most 4"));
        relays.iter().for_each(|relay| out.extend_from_slice(&relay.0));
        out
    }

    /// Reads the plaintext of a record. That it is the device's word, only [`Record::open`] says.
    pub fn decode(plain: &[u8]) -> Result<Self, RecordError> {
        let mut input = Reader(plain);
        if input.byte()? != VERSION {
            return Err(RecordError::Malformed);
        }
        let nat = input.byte()?;
        let heads = input.array()?;
        let endpoints = endpoints::take_list(&mut input)?;
        let relays = (0..input.count(MAX_RELAYS)?)
            .map(|_| input.array().map(DeviceId))
            .collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { endpoints, relays, nat, heads })
    }
}

/// The key under which a device stores its record in one epoch, and what opens it. Computing it takes
/// as long as verifying a signature: whoever needs it again keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordKey {
    device: DeviceId,
    item: ItemKey,
}

impl RecordKey {
    /// The key of `device` in `epoch`; `None` where the id is no usable key.
    pub fn new(device: &DeviceId, secret: &NetworkSecret, epoch: Epoch) -> Option<Self> {
        let public = DhtKey(blind_public(device, &factor(device, secret, epoch))?);
        Some(Self { device: *device, item: ItemKey::new(public, secret.key()) })
    }

    /// What to look up.
    pub fn dht(&self) -> DhtKey {
        self.item.public
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordKey({:?}, [redacted])", self.device)
    }
}

/// The epoch of `device` at `now`.
pub fn device_epoch(device: &DeviceId, secret: &NetworkSecret, now: UnixTime) -> EpochTime {
    EpochTime::new(secret, &device.0, now)
}

fn factor(device: &DeviceId, secret: &NetworkSecret, epoch: Epoch) -> [u8; 32] {
    let mut context = [0; 40];
    context[..32].copy_from_slice(&device.0);
    context[32..].copy_from_slice(&epoch.0.to_be_bytes());
    *kdf(secret.key(), "dht blind", &context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::{MAX_AGE_SECS, VALUE_LEN};
    use data_encoding::HEXLOWER;

    const NOW: UnixTime = UnixTime(1_769_385_600);

    fn id() -> IdSecret {
        IdSecret::from_seed(std::array::from_fn(|i| i as u8))
    }

    fn knet() -> NetworkSecret {
        NetworkSecret::new(1, [0x42; 32])
    }

    fn body() -> RecordBody {
        RecordBody {
            endpoints: ["203.0.113.9:41641", "[2001:db8::9]:41641", "192.168.1.9:41641"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            relays: vec![DeviceId([3; 32])],
            nat: 2,
            heads: [9; 8],
        }
    }

    fn open(item: &SignedItem, now: u64) -> Result<Record, RecordError> {
        Record::open(item, &key(&id().public(), &knet(), 81915), UnixTime(now))
    }

    fn key(device: &DeviceId, secret: &NetworkSecret, epoch: u64) -> RecordKey {
        RecordKey::new(device, secret, Epoch(epoch)).unwrap()
    }

    fn sealed(seq: u64) -> SignedItem {
        let seq = i64::try_from(seq).unwrap();
        Record::seal(&id(), &knet(), Epoch(81915), (&body(), seq), [7; NONCE_LEN])
    }

    #[test]
    fn the_documented_vector_holds() {
        let device = id().public();
        assert_eq!(
            HEXLOWER.encode(&device.0),
            "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
        );
        let blinded = "039b778fa1180632674da4a428204b3dac96f83a3d975ef7b20ac713dc7e5e19";
        let key = key(&device, &knet(), 81915);
        assert_eq!(HEXLOWER.encode(&key.dht().0), blinded);
        let secret = DhtSecret::blinded(&id(), &factor(&device, &knet(), Epoch(81915)));
        assert_eq!(HEXLOWER.encode(&secret.public()), blinded);
        let signature = secret.sign(b"3:seqi1769385600e1:v3:abc");
        assert_eq!(
            HEXLOWER.encode(&signature),
            "e6ca198720923fc5c0bb14f4f785a847571dd4227e61ed87eb4025f0cbc0cd01\
             ca4635b5244b0088181f5f9ac5b23eaaa2b2f7656660ef814698f7078427ad09"
        );
    }

    #[test]
    fn a_member_opens_what_the_device_sealed() {
        let item = sealed(NOW.0);
        assert_eq!(item.value.len(), VALUE_LEN);
        let record = open(&item, NOW.0).unwrap();
        assert_eq!(record.body(), &body());
        assert_eq!(record.device(), id().public());
        assert_eq!(record.seq(), 1_769_385_600);
    }

    #[test]
    fn another_epoch_device_network_or_time_does_not_open_it() {
        let item = sealed(NOW.0);
        let (device, foreign) = (id().public(), NetworkSecret::new(1, [0x43; 32]));
        let other = IdSecret::from_seed([1; 32]).public();
        for wrong in [
            key(&device, &knet(), 81916),
            key(&other, &knet(), 81915),
            key(&device, &foreign, 81915),
        ] {
            assert_eq!(Record::open(&item, &wrong, NOW), Err(RecordError::Key));
        }
        assert_eq!(open(&item, NOW.0 + MAX_AGE_SECS + 1), Err(RecordError::Stale));
        assert_eq!(open(&item, NOW.0 - 7200), Err(RecordError::Future));
    }

    #[test]
    fn the_fullest_record_fits() {
        let full = RecordBody {
            endpoints: (0..40_u16)
                .map(|i| format!("[2001:db8::{i:x}]:9").parse().unwrap())
                .collect(),
            relays: vec![DeviceId([1; 32]); 9],
            ..body()
        };
        let item = Record::seal(&id(), &knet(), Epoch(81915), (&full, 5), [0; NONCE_LEN]);
        let record = open(&item, 5).unwrap();
        assert_eq!(record.body().endpoints.len(), 12);
        assert_eq!(record.body().relays.len(), 4);
    }

    #[test]
    fn every_truncation_and_trailing_byte_is_refused() {
        let mut plain = body().encode();
        let len = plain.len();
        for cut in 0..len {
            assert!(RecordBody::decode(&plain[..cut]).is_err(), "{cut}");
        }
        plain.resize(600, 0);
        assert_eq!(RecordBody::decode(&plain).unwrap(), body());
        plain[599] = 1;
        assert_eq!(RecordBody::decode(&plain), Err(RecordError::Malformed));
        assert_eq!(RecordBody::decode(&[0; 600]), Err(RecordError::Malformed));
        assert_eq!(RecordBody::decode(&[0xff; 600]), Err(RecordError::Malformed));
    }
}
