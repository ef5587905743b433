//! How things stand at one moment: every device's status, taken once.

use std::collections::BTreeSet;

use ginnel::api::{NetworkState, NetworkStatus, PeerState, PeerStatus};

use super::oracle::must_connect;
use super::world::{DeviceNo, World};

/// The status of every device.
pub struct Survey {
    statuses: Vec<NetworkStatus>,
    live: Vec<DeviceNo>,
    /// The pairs of live devices that must connect: nothing stands between them, and each knows
    /// the other. Who learnt of a newcomer can tell all it is connected with, so that in the end
    /// only those are strangers whom no third one could introduce.
    pub pairs: Vec<(DeviceNo, DeviceNo)>,
}

impl Survey {
    /// Looks at every device. Of those `sentenced` the founder knows best which are still members;
    /// what becomes of the `hostile` one is its own affair.
    pub fn take(world: &World, sentenced: &BTreeSet<DeviceNo>, hostile: Option<DeviceNo>) -> Self {
        let statuses = world.nodes.iter().map(|node| node.status(world.now())).collect();
        let mut survey = Self { statuses, live: Vec::new(), pairs: Vec::new() };
        let all = (0..world.nodes.len()).map(DeviceNo);
        let live = all.filter(|device| {
            let member = !sentenced.contains(device) || survey.knows(DeviceNo(0), *device);
            member && Some(*device) != hostile && !world.nodes[device.0].gone
        });
        survey.live = live.collect();
        let place =
            |device: &DeviceNo| world.net.situation(world.net.site_of(world.nodes[device.0].host));
        let places: Vec<_> = survey.live.iter().map(|device| (*device, place(device))).collect();
        for (a, a_is) in &places {
            for (b, b_is) in places.iter().filter(|(b, _)| a != b) {
                let acquainted = survey.knows(*a, *b) && survey.knows(*b, *a);
                if acquainted && must_connect(a_is, b_is) {
                    survey.pairs.push((*a, *b));
                }
            }
        }
        survey
    }

    /// What one says of the other, where it takes it for a member.
    fn peer(&self, one: DeviceNo, other: DeviceNo) -> Option<&PeerStatus> {
        let address = self.statuses[other.0].this.ipv6;
        self.statuses[one.0].peers.iter().find(|peer| peer.ipv6 == address)
    }

    /// Whether one takes the other for a member.
    pub fn knows(&self, one: DeviceNo, other: DeviceNo) -> bool {
        self.peer(one, other).is_some()
    }

    /// Who is not where it should be.
    pub fn apart(&self) -> Option<String> {
        let up = |device: &&DeviceNo| self.statuses[device.0].state == NetworkState::Up;
        if let Some(device) = self.live.iter().find(|device| !up(device)) {
            return Some(format!("{device:?} is {:?}", self.statuses[device.0].state));
        }
        let connected = |(a, b): &&(DeviceNo, DeviceNo)| {
            self.peer(*a, *b).is_some_and(|peer| peer.state == PeerState::Connected)
        };
        let (a, b) = self.pairs.iter().find(|pair| !connected(pair))?;
        Some(format!("{a:?} is not connected with {b:?}: {:?}", self.peer(*a, *b)))
    }

    /// Whose logs differ though they could tell each other.
    pub fn unequal(&self, world: &World) -> Option<String> {
        let digest = |device: DeviceNo| world.nodes[device.0].mesh.digest();
        let (a, b) = self.pairs.iter().find(|(a, b)| digest(*a) != digest(*b))?;
        Some(format!("{a:?} has another log than {b:?}"))
    }
}
