//! What a network is, fixed for ever.
//!
//! A genesis is postcard of `version u8 = 1 ‖ root_pk 32 ‖ created varint ‖ salt 16 ‖ pool ‖ name`,
//! where `pool` is `0` (the default one), `1` (no IPv4) or `2 ‖ address 4 ‖ prefix length`, and
//! `name` is a length and a DNS label. There is exactly one encoding of a genesis: a decoder
//! refuses any other, so that `network_id = H(genesis)` is the same whoever computes it.

use serde::{Deserialize, Serialize};

use super::op::OpError;
use super::policy::DeviceName;
use super::time::UnixTime;
use crate::identity::{Ipv4Pool, NetworkId, RootId, hash};

/// The only version there is.
pub const GENESIS_VERSION: u8 = 1;

/// The longest encoding, in bytes: 1 + 32 + 10 + 16 + 6 + 64 = 129 are in use, the rest is room for
/// a later version to be told apart from garbage.
pub const MAX_GENESIS_LEN: usize = 256;

/// What a network is: fixed for ever; its hash is the network's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// [`GENESIS_VERSION`].
    pub version: u8,
    /// The key that names admins and signs nothing else.
    pub root: RootId,
    /// When it was made, by the clock of the device that made it.
    pub created: UnixTime,
    /// Random: two networks of the same name, root and second are still two networks.
    pub salt: [u8; 16],
    /// Where its devices get their IPv4 addresses.
    pub ipv4_pool: GenesisPool,
    /// Its name.
    pub name: DeviceName,
}

/// The network's choice of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenesisPool {
    /// The /16 that follows from the network id.
    Default,
    /// No IPv4.
    None,
    /// This prefix.
    Named(Ipv4Pool),
}

impl Genesis {
    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a genesis has nothing that postcard cannot write")
    }

    /// Reads the wire form; at most [`MAX_GENESIS_LEN`] bytes.
    ///
    /// # Errors
    /// [`OpError::TooLong`], and [`OpError::Malformed`] for another version, trailing bytes, a name
    /// or a pool that is none, or any encoding other than the one.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpError> {
        if bytes.len() > MAX_GENESIS_LEN {
            return Err(OpError::TooLong);
        }
        let genesis: Self = postcard::from_bytes(bytes).map_err(|_| OpError::Malformed)?;
        if genesis.version != GENESIS_VERSION || genesis.encode() != bytes {
            return Err(OpError::Malformed);
        }
        Ok(genesis)
    }

    /// `H(encoded)`.
    pub fn network_id(&self) -> NetworkId {
        NetworkId(hash(&self.encode()))
    }

    /// The pool in force (the default one is computed from the network id).
    pub fn pool(&self) -> Option<Ipv4Pool> {
        match self.ipv4_pool {
            GenesisPool::Default => Some(Ipv4Pool::default_for(&self.network_id())),
            GenesisPool::None => None,
            GenesisPool::Named(pool) => Some(pool),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis(ipv4_pool: GenesisPool) -> Genesis {
        Genesis {
            version: GENESIS_VERSION,
            root: RootId([7; 32]),
            created: UnixTime(1_769_385_600),
            salt: [9; 16],
            ipv4_pool,
            name: "home".parse().unwrap(),
        }
    }

    #[test]
    fn it_reads_what_it_wrote_and_keeps_the_network_id() {
        let named = GenesisPool::Named("10.71.0.0/16".parse().unwrap());
        for pool in [GenesisPool::Default, GenesisPool::None, named] {
            let bytes = genesis(pool).encode();
            let read = Genesis::decode(&bytes).unwrap();
            assert_eq!(read, genesis(pool));
            assert_eq!(read.network_id().0, hash(&bytes));
        }
    }

    #[test]
    fn the_pool_in_force_follows_the_choice() {
        let default = genesis(GenesisPool::Default);
        assert_eq!(default.pool(), Some(Ipv4Pool::default_for(&default.network_id())));
        assert_eq!(genesis(GenesisPool::None).pool(), None);
        let pool = "10.71.0.0/16".parse().unwrap();
        assert_eq!(genesis(GenesisPool::Named(pool)).pool(), Some(pool));
    }

    #[test]
    fn every_cut_and_every_trailing_byte_is_refused() {
        let bytes = genesis(GenesisPool::Default).encode();
        for len in 0..bytes.len() {
            assert!(Genesis::decode(&bytes[..len]).is_err(), "{len}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Genesis::decode(&longer), Err(OpError::Malformed));
        longer.resize(10 * 1024, 0);
        assert_eq!(Genesis::decode(&longer), Err(OpError::TooLong));
    }

    #[test]
    fn hostile_names_pools_and_versions_are_refused() {
        let bytes = genesis(GenesisPool::Default).encode();
        let name_at = bytes.len() - 4;
        for name in [b"Home", b"ho e", b"-ome", b"hom\xff", b"h\x1b[m"] {
            let mut bad = bytes.clone();
            bad[name_at..].copy_from_slice(name);
            assert!(Genesis::decode(&bad).is_err(), "{name:?}");
        }
        let mut empty = bytes[..name_at].to_vec();
        empty[name_at - 1] = 0;
        assert!(Genesis::decode(&empty).is_err());
        let mut version = bytes.clone();
        version[0] = 2;
        assert!(Genesis::decode(&version).is_err());

        let named = genesis(GenesisPool::Named("10.71.0.0/16".parse().unwrap())).encode();
        let pool_at = named.len() - 4 - 1 - 5;
        assert_eq!(named[pool_at..pool_at + 5], [10, 71, 0, 0, 16]);
        for pool in [[10, 71, 0, 0, 33], [10, 71, 0, 1, 16], [100, 64, 0, 0, 16], [127, 0, 0, 0, 8]]
        {
            let mut bad = named.clone();
            bad[pool_at..pool_at + 5].copy_from_slice(&pool);
            assert!(Genesis::decode(&bad).is_err(), "{pool:?}");
        }
    }

    #[test]
    fn a_second_encoding_of_the_same_values_is_refused() {
        let bytes = genesis(GenesisPool::Default).encode();
        let name_at = bytes.len() - 5;
        assert_eq!(bytes[name_at], 4);
        let padded = [&bytes[..name_at], &[0x84, 0x00], &bytes[name_at + 1..]].concat();
        assert_eq!(Genesis::decode(&padded), Err(OpError::Malformed));
    }
}
