//! The state folder: what must survive a restart, a crash, a full disk.
//!
//! ```text
//! /var/lib/ginnel/            0700
//!   lock                      held while an agent runs; holds its process id
//!   dht-nodes  cache          of the agent, may be lost
//!   networks/<network id>/    0700, files 0600
//!     identity root genesis secrets intent cache port     each replaced as a whole
//!     ops                     append-only, see [`ops`]
//!     ops.damaged-<n>         what was found damaged, kept for the human
//!     unfinished              until the identity is there: nobody knows these keys yet
//!   trash/                    networks that were left, on their way out
//! ```
//!
//! * **Replacing** a file: write `.<name>.tmp`, fsync it, rename it over the old one, fsync the
//!   folder. A crash leaves the old file or the new one; a full disk leaves the old one and an
//!   error. Leftover temporaries are removed by the next open.
//! * **Modes**: a folder or secret file that group or others can touch, or that another user owns,
//!   is refused with the command that mends it. Silently tightening it would hide that its secrets
//!   were readable for a while. Only a state folder that is still empty is made private.
//! * **An identity that cannot be read, or is gone, is an error for ever**: it is never replaced,
//!   because whoever replaces it leaves the network without noticing.
//! * **Leaving** renames the network's folder into `trash` (atomic: the network is gone or it is
//!   not), overwrites the secrets there, best effort (a copy-on-write or flash disk may keep old
//!   blocks), and removes it. The next open finishes what a crash interrupts.
//!
//! All calls block on the disk. Secrets only ever lie in zeroizing buffers of their final size.

mod file;
pub mod ops;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::identity::{Identity, IdentityError, NetworkId};
use ops::{LoadedOps, OpsLog};

/// Marks the folder of a network that has no identity yet.
const UNFINISHED: &str = "unfinished";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent holds the lock.
    #[error(
        "another agent{} uses {}: stop it, or give this one a --state-dir of its own",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), .path.display()
    )]
    Locked {
        /// The state folder.
        path: PathBuf,
        /// The process that holds it, where it said so.
        pid: Option<u32>,
    },
    /// Others than the owner may read or write it.
    #[error("{} is open to other users (mode {mode:04o}): run `chmod {fix} {}`", .path.display(), .path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        fix: &'static str,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, and the agent runs as user {us}: run `chown -R {us} {}`", .path.display(), .path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// The identity is there and unusable; it was left as it is.
    #[error(
        "the identity {} is damaged: {reason}. It was left as it is; restore it from a backup, or remove the folder and join again", .path.display()
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: IdentityError,
    },
    /// The network was complete once, and its identity is gone.
    #[error("the identity {} is missing: restore it from a backup, or remove the folder and join again", .0.display())]
    Lost(PathBuf),
    /// No space is left.
    #[error("the disk of {} is full: nothing was changed; free some space", .0.display())]
    Full(PathBuf),
    /// The file system is read-only.
    #[error("the disk of {} is read-only: nothing was changed; mount it read-write", .0.display())]
    ReadOnly(PathBuf),
    /// Anything else.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

impl StoreError {
    fn io(what: &'static str, path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            _ => Self::Io { what, path, error },
        }
    }
}

/// A file of the agent as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentFile {
    /// Nodes of the DHT, to be quick at the next start.
    DhtNodes,
    /// Whatever else is small and may be lost.
    Cache,
}

/// A file of one network; all but `Genesis`, `Cache` and `Port` are secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFile {
    /// The keys of this device ([`Identity::encode`]).
    Identity,
    /// The network's root key; may be moved offline.
    Root,
    /// The network's genesis.
    Genesis,
    /// What only members know.
    Secrets,
    /// What makes a restart quick, and may be lost.
    Cache,
    /// Whether the interface shall be on, and the invite of a join under way.
    Intent,
    /// The UDP port that was picked once.
    Port,
}

impl AgentFile {
    fn name(self) -> &'static str {
        match self {
            Self::DhtNodes => "dht-nodes",
            Self::Cache => "cache",
        }
    }
}

impl NetworkFile {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Root => "root",
            Self::Genesis => "genesis",
            Self::Secrets => "secrets",
            Self::Cache => "cache",
            Self::Intent => "intent",
            Self::Port => "port",
        }
    }

    fn is_secret(self) -> bool {
        !matches!(self, Self::Genesis | Self::Cache | Self::Port)
    }
}

