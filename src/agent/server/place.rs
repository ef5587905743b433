//! The socket's place in the file system: its folder, its mode, and whose it is.
//!
//! A socket that outlived its agent (`kill -9`) is replaced, a live one never is, and neither is
//! anything that is no socket. The check and the replacement are two steps; two agents that start in
//! the same moment are told apart by the lock on their state folder, not here.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Everybody may connect; the credentials decide, not the mode.
pub(super) const SOCKET_MODE: u32 = 0o666;

/// Others must be able to reach the socket, and nobody else may put one in its place.
pub(super) const FOLDER_MODE: u32 = 0o755;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another agent is already running: it answers at {}; stop it first", .0.display())]
    Live(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is not a socket; remove it or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot make the socket {}: {reason}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

/// Listens at `path`, and makes its folder where there is none.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |reason| BindError::Io { path: path.into(), reason };
    make_folder(path).map_err(failed)?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile { path: path.into(), inode: inode(path).map_err(failed)? };
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok((listener, file))
}

/// The socket's place in the file system; removed on drop if it is still this one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Makes the socket's folder; one that exists is left as it is.
fn make_folder(socket: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    // Again, since the process's umask may have taken bits away.
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |reason| BindError::Io { path: path.into(), reason };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.into()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(_) => Err(BindError::Live(path.into())),
    }
}
