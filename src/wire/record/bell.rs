//! The doorbell: who is awake and has no tunnel.
//!
//! One item a network and epoch, under the Ed25519 key with the seed `KDF(K_net, "bell",
//! be64(epoch))`, so that every member can write it. A writer reads, merges, and stores with `cas`.
//! It holds the latest ringers with their endpoints; one look-up finds whoever else is looking,
//! whatever the size of the network. A ring is not authentic (any member could write it) and need
//! not be: it is only a hint of an address, and a path is used only after an authenticated check.
//!
//! Plaintext: `version 1 ‖ count 1 ‖ rings`, a ring being `device 32 ‖ be32(unix) ‖ count 1 ‖
//! endpoints`, at most [`RING_LEN`] bytes.

use std::net::SocketAddr;

use super::{
    AddressKind, Epoch, EpochTime, ItemKey, NONCE_LEN, NetworkSecret, PLAIN_LEN, Reader,
    RecordError, SignedItem, endpoints, is_future, open_item, seal_item,
};
use crate::identity::blind::DhtSecret;
use crate::identity::{DeviceId, kdf};
use crate::membership::UnixTime;
use crate::wire::record::DhtKey;

/// The most ringers a doorbell holds.
pub const MAX_RINGERS: usize = 8;

/// The longest ring, in bytes: an eighth of what fits. Leaves 37 bytes of endpoints: five IPv4
/// ones, or one IPv6 and two IPv4.
const RING_LEN: usize = (PLAIN_LEN - 2) / MAX_RINGERS;

/// The most endpoints of a ring that are read: what fits into [`RING_LEN`].
const MAX_RING_ENDPOINTS: usize = 5;

/// The oldest ring that is believed, in seconds: a lonely device rings again every 10 minutes at
/// most, and its address may change at any time.
const MAX_RING_AGE_SECS: u64 = 30 * 60;

/// How far ahead of this device's clock a ring may be, in seconds.
const MAX_RING_AHEAD_SECS: u64 = 15 * 60;

/// The version of the plaintext.
const VERSION: u8 = 1;

/// One device that rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Who rings.
    pub device: DeviceId,
    /// When it last did, by its clock.
    pub at: UnixTime,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
}

impl Ring {
    /// Reads the plaintext of a doorbell. That a member wrote it, and which rings are recent, only
    /// [`Bell::open`] says.
    pub fn decode_all(plain: &[u8]) -> Result<Vec<Self>, RecordError> {
        let mut input = Reader(plain);
        if input.byte()? != VERSION {
            return Err(RecordError::Malformed);
        }
        let count = input.count(MAX_RINGERS)?;
        let rings = (0..count).map(|_| take_ring(&mut input)).collect::<Result<Vec<_>, _>>()?;
        input.finish()?;
        Ok(rings)
    }
}

/// A doorbell that was opened and checked: at most [`MAX_RINGERS`] recent rings, newest first, one
/// a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bell {
    seq: i64,
    rings: Vec<Ring>,
}

impl Bell {
    /// Seals the newest of `rings`, one a device.
    pub fn seal(
        secret: &NetworkSecret,
        epoch: Epoch,
        rings: Vec<Ring>,
        seq: i64,
        nonce: [u8; NONCE_LEN],
    ) -> SignedItem {
        let rings = newest(rings);
        let mut plain = vec![VERSION, u8::try_from(rings.len()).expect("at most 8")];
        rings.iter().for_each(|ring| put_ring(&mut plain, ring));
        seal_item(&writer(secret, epoch), secret.key(), plain, seq, nonce)
    }

    /// Checks and opens the doorbell under `key`; drops rings that are old or from the future. One that
    /// is itself from the future, by its sequence number, is refused: whoever passed it would have to
    /// go on from there, up to the last number that there is.
    pub fn open(item: &SignedItem, key: &BellKey, now: UnixTime) -> Result<Self, RecordError> {
        let plain = open_item(item, &key.item)?;
        if is_future(item.seq, now) {
            return Err(RecordError::Future);
        }
        let rings = Ring::decode_all(&plain)?;
        let recent = rings.into_iter().filter(|ring| is_recent(ring, now)).collect();
        Ok(Self { seq: item.seq, rings: newest(recent) })
    }

    /// The sequence number, for `cas`.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Who rings, newest first.
    pub fn rings(&self) -> &[Ring] {
        &self.rings
    }
}

/// The key of the doorbell in one epoch, and what opens it. Whoever needs it again keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct BellKey {
    epoch: Epoch,
    item: ItemKey,
}

impl BellKey {
    /// The key in `epoch`.
    pub fn new(secret: &NetworkSecret, epoch: Epoch) -> Self {
        let public = DhtKey(writer(secret, epoch).public());
        Self { epoch, item: ItemKey::new(public, secret.key()) }
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What to look up.
    pub fn dht(&self) -> DhtKey {
        self.item.public
    }
}

impl std::fmt::Debug for BellKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BellKey({}, [redacted])", self.epoch.0)
    }
}

/// The doorbell's epoch at `now`.
pub fn bell_epoch(secret: &NetworkSecret, now: UnixTime) -> EpochTime {
    EpochTime::new(secret, b"bell", now)
}

fn writer(secret: &NetworkSecret, epoch: Epoch) -> DhtSecret {
    DhtSecret::from_seed(&kdf(secret.key(), "bell", &epoch.0.to_be_bytes()))
}

