//! Files and folders that only the agent touches.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::StoreError;

/// Makes a folder for us alone, with its parents, where it is missing.
pub fn make_folder(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let failed = |error| StoreError::io("make the folder", path, error);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes a folder private that holds nothing yet; where that fails, [`check_private`] says why.
pub fn make_private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).ok();
}

/// Refuses what others may touch; `fix` is the mode for `chmod`.
pub fn check_private(path: &Path, fix: &'static str) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|error| StoreError::io("look at", path, error))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode, fix });
    }
    let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != us {
        return Err(StoreError::Foreign { path: path.to_owned(), owner, us });
    }
    Ok(())
}

/// Opens a file of ours for reading and writing, made where it is missing.
pub fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Reads a whole file; `None` where there is none.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let failed = |error| StoreError::io("read", path, error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let len = file.metadata().map_err(failed)?.len();
    // One more byte than the file has, so that reading to its end never moves the buffer, which
    // would leave a copy behind.
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(usize::MAX - 1) + 1]);
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// Replaces a file by one with these bytes: all or nothing, and on disk when it returns.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary_of(path);
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // It may hold a part of a secret.
        fs::remove_file(&temporary).ok();
        return Err(StoreError::io("write", path, error));
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes renames, new files and removals in the folder durable.
pub fn sync_folder(path: &Path) -> Result<(), StoreError> {
    // A relative path of one component has the parent "".
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StoreError::io("sync the folder", path, error))
}

/// The paths of a folder's entries, sorted.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |error| StoreError::io("list the folder", folder, error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Removes what an interrupted [`replace`] left in the folder.
pub fn remove_temporaries(folder: &Path) -> Result<(), StoreError> {
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            shred(&path)?;
        }
    }
    Ok(())
}

/// Overwrites a file, or all files in a folder, best effort, and removes them; that they are not
/// there is fine.
pub fn shred(path: &Path) -> Result<(), StoreError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("look at", path, error)),
    };
    let removed = if metadata.is_dir() {
        for entry in list(path)? {
            shred(&entry)?;
        }
        fs::remove_dir(path)
    } else {
        // A second name of the same file (a backup by hard link) keeps its content.
        if metadata.is_file() && metadata.nlink() == 1 {
            overwrite(path, metadata.len()).ok();
        }
        fs::remove_file(path)
    };
    removed.map_err(|error| StoreError::io("remove", path, error))
}

fn temporary_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover may have any mode; create_new makes sure of ours.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn overwrite(path: &Path, len: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    io::copy(&mut io::repeat(0).take(len), &mut file)?;
    file.sync_all()
}