/// The state folder, held by this process until dropped.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lock: File,
}

impl Drop for Store {
    /// Closing the file would do, were there no child that was forked and has not yet called `exec`:
    /// it still has a copy, and with that the lock.
    fn drop(&mut self) {
        self.lock.unlock().ok();
    }
}

impl Store {
    /// Opens the state folder, makes it where it is missing, locks it, and finishes what a crash
    /// left half done.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        file::make_folder(root)?;
        if file::list(root)?.is_empty() {
            file::make_private(root);
        }
        file::check_private(root, "700")?;
        let lock = lock(root)?;
        for folder in ["networks", "trash"] {
            file::make_folder(&root.join(folder))?;
        }
        let store = Self { root: root.to_owned(), lock };
        file::remove_temporaries(root)?;
        for entry in file::list(&store.root.join("trash"))? {
            file::shred(&entry)?;
        }
        Ok(store)
    }

    /// The state folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The networks of this device; folders with other names are nobody's and left alone.
    pub fn networks(&self) -> Result<Vec<NetworkId>, StoreError> {
        let entries = file::list(&self.root.join("networks"))?;
        let id = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        let mut networks: Vec<NetworkId> = entries.iter().filter_map(id).collect();
        networks.sort();
        Ok(networks)
    }

    /// Whether a `create` or `join` was cut off before its identity was safe, so that nobody knows
    /// its keys. A network that *lost* its identity is not unfinished.
    ///
    /// # Errors
    /// Where the disk does not say what is there.
    pub fn is_unfinished(&self, id: &NetworkId) -> Result<bool, StoreError> {
        let has = |name| {
            let path = self.folder(id).join(name);
            path.try_exists().map_err(|error| StoreError::io("look for", &path, error))
        };
        Ok(!has(NetworkFile::Identity.name())? && (has(UNFINISHED)? || !has(ops::FILE)?))
    }

    /// Opens the folder of a network, made where it is missing, and reads its ops.
    pub fn network(&self, id: &NetworkId) -> Result<(NetworkStore, LoadedOps), StoreError> {
        let folder = self.folder(id);
        let unfinished = self.is_unfinished(id)?;
        file::make_folder(&folder)?;
        file::check_private(&folder, "700")?;
        if unfinished {
            file::replace(&folder.join(UNFINISHED), b"")?;
        } else {
            file::shred(&folder.join(UNFINISHED))?;
            file::sync_folder(&folder)?;
        }
        file::remove_temporaries(&folder)?;
        let (ops, loaded) = OpsLog::open(&folder)?;
        Ok((NetworkStore { folder, ops }, loaded))
    }

    /// Removes a network with all its secrets; that it does not exist is fine.
    pub fn forget(&self, id: &NetworkId) -> Result<(), StoreError> {
        let (folder, trash) = (self.folder(id), self.root.join("trash"));
        let target = (0u32..)
            .map(|n| trash.join(format!("{id}-{n}")))
            .find(|path| !path.exists())
            .expect("a folder never holds 2^32 entries");
        match fs::rename(&folder, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| StoreError::io("remove", &folder, error))?,
        }
        file::sync_folder(&self.root.join("networks"))?;
        file::sync_folder(&trash)?;
        // The network is gone already; what is left of it the next open removes.
        if let Err(error) = file::shred(&target) {
            tracing::warn!(%error, "a network that was left is not yet removed from the disk");
        }
        Ok(())
    }

    /// Reads a file of the agent; `None` where there is none.
    pub fn read(&self, which: AgentFile) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = file::read(&self.root.join(which.name()))?;
        Ok(bytes.map(|mut bytes| std::mem::take(&mut *bytes)))
    }

    /// Replaces a file of the agent.
    pub fn write(&self, which: AgentFile, bytes: &[u8]) -> Result<(), StoreError> {
        file::replace(&self.root.join(which.name()), bytes)
    }

    fn folder(&self, id: &NetworkId) -> PathBuf {
        self.root.join("networks").join(id.to_string())
    }
}

/// The folder of one network.
#[derive(Debug)]
pub struct NetworkStore {
    folder: PathBuf,
    ops: OpsLog,
}

