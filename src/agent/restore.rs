//! The networks as they were before a restart.

use anyhow::Context;

use super::Agent;
use crate::identity::{NetworkId, RootSecret};
use crate::io::clock;
use crate::io::store::{NetworkFile, NetworkStore};
use crate::membership::{Genesis, Logs, SignedOp, UnixTime};
use crate::mesh::ledger::{Ledger, gather};
use crate::mesh::wall::Wall;
use crate::mesh::{Mesh, Saved};
use crate::wire::record::NetworkSecret;
use crate::wire::saved::Intent;

impl Agent {
    /// Takes every network of the state folder in. One that cannot be read stops the agent: to run
    /// without it would look as if the device had left.
    pub(super) async fn restore_networks(&mut self) -> anyhow::Result<()> {
        for id in self.store.networks()? {
            self.restore(&id).await.with_context(|| {
                format!("cannot restore the network {} from {}", id, self.store.path().display())
            })?;
        }
        self.do_outputs().await;
        Ok(())
    }

    async fn restore(&mut self, id: &NetworkId) -> anyhow::Result<()> {
        if self.store.is_unfinished(id)? {
            tracing::warn!(network = ?id, "an unfinished network was removed");
            return Ok(self.store.forget(id)?);
        }
        let (store, found) = self.store.network(id)?;
        if let Some(mended) = &found.mended {
            tracing::warn!(network = ?id, "{mended}");
        }
        let identity = store.expect_identity()?;
        anyhow::ensure!(identity.network == *id, "its identity belongs to another network");
        let Some(intent) = read(&store, NetworkFile::Intent, Intent::decode)? else {
            anyhow::bail!("the file `intent` is missing");
        };
        let genesis = read(&store, NetworkFile::Genesis, |bytes| Genesis::decode(bytes).ok())?;
        let ledger = genesis.map(|genesis| {
            let logs = verify(&genesis, found.ops);
            Ledger::new(genesis, logs)
        });
        let root = read(&store, NetworkFile::Root, |bytes| {
            bytes.try_into().ok().map(RootSecret::from_seed)
        })?;
        let secret = read(&store, NetworkFile::Secrets, NetworkSecret::decode)?;
        let cache = store.read(NetworkFile::Cache)?;
        drop(store);
        let place = self.place_again(&intent)?;
        let saved = Saved {
            identity,
            root,
            ledger,
            secret,
            cache: cache.map(|bytes| bytes.to_vec()).unwrap_or_default(),
            intent,
        };
        let now = clock::now();
        let unix = Wall::new(UnixTime(clock::unix_now()), now);
        let mesh = Mesh::restore(saved, place.settings.clone(), clock::os_seed(), unix, now);
        self.adopt(mesh, place, now).await
    }

    /// The port and interface of before, as far as they are free.
    fn place_again(&self, intent: &Intent) -> anyhow::Result<super::requests::Place> {
        let wanted = match self.options.config.port {
            0 => intent.port,
            port if self.networks.is_empty() => port,
            _ => intent.port,
        };
        self.place_at(intent.interface.clone(), wanted).or_else(|error| {
            tracing::warn!(port = wanted, error = %format!("{error:#}"), "taking another port");
            self.place_at(intent.interface.clone(), 0)
        })
    }
}

/// A file's content, decoded. A file that is there and does not decode is an error that names it.
fn read<T>(
    store: &NetworkStore,
    file: NetworkFile,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> anyhow::Result<Option<T>> {
    let Some(bytes) = store.read(file)? else { return Ok(None) };
    let value = decode(&bytes);
    value
        .map(Some)
        .with_context(|| format!("the file {file:?} in {} is damaged", store.path().display()))
}

/// Every op that verifies; the rest comes back from other members.
fn verify(genesis: &Genesis, ops: Vec<Vec<u8>>) -> Logs {
    let network = genesis.network_id();
    let mut verified = Vec::with_capacity(ops.len());
    for bytes in ops {
        match SignedOp::decode(&bytes).and_then(|op| op.verify(&network)) {
            Ok(op) => verified.push(op),
            Err(reason) => tracing::warn!(%reason, "an op on disk was left out"),
        }
    }
    let (logs, left) = gather(genesis.root, verified);
    if left > 0 {
        tracing::warn!(left, "ops on disk found no place in the membership history");
    }
    logs
}
