//! Does what a mesh wants done, in the order in which it wants it.

use anyhow::Context;

use super::Agent;
use super::network::Network;
use super::services::Services;
use crate::identity::NetworkId;
use crate::io::clock;
use crate::io::netlink::InterfaceSettings;
use crate::io::store::{NetworkFile, StoreError};
use crate::io::tun::{TunDevice, TunOptions};
use crate::mesh::event::{Input, InterfaceConfig, Output, Persist, Ticket, Transmit};

impl Agent {
    /// Does every output of every network, and what follows from them.
    pub(super) async fn do_outputs(&mut self) {
        let ids: Vec<_> = self.networks.keys().copied().collect();
        for id in ids {
            while let Some(output) = self.networks.get_mut(&id).and_then(|n| n.mesh.poll_output()) {
                self.do_output(id, output).await;
            }
            if self.networks.get(&id).is_some_and(|network| network.forgotten) {
                self.forget(id);
            }
        }
    }

    async fn do_output(&mut self, id: NetworkId, output: Output) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        match output {
            Output::Transmit(transmit) => send(network, &transmit),
            Output::Beacon(datagram) => self.services.send_beacon(&datagram),
            Output::Publish(item) => self.services.publish(item),
            Output::Lookup(key) => self.services.lookup(key),
            Output::MapPort => self.services.map_port(network.port(), true),
            Output::UnmapPort => self.services.map_port(network.port(), false),
            Output::Table(table) => network.workers.set_table(table),
            Output::Configure(interface) => {
                let offload = self.options.offload;
                let done = configure(network, &mut self.services, interface, offload).await;
                network.fault = done.err().map(|error| format!("{error:#}"));
                if let Some(fault) = &network.fault {
                    tracing::error!(network = ?id, %fault, "the interface is not as it should be");
                }
            }
            Output::Persist(files, ticket) => persist(network, files, ticket),
            Output::Reply(request, response) => self.replies.reply(request, response),
            Output::Forget => network.forgotten = true,
        }
    }

    /// Removes a network from this agent and from the disk.
    fn forget(&mut self, id: NetworkId) {
        let Some(mut network) = self.networks.remove(&id) else { return };
        network.close();
        if let Err(error) = self.store.forget(&id) {
            tracing::error!(network = ?id, %error, "the network's folder could not be removed");
        }
    }
}

fn send(network: &Network, transmit: &Transmit) {
    network.workers.expect_from(transmit.to.ip());
    let sent = match transmit.whole {
        true => network.udp.send_whole(transmit.to, &transmit.payload),
        false => network.udp.send(transmit.to, &transmit.payload, None),
    };
    if let Err(error) = sent {
        tracing::trace!(to = %transmit.to, %error, "a datagram was not sent");
    }
}

/// Makes the interface look as wanted; `None` removes it.
async fn configure(
    network: &mut Network,
    services: &mut Services,
    wanted: Option<InterfaceConfig>,
    offload: bool,
) -> anyhow::Result<()> {
    let Some(wanted) = wanted else {
        network.workers.stop_tun();
        return Ok(());
    };
    if !network.workers.has_tun() {
        let queues = network.udp.queues().len();
        let options = TunOptions { mtu: wanted.mtu, offload, queues };
        let device = TunDevice::open(&network.interface, options)?;
        network.workers.start_tun(device).context("cannot start the packet threads")?;
    }
    let settings = InterfaceSettings {
        ipv6: wanted.ipv6,
        ipv4: wanted.ipv4,
        mtu: wanted.mtu,
        routes: wanted.routes,
    };
    services.netlink.configure(&network.interface, &settings).await?;
    tracing::info!(interface = %network.interface, "the interface is on");
    Ok(())
}

/// Writes in order, up to the first failure, and answers the ticket.
fn persist(network: &mut Network, files: Vec<Persist>, ticket: Option<Ticket>) {
    let result = files.iter().try_for_each(|file| write(network, file));
    if let Err(error) = &result {
        tracing::error!(network = ?network.id, %error, "could not write to the state directory");
    }
    if let Some(ticket) = ticket {
        let result = result.map_err(|error| error.to_string());
        network.input(Input::Persisted(ticket, result), clock::now());
    }
}

fn write(network: &mut Network, file: &Persist) -> Result<(), StoreError> {
    let store = &mut network.store;
    match file {
        Persist::Ops(ops) => store.append_ops(ops),
        Persist::Identity(bytes) => store.write(NetworkFile::Identity, bytes),
        Persist::Root(bytes) => store.write(NetworkFile::Root, bytes),
        Persist::Genesis(bytes) => store.write(NetworkFile::Genesis, bytes),
        Persist::Secrets(bytes) => store.write(NetworkFile::Secrets, bytes),
        Persist::Cache(bytes) => store.write(NetworkFile::Cache, bytes),
        Persist::Intent(bytes) => store.write(NetworkFile::Intent, bytes),
    }
}