impl NetworkStore {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Reads a file; `None` where there is none. Secret files that others may read are refused.
    pub fn read(&self, which: NetworkFile) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.folder.join(which.name());
        if which.is_secret() && path.exists() {
            file::check_private(&path, "600")?;
        }
        file::read(&path)
    }

    /// Replaces a file. It is on disk when this returns; after an error the old one is.
    pub fn write(&self, which: NetworkFile, bytes: &[u8]) -> Result<(), StoreError> {
        if which == NetworkFile::Identity {
            // Only a readable identity may be replaced (its WireGuard key rotates).
            self.identity()?;
        }
        file::replace(&self.folder.join(which.name()), bytes)?;
        if which == NetworkFile::Identity {
            file::shred(&self.folder.join(UNFINISHED))?;
            file::sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Removes a file for good, overwritten where it is secret: the root key that moves offline,
    /// an invite that was used.
    pub fn remove(&self, which: NetworkFile) -> Result<(), StoreError> {
        file::shred(&self.folder.join(which.name()))?;
        file::sync_folder(&self.folder)
    }

    /// The identity, which has to be there.
    ///
    /// # Errors
    /// As [`Self::identity`], and where there is none.
    pub fn expect_identity(&self) -> Result<Identity, StoreError> {
        let lost = || StoreError::Lost(self.folder.join(NetworkFile::Identity.name()));
        self.identity()?.ok_or_else(lost)
    }

    /// The identity; `None` only where there is no such file at all.
    pub fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let Some(bytes) = self.read(NetworkFile::Identity)? else { return Ok(None) };
        Identity::decode(&bytes).map(Some).map_err(|reason| StoreError::Identity {
            path: self.folder.join(NetworkFile::Identity.name()),
            reason,
        })
    }

    /// Appends signed ops; all are on disk when this returns, none counts after an error.
    pub fn append_ops(&mut self, ops: &[Vec<u8>]) -> Result<(), StoreError> {
        self.ops.append(ops)
    }
}

