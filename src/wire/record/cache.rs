//! What a restart remembers of the DHT: losing it costs time, never correctness.
//!
//! Both forms are postcard, start with a version byte, and are refused as a whole where anything
//! about them is wrong.

use std::net::SocketAddr;

use super::{DhtKey, MAX_ENDPOINTS, RecordError};
use crate::identity::DeviceId;
use crate::membership::UnixTime;

/// The version of both forms.
const VERSION: u8 = 1;

/// The longest cache that is read, in bytes: four times what the fullest one needs.
const MAX_LEN: usize = 1 << 20;

/// The most devices whose endpoints are remembered.
pub const MAX_CACHED_DEVICES: usize = 512;

/// The most sequence numbers that are remembered: a record's two epochs, the doorbell's, and a
/// dozen invites.
pub const MAX_CACHED_SEQS: usize = 16;

/// Where a device was last known to be.
pub type CachedDevice = (DeviceId, UnixTime, Vec<SocketAddr>);

/// Encodes the first [`MAX_CACHED_DEVICES`].
pub fn encode_devices(devices: &[CachedDevice]) -> Vec<u8> {
    let devices = &devices[..devices.len().min(MAX_CACHED_DEVICES)];
    postcard::to_allocvec(&(VERSION, devices)).expect("a vector takes whatever is written")
}

/// Decodes what [`encode_devices`] wrote.
pub fn decode_devices(bytes: &[u8]) -> Result<Vec<CachedDevice>, RecordError> {
    let devices: Vec<CachedDevice> = decode(bytes)?;
    let bounded = devices.len() <= MAX_CACHED_DEVICES
        && devices.iter().all(|(_, _, endpoints)| endpoints.len() <= MAX_ENDPOINTS);
    if bounded { Ok(devices) } else { Err(RecordError::Malformed) }
}

/// Encodes the first [`MAX_CACHED_SEQS`] sequence numbers.
pub fn encode_seqs(seqs: &[(DhtKey, i64)]) -> Vec<u8> {
    let seqs: Vec<_> = seqs.iter().take(MAX_CACHED_SEQS).map(|(key, seq)| (key.0, *seq)).collect();
    postcard::to_allocvec(&(VERSION, seqs)).expect("a vector takes whatever is written")
}

/// Decodes what [`encode_seqs`] wrote.
pub fn decode_seqs(bytes: &[u8]) -> Result<Vec<(DhtKey, i64)>, RecordError> {
    let seqs: Vec<([u8; 32], i64)> = decode(bytes)?;
    if seqs.len() > MAX_CACHED_SEQS {
        return Err(RecordError::Malformed);
    }
    Ok(seqs.into_iter().map(|(key, seq)| (DhtKey(key), seq)).collect())
}

fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    if bytes.len() > MAX_LEN {
        return Err(RecordError::Length(bytes.len()));
    }
    match postcard::take_from_bytes::<(u8, T)>(bytes) {
        Ok(((VERSION, value), [])) => Ok(value),
        _ => Err(RecordError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_caches_come_back() {
        let endpoints = vec!["9.9.9.9:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()];
        let devices = vec![(DeviceId([1; 32]), UnixTime(7), endpoints)];
        assert_eq!(decode_devices(&encode_devices(&devices)).unwrap(), devices);
        let seqs = vec![(DhtKey([1; 32]), 5), (DhtKey([2; 32]), -1)];
        assert_eq!(decode_seqs(&encode_seqs(&seqs)).unwrap(), seqs);
    }

    #[test]
    fn damaged_caches_are_refused_whole() {
        let devices = vec![(DeviceId([1; 32]), UnixTime(7), vec!["9.9.9.9:1".parse().unwrap()])];
        let bytes = encode_devices(&devices);
        for cut in 0..bytes.len() {
            assert!(decode_devices(&bytes[..cut]).is_err());
        }
        let trailing = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode_devices(&trailing), Err(RecordError::Malformed));
        assert!(decode_devices(&[0xff; 64]).is_err());
        assert!(decode_seqs(&vec![1; MAX_LEN + 1]).is_err());
        // A count of 2^60 allocates nothing of the kind.
        assert!(decode_devices(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }
}
