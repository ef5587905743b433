//! This device as a member: the keys that its record and the doorbell are found and sealed with.

use crate::identity::{DeviceId, IdSecret};
use crate::membership::UnixTime;
use crate::wire::record::{
    DhtKey, Epoch, EpochTime, NetworkSecret, Record, RecordBody, SignedItem, bell_epoch, bell_key,
    device_epoch, record_key,
};

/// A device with its network's secret.
pub(super) struct Member {
    id: IdSecret,
    /// The public half of its identity.
    pub(super) device: DeviceId,
    /// The network's secret.
    pub(super) secret: NetworkSecret,
}

impl Member {
    /// The device with this identity.
    pub(super) fn new(id: IdSecret, secret: NetworkSecret) -> Self {
        Self { device: id.public(), id, secret }
    }

    /// The device's own epoch.
    pub(super) fn epoch(&self, unix: UnixTime) -> EpochTime {
        device_epoch(&self.device, &self.secret, unix)
    }

    /// Where its record of that epoch is stored.
    pub(super) fn record_key(&self, epoch: Epoch) -> DhtKey {
        record_key(&self.device, &self.secret, epoch).expect("an own key is a usable key")
    }

    /// The record of that epoch, with its sequence number.
    pub(super) fn record(
        &self,
        epoch: Epoch,
        content: (&RecordBody, i64),
        nonce: [u8; 24],
    ) -> SignedItem {
        Record::seal(&self.id, &self.secret, epoch, content, nonce)
    }

    /// The doorbell's epoch and key.
    pub(super) fn bell(&self, unix: UnixTime) -> (Epoch, DhtKey) {
        let epoch = bell_epoch(&self.secret, unix).epoch;
        (epoch, bell_key(&self.secret, epoch))
    }
}