/// Takes the lock, which the kernel gives back however the process ends.
fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let failed = |error| StoreError::io("lock", &path, error);
    let mut lock = file::open_private(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.take(16).read_to_string(&mut holder).ok();
            return Err(StoreError::Locked {
                path: root.to_owned(),
                pid: holder.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // For the message above only; a full disk must not stop a start.
    let note = lock.set_len(0).and_then(|()| lock.rewind());
    if let Err(error) = note.and_then(|()| writeln!(lock, "{}", std::process::id())) {
        tracing::debug!(%error, "the lock file does not name us");
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::identity::{IdSecret, WgSecret};

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn identity(seed: u8) -> Zeroizing<Vec<u8>> {
        let identity = Identity {
            network: NETWORK,
            id: IdSecret::from_seed([seed; 32]),
            wg: WgSecret::from_bytes([seed; 32]),
            admin: None,
        };
        identity.encode()
    }

    fn open(root: &Path) -> (Store, NetworkStore) {
        let store = Store::open(root).unwrap();
        let (network, _) = store.network(&NETWORK).unwrap();
        (store, network)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_and_folders_are_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/state");
        let (store, network) = open(&root);
        network.write(NetworkFile::Secrets, b"k").unwrap();
        store.write(AgentFile::DhtNodes, b"n").unwrap();
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(network.path()), 0o700);
        for file in ["lock", "dht-nodes"] {
            assert_eq!(mode(&root.join(file)), 0o600, "{file}");
        }
        for file in ["secrets", "ops"] {
            assert_eq!(mode(&network.path().join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn files_are_replaced_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, network) = open(folder.path());
        assert!(network.read(NetworkFile::Cache).unwrap().is_none());
        assert!(store.read(AgentFile::Cache).unwrap().is_none());
        for content in [&b"one"[..], b"", b"a longer second version"] {
            network.write(NetworkFile::Cache, content).unwrap();
            store.write(AgentFile::Cache, content).unwrap();
            assert_eq!(network.read(NetworkFile::Cache).unwrap().unwrap()[..], *content);
            assert_eq!(store.read(AgentFile::Cache).unwrap().unwrap(), content);
        }
        network.remove(NetworkFile::Cache).unwrap();
        network.remove(NetworkFile::Cache).unwrap();
        assert!(network.read(NetworkFile::Cache).unwrap().is_none());
    }

    #[test]
    fn a_second_agent_on_the_same_state_learns_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id())
        );
        assert!(error.to_string().contains(&format!("process {}", std::process::id())));
        drop(first);
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn a_state_that_was_let_go_is_free_though_a_forked_child_has_a_copy_of_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let _copy_of_a_child = store.lock.try_clone().unwrap();
        drop(store);
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn what_others_can_touch_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let (store, network) = open(folder.path());
        for file in
            [NetworkFile::Identity, NetworkFile::Root, NetworkFile::Secrets, NetworkFile::Intent]
        {
            let path = network.path().join(file.name());
            network.write(file, &identity(1)).unwrap();
            chmod(&path, 0o644);
            let error = network.read(file).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert_eq!(fs::read(&path).unwrap(), *identity(1));
            chmod(&path, 0o600);
        }
        chmod(network.path(), 0o750);
        assert!(matches!(store.network(&NETWORK), Err(StoreError::Exposed { fix: "700", .. })));
        drop(store);
        assert_eq!(mode(folder.path()), 0o700);
        chmod(folder.path(), 0o755);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("0755") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_damaged_identity_is_named_and_never_replaced() {
        let good = identity(1);
        let mut zeroed = good.clone();
        zeroed.fill(0);
        let mut flipped = good.clone();
        flipped[50] ^= 1;
        for bad in [&good[..0], &good[..168], &zeroed, &flipped] {
            let folder = tempfile::tempdir().unwrap();
            let (store, network) = open(folder.path());
            let path = network.path().join("identity");
            file::replace(&path, bad).unwrap();
            let error = network.identity().unwrap_err();
            assert!(matches!(&error, StoreError::Identity { path: named, .. } if *named == path));
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert!(network.write(NetworkFile::Identity, &identity(2)).is_err());
            drop(store);
            let (_, network) = open(folder.path());
            assert!(network.identity().is_err());
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_good_identity_can_be_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, network) = open(folder.path());
        assert!(network.identity().unwrap().is_none());
        network.write(NetworkFile::Identity, &identity(1)).unwrap();
        network.write(NetworkFile::Identity, &identity(2)).unwrap();
        assert_eq!(network.identity().unwrap().unwrap().encode(), identity(2));
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_at_the_next_open() {
        let folder = tempfile::tempdir().unwrap();
        let (store, network) = open(folder.path());
        network.write(NetworkFile::Identity, &identity(1)).unwrap();
        let leftovers = [
            folder.path().join(".dht-nodes.tmp"),
            network.path().join(".identity.tmp"),
            folder.path().join("trash/half/secrets"),
        ];
        fs::create_dir(folder.path().join("trash/half")).unwrap();
        for leftover in &leftovers {
            fs::write(leftover, b"half").unwrap();
        }
        drop(store);
        let (_store, network) = open(folder.path());
        assert!(leftovers.iter().all(|leftover| !leftover.exists()));
        assert_eq!(network.read(NetworkFile::Identity).unwrap().unwrap(), identity(1));
    }

    #[test]
    fn a_network_is_unfinished_until_it_has_an_identity_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, network) = open(folder.path());
        network.write(NetworkFile::Root, b"r").unwrap();
        assert!(store.is_unfinished(&NETWORK).unwrap());
        network.write(NetworkFile::Identity, &identity(1)).unwrap();
        assert!(!store.is_unfinished(&NETWORK).unwrap());
        network.expect_identity().unwrap();

        fs::remove_file(network.path().join("identity")).unwrap();
        assert!(!store.is_unfinished(&NETWORK).unwrap());
        let lost = network.expect_identity().unwrap_err();
        assert!(lost.to_string().contains("identity is missing"), "{lost}");

        // A crash before anything was written.
        fs::create_dir(folder.path().join("networks").join(NetworkId([3; 32]).to_string()))
            .unwrap();
        assert!(store.is_unfinished(&NetworkId([3; 32])).unwrap());
    }

    #[test]
    fn networks_are_listed_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (store, network) = open(folder.path());
        store.network(&NetworkId([3; 32])).unwrap();
        fs::create_dir(folder.path().join("networks/not an id")).unwrap();
        assert_eq!(store.networks().unwrap(), [NetworkId([3; 32]), NETWORK]);
        network.write(NetworkFile::Secrets, b"k").unwrap();
        store.forget(&NETWORK).unwrap();
        store.forget(&NETWORK).unwrap();
        assert_eq!(store.networks().unwrap(), [NetworkId([3; 32])]);
        assert!(!network.path().exists());
        assert!(file::list(&folder.path().join("trash")).unwrap().is_empty());
    }
}