/// The newest ring of each device, newest first, no more than fit.
fn newest(mut rings: Vec<Ring>) -> Vec<Ring> {
    rings.sort_by(|a, b| b.at.cmp(&a.at).then(a.device.cmp(&b.device)));
    let mut kept: Vec<Ring> = Vec::with_capacity(MAX_RINGERS);
    for ring in rings {
        if kept.len() < MAX_RINGERS && kept.iter().all(|other| other.device != ring.device) {
            kept.push(ring);
        }
    }
    kept
}

fn is_recent(ring: &Ring, now: UnixTime) -> bool {
    ring.at.0 <= now.0.saturating_add(MAX_RING_AHEAD_SECS)
        && ring.at.0.saturating_add(MAX_RING_AGE_SECS) >= now.0
}

fn put_ring(out: &mut Vec<u8>, ring: &Ring) {
    out.extend_from_slice(&ring.device.0);
    // Rings are young: the last 32 bits of the time, until 2106.
    out.extend_from_slice(&u32::try_from(ring.at.0).unwrap_or(u32::MAX).to_be_bytes());
    let mut room = RING_LEN - 37;
    let told: Vec<_> = ring
        .endpoints
        .iter()
        .filter(|endpoint| AddressKind::of(endpoint) != AddressKind::Unusable)
        .filter(|endpoint| {
            let fits = endpoints::len(endpoint) <= room;
            room -= if fits { endpoints::len(endpoint) } else { 0 };
            fits
        })
        .collect();
    out.push(u8::try_from(told.len()).expect("at most 5"));
    told.into_iter().for_each(|endpoint| endpoints::put(out, endpoint));
}

fn take_ring(input: &mut Reader<'_>) -> Result<Ring, RecordError> {
    let device = DeviceId(input.array()?);
    let at = UnixTime(u64::from(u32::from_be_bytes(input.array()?)));
    let endpoints = endpoints::take_list(input)?;
    if endpoints.len() > MAX_RING_ENDPOINTS {
        return Err(RecordError::Malformed);
    }
    Ok(Ring { device, at, endpoints })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const EPOCH: Epoch = Epoch(9);

    fn knet() -> NetworkSecret {
        NetworkSecret::new(1, [0x42; 32])
    }

    fn key(epoch: Epoch) -> BellKey {
        BellKey::new(&knet(), epoch)
    }

    fn ring(device: u8, age: u64) -> Ring {
        let endpoints = vec![format!("203.0.113.{device}:7").parse().unwrap()];
        Ring { device: DeviceId([device; 32]), at: UnixTime(NOW.0 - age), endpoints }
    }

    fn round_trip(rings: Vec<Ring>) -> Vec<Ring> {
        let item = Bell::seal(&knet(), EPOCH, rings, 5, [0; NONCE_LEN]);
        Bell::open(&item, &key(EPOCH), NOW).unwrap().rings().to_vec()
    }

    #[test]
    fn the_newest_eight_ringers_are_kept_one_a_device() {
        let mut rings: Vec<_> = (1..=12).map(|i| ring(i, u64::from(i))).collect();
        rings.push(ring(1, 500));
        let kept = round_trip(rings);
        assert_eq!(kept, (1..=8).map(|i| ring(i, u64::from(i))).collect::<Vec<_>>());
    }

    #[test]
    fn old_and_future_rings_are_dropped() {
        let mut future = ring(3, 0);
        future.at = UnixTime(NOW.0 + MAX_RING_AHEAD_SECS + 1);
        let kept = round_trip(vec![ring(1, 0), ring(2, MAX_RING_AGE_SECS + 1), future]);
        assert_eq!(kept, [ring(1, 0)]);
    }

    #[test]
    fn eight_of_the_longest_rings_fit() {
        let endpoints: Vec<SocketAddr> = ["[2001:db8::1]:1", "[2001:db8::2]:2", "9.9.9.1:1"]
            .into_iter()
            .chain(["9.9.9.2:1", "9.9.9.3:1", "127.0.0.1:9"])
            .map(|text| text.parse().unwrap())
            .collect();
        let rings = (1..=8).map(|i| Ring { endpoints: endpoints.clone(), ..ring(i, 0) }).collect();
        let kept = round_trip(rings);
        assert_eq!(kept.len(), 8);
        // One v6 and two v4 fit; what does not fit is passed over, in order.
        assert_eq!(kept[0].endpoints, [endpoints[0], endpoints[2], endpoints[3]]);
    }

    #[test]
    fn hostile_bells_are_refused() {
        let secret = writer(&knet(), EPOCH);
        let open = |plain: Vec<u8>| {
            let item = seal_item(&secret, knet().key(), plain, 5, [0; NONCE_LEN]);
            Bell::open(&item, &key(EPOCH), NOW)
        };
        assert_eq!(open(vec![1, 9]), Err(RecordError::Malformed));
        assert_eq!(open(vec![2, 0]), Err(RecordError::Malformed));
        assert_eq!(open(vec![1, 0, 0, 1]), Err(RecordError::Malformed));
        assert_eq!(open([vec![1, 8], vec![0xff; 598]].concat()), Err(RecordError::Malformed));
        let empty = open(vec![1, 0]).unwrap();
        assert!(empty.rings().is_empty());
        let item = Bell::seal(&knet(), EPOCH, vec![], 5, [0; NONCE_LEN]);
        assert_eq!(Bell::open(&item, &key(Epoch(10)), NOW), Err(RecordError::Key));
    }
}
