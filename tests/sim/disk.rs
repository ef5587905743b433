//! A device's simulated disk: what survives a crash, and what can go wrong with it.

use std::mem::discriminant;
use std::sync::Arc;

use ginnel::identity::{Identity, RootSecret};
use ginnel::membership::{Genesis, Logs, SignedOp};
use ginnel::mesh::Saved;
use ginnel::mesh::event::Persist;
use ginnel::mesh::ledger::{Ledger, gather};
use ginnel::wire::record::NetworkSecret;
use ginnel::wire::saved::Intent;

/// What is wrong with a disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// Every write fails.
    Full,
    /// Every other write fails.
    Flaky,
}

/// The files of one network.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    /// By kind; ops are appended, of the others the newest counts.
    files: Vec<Arc<Persist>>,
    /// Whether writes fail.
    pub trouble: Trouble,
    writes: u64,
    /// How the files were before the last writes, the newest last.
    history: Vec<Vec<Arc<Persist>>>,
}

/// States that a rollback can go back to.
const HISTORY: usize = 8;

impl Disk {
    /// A disk that holds this.
    pub fn of(files: impl Iterator<Item = Arc<Persist>>) -> Self {
        Self { files: files.collect(), ..Self::default() }
    }

    /// Writes files, up to the first failure.
    pub fn write(&mut self, files: Vec<Persist>) -> Result<(), String> {
        self.history.push(self.files.clone());
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
        files.into_iter().try_for_each(|file| self.write_one(file))
    }

    fn write_one(&mut self, file: Persist) -> Result<(), String> {
        self.writes += 1;
        match self.trouble {
            Trouble::None => {}
            Trouble::Full => return Err("the disk is full".to_owned()),
            Trouble::Flaky if self.writes.is_multiple_of(2) => {
                return Err("input/output error".to_owned());
            }
            Trouble::Flaky => {}
        }
        if !matches!(file, Persist::Ops(_)) {
            self.files.retain(|old| discriminant(&**old) != discriminant(&file));
        }
        self.files.push(Arc::new(file));
        Ok(())
    }

    /// What lies on it, in bytes.
    pub fn bytes(&self) -> usize {
        let len = |file: &Arc<Persist>| match &**file {
            Persist::Ops(ops) => ops.iter().map(Vec::len).sum(),
            Persist::Genesis(bytes) | Persist::Cache(bytes) => bytes.len(),
            Persist::Identity(bytes)
            | Persist::Root(bytes)
            | Persist::Secrets(bytes)
            | Persist::Intent(bytes) => bytes.len(),
        };
        self.files.iter().map(len).sum()
    }

    /// The addresses of others are lost.
    pub fn remove_cache(&mut self) {
        self.files.retain(|file| !matches!(**file, Persist::Cache(_)));
    }

    /// The power fails in the middle of a write: only so much of it, of 256, is there afterwards.
    /// Files are replaced as a whole; of ops the store keeps those that are complete.
    pub fn tear(&mut self, files: Vec<Persist>, done: u8) {
        let part = |len: usize| len * usize::from(done) / 256;
        let whole = part(files.len());
        for (at, file) in files.into_iter().enumerate() {
            match file {
                file if at < whole => self.write_one(file).unwrap_or_default(),
                Persist::Ops(mut ops) if at == whole => {
                    ops.truncate(part(ops.len()));
                    self.write_one(Persist::Ops(ops)).unwrap_or_default();
                }
                _ => return,
            }
        }
    }

    /// The disk shows what it held so many writes ago, as after a backup was put back; not before
    /// it had joined.
    pub fn roll_back(&mut self, writes: usize) {
        let at = self.history.len().saturating_sub(writes);
        let Some(files) = self.history.get(at).cloned() else { return };
        let newer = std::mem::replace(&mut self.files, files);
        let joined = self.saved().is_some_and(|saved| saved.intent.invite.is_none());
        if joined {
            self.history.truncate(at);
        } else {
            self.files = newer;
        }
    }

    /// What a restart reads: the newest of each file, and all ops. `None` where the identity was
    /// never written: then nobody knows the device, and the agent forgets it.
    pub fn saved(&self) -> Option<Saved> {
        let genesis = self.newest(|file| match file {
            Persist::Genesis(bytes) => Some(bytes),
            _ => None,
        });
        let genesis = genesis.map(|bytes| Genesis::decode(bytes).expect("a true genesis"));
        self.saved_with(genesis.map(|genesis| {
            let logs = self.logs(&genesis);
            Ledger::new(genesis, logs)
        }))
    }

    /// The same, where the logs were read already.
    pub fn saved_with(&self, ledger: Option<Ledger>) -> Option<Saved> {
        let root = self.newest(|file| match file {
            Persist::Root(bytes) => Some(bytes),
            _ => None,
        });
        let secret = self.newest(|file| match file {
            Persist::Secrets(bytes) => Some(bytes),
            _ => None,
        });
        let cache = self.newest(|file| match file {
            Persist::Cache(bytes) => Some(bytes),
            _ => None,
        });
        let intent = self.newest(|file| match file {
            Persist::Intent(bytes) => Some(bytes),
            _ => None,
        });
        Some(Saved {
            identity: self.identity()?,
            root: root.map(|seed| RootSecret::from_seed(seed.try_into().expect("32 bytes"))),
            ledger,
            secret: secret.and_then(NetworkSecret::decode),
            cache: cache.map(<[u8]>::to_vec).unwrap_or_default(),
            intent: Intent::decode(intent.expect("the agent stops without the file `intent`"))
                .expect("a true intent"),
        })
    }

    /// The keys of the device.
    pub fn identity(&self) -> Option<Identity> {
        let bytes = self.newest(|file| match file {
            Persist::Identity(bytes) => Some(bytes),
            _ => None,
        });
        bytes.map(|bytes| Identity::decode(bytes).expect("a true identity"))
    }

    fn newest(&self, wanted: fn(&Persist) -> Option<&[u8]>) -> Option<&[u8]> {
        self.files.iter().rev().find_map(|file| wanted(file))
    }

    /// Every op that is there, in the order in which they were written.
    pub fn ops(&self) -> impl Iterator<Item = &[u8]> {
        let ops = self.files.iter().filter_map(|file| match &**file {
            Persist::Ops(ops) => Some(ops),
            _ => None,
        });
        ops.flatten().map(Vec::as_slice)
    }

    /// Ops of which an earlier one was never written, or went with a rollback, are left out, as the
    /// agent does.
    fn logs(&self, genesis: &Genesis) -> Logs {
        let network = genesis.network_id();
        let verified = self.ops().map(|op| SignedOp::decode(op).and_then(|op| op.verify(&network)));
        let verified = verified.map(|op| op.expect("only true ops are written"));
        gather(genesis.root, verified.collect()).0
    }
}
