//! The forms of what a device keeps on disk about a network beside keys and ops: what the user
//! wants, and what makes a start quick.
//!
//! Both are postcard. They are this device's own files, so a form that does not decode is a damaged
//! file, not an attack; it is refused as a whole.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::membership::DeviceName;

/// What the user wants of a network, and where on this host it lives.
#[derive(Clone, Serialize, Deserialize)]
pub struct Intent {
    /// The name this device asked for.
    pub name: DeviceName,
    /// Whether the interface shall be on.
    pub up: bool,
    /// The token of a join that is not finished.
    pub invite: Option<String>,
    /// The name of the interface.
    pub interface: String,
    /// The UDP port, which NATs on the way know.
    pub port: u16,
}

impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intent")
            .field("name", &self.name)
            .field("up", &self.up)
            .field("joining", &self.invite.is_some())
            .field("interface", &self.interface)
            .field("port", &self.port)
            .finish()
    }
}

impl Intent {
    /// The file form. It may hold an invite, which is a secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_allocvec(self).expect("an intent is texts and numbers"))
    }

    /// Reads the file form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        whole(bytes)
    }
}

/// What makes a start quick, and may be lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Where other devices were, as the directory keeps it.
    pub devices: Vec<u8>,
    /// What was published, as the publisher keeps it.
    pub published: Vec<u8>,
}

impl Cache {
    /// The file form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a cache is byte strings")
    }

    /// Reads the file form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        whole(bytes)
    }
}

/// Decodes all of `bytes`, with nothing left over.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_refused() {
        let intent = Intent {
            name: "nas".parse().unwrap(),
            up: false,
            invite: Some("ginnel1abc".to_owned()),
            interface: "ginnel0".to_owned(),
            port: 41641,
        };
        let bytes = intent.encode();
        let read = Intent::decode(&bytes).unwrap();
        assert_eq!((read.name, read.port, read.invite), (intent.name, 41641, intent.invite));
        assert!(Intent::decode(&bytes[..bytes.len() - 1]).is_none());
        assert!(Intent::decode(&[bytes.as_slice(), &[0]].concat()).is_none());
        assert!(!format!("{read:?}", read = Intent::decode(&bytes).unwrap()).contains("ginnel1"));
        let cache = Cache { devices: vec![1, 2], published: vec![3] };
        assert_eq!(Cache::decode(&cache.encode()), Some(cache));
    }
}
