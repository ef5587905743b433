//! The append-only file of a network's signed ops.
//!
//! `"ginnelO1"`, then frames: `len` (u16, big endian, 1 to [`MAX_OP_LEN`]) ‖ `check` ‖ the op, with
//! `check` = the first 8 bytes of SHA-256(`len` ‖ op). The check is against crashes and bad disks;
//! against forgery each op has its signature.
//!
//! An append writes its frames behind the last good one and fsyncs. When the kernel reports an
//! error, of the write or of the fsync (after which it may have thrown the pages away), the file
//! is cut back to the last good frame and none of the ops counts; the next append writes there
//! again.
//!
//! What a crash can leave, and what opening makes of it:
//! * A **torn tail**, a part of the last append or zeros that the file system put there: cut off
//!   and reported. Nobody saw these ops: they are shown only after the fsync.
//! * **Damage**, anything else: the file is kept as `ops.damaged-<n>`, a new one takes its good
//!   prefix, and it is reported. The lost ops come back from other members.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{StoreError, file};
use crate::identity::hash;

/// The longest op that is kept. The longest of the protocol, a certificate, has 1 KiB; four times
/// that leaves room for kinds that are not known yet.
pub const MAX_OP_LEN: usize = 4_096;

/// Names the format and its version.
const MAGIC: &[u8; 8] = b"ginnelO1";

/// Length of what is in front of an op: its length and its check.
const FRAME_HEADER: usize = 2 + CHECK_LEN;

const CHECK_LEN: usize = 8;

/// What was found at opening.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoadedOps {
    /// The ops, in the order in which they were appended.
    pub ops: Vec<Vec<u8>>,
    /// What had to be mended, to be told to the user.
    pub mended: Option<Mended>,
}

/// What had to be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// So many bytes of an append that never ended were cut off.
    TornTail(u64),
    /// The file was damaged at this offset; it is kept under this name.
    Damaged {
        /// Where the first bad frame begins.
        offset: u64,
        /// Where the damaged file lies now.
        kept_as: PathBuf,
    },
}

impl std::fmt::Display for Mended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TornTail(bytes) => write!(
                f,
                "the last write to the membership history had not ended: its {bytes} bytes were cut off"
            ),
            Self::Damaged { offset, kept_as } => write!(
                f,
                "the membership history was damaged at byte {offset}: what was before it is kept, \
                 the rest comes back from other members, the damaged file is {}",
                kept_as.display()
            ),
        }
    }
}

/// Its name in the network's folder.
pub(super) const FILE: &str = "ops";

/// The open file, positioned behind its last good frame.
#[derive(Debug)]
pub(super) struct OpsLog {
    path: PathBuf,
    file: File,
    good_len: u64,
    /// Whether bytes of a failed append may lie behind the last good frame.
    dirty: bool,
}

impl OpsLog {
    /// Opens `ops` in the folder, made where it is missing, and mends it.
    pub(super) fn open(folder: &Path) -> Result<(Self, LoadedOps), StoreError> {
        let path = folder.join(FILE);
        let bytes = match file::read(&path)? {
            Some(bytes) => bytes,
            None => {
                file::replace(&path, MAGIC)?;
                MAGIC.to_vec().into()
            }
        };
        let scan = scan(&bytes);
        let good_len = scan.good_len as u64;
        let mended = match scan.end {
            End::Clean => None,
            End::Torn if scan.good_len >= MAGIC.len() => {
                let cut = File::options().write(true).open(&path).and_then(|file| {
                    file.set_len(good_len)?;
                    file.sync_all()
                });
                cut.map_err(|error| StoreError::io("mend", &path, error))?;
                Some(Mended::TornTail((bytes.len() - scan.good_len) as u64))
            }
            End::Torn => {
                file::replace(&path, MAGIC)?;
                Some(Mended::TornTail(bytes.len() as u64))
            }
            End::Damaged => {
                let kept_as = keep_aside(&path)?;
                let good = if scan.good_len == 0 { MAGIC } else { &bytes[..scan.good_len] };
                file::replace(&path, good)?;
                Some(Mended::Damaged { offset: good_len, kept_as })
            }
        };
        let opened = file::open_private(&path);
        let file = opened.map_err(|error| StoreError::io("open", &path, error))?;
        let log = Self { path, file, good_len: good_len.max(MAGIC.len() as u64), dirty: false };
        Ok((log, LoadedOps { ops: scan.ops, mended }))
    }

    /// Appends the ops: all or none.
    pub(super) fn append(&mut self, ops: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut frames = Vec::with_capacity(ops.iter().map(|op| FRAME_HEADER + op.len()).sum());
        for op in ops {
            if !(1..=MAX_OP_LEN).contains(&op.len()) {
                let error = io::Error::other(format!("an op has {} bytes", op.len()));
                return Err(StoreError::io("append to", &self.path, error));
            }
            let len = (op.len() as u16).to_be_bytes();
            frames.extend_from_slice(&len);
            frames.extend_from_slice(&check(len, op));
            frames.extend_from_slice(op);
        }
        if frames.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.write_durably(&frames) {
            // Where this fails too, the next append tries it again, and the next open cuts it.
            self.dirty = self.cut_back().is_err();
            return Err(StoreError::io("append to", &self.path, error));
        }
        self.good_len += frames.len() as u64;
        Ok(())
    }

    fn write_durably(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.cut_back()?;
            self.dirty = false;
        }
        self.file.write_all_at(frames, self.good_len)?;
        self.file.sync_data()
    }

    fn cut_back(&self) -> io::Result<()> {
        self.file.set_len(self.good_len)?;
        self.file.sync_data()
    }
}

/// What the bytes of the file hold.
#[derive(Debug)]
pub struct Scan {
    /// The ops up to the first frame that is not good.
    pub ops: Vec<Vec<u8>>,
    /// Up to the end of the last good frame.
    pub good_len: usize,
    /// How they end.
    pub end: End,
}

/// How the bytes end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With a good frame.
    Clean,
    /// As a crash leaves an append.
    Torn,
    /// As no crash leaves them.
    Damaged,
}

/// Reads the bytes of the file.
pub fn scan(bytes: &[u8]) -> Scan {
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let torn = MAGIC.starts_with(&bytes[..written]);
        let end = if torn { End::Torn } else { End::Damaged };
        return Scan { ops: Vec::new(), good_len: 0, end };
    };
    let mut ops = Vec::new();
    let end = loop {
        match frame(rest) {
            Ok((op, behind)) => {
                ops.push(op.to_vec());
                rest = behind;
            }
            Err(end) => break end,
        }
    };
    Scan { ops, good_len: bytes.len() - rest.len(), end }
}

/// The first op of `bytes` and what is behind its frame.
fn frame(bytes: &[u8]) -> Result<(&[u8], &[u8]), End> {
    if bytes.is_empty() {
        return Err(End::Clean);
    }
    if is_zero(bytes) {
        return Err(End::Torn);
    }
    let Some((header, behind)) = bytes.split_at_checked(FRAME_HEADER) else {
        return Err(End::Torn);
    };
    let len = [header[0], header[1]];
    let op_len = usize::from(u16::from_be_bytes(len));
    if !(1..=MAX_OP_LEN).contains(&op_len) {
        return Err(End::Damaged);
    }
    let Some((op, behind)) = behind.split_at_checked(op_len) else { return Err(End::Torn) };
    if header[2..] == check(len, op) {
        return Ok((op, behind));
    }
    // The last frame of all may be one whose pages came to the disk in part.
    Err(if behind.is_empty() || is_zero(behind) { End::Torn } else { End::Damaged })
}

fn check(len: [u8; 2], op: &[u8]) -> [u8; CHECK_LEN] {
    let digest = hash(&[&len[..], op].concat());
    std::array::from_fn(|i| digest[i])
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Gives the damaged file a second name, which it keeps when the first is replaced.
fn keep_aside(path: &Path) -> Result<PathBuf, StoreError> {
    for n in 1u32.. {
        let aside = path.with_file_name(format!("ops.damaged-{n}"));
        match fs::hard_link(path, &aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("keep the damaged file as", &aside, error)),
        }
    }
    unreachable!("a folder never holds 2^32 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn ops() -> Vec<Vec<u8>> {
        vec![b"first".to_vec(), vec![0; 40], b"third op".to_vec()]
    }

    fn written(folder: &Path) -> Vec<u8> {
        let (mut log, loaded) = OpsLog::open(folder).unwrap();
        assert_eq!(loaded, LoadedOps::default());
        log.append(&ops()[..1]).unwrap();
        log.append(&ops()[1..]).unwrap();
        fs::read(folder.join("ops")).unwrap()
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = folder();
        written(folder.path());
        let (mut log, loaded) = OpsLog::open(folder.path()).unwrap();
        assert_eq!(loaded, LoadedOps { ops: ops(), mended: None });
        log.append(&[b"fourth".to_vec()]).unwrap();
        assert_eq!(OpsLog::open(folder.path()).unwrap().1.ops.len(), 4);
    }

    #[test]
    fn a_crash_at_any_byte_keeps_every_whole_op_and_can_go_on() {
        let whole = written(folder().path());
        for len in 0..whole.len() {
            let folder = folder();
            fs::write(folder.path().join("ops"), &whole[..len]).unwrap();
            let (mut log, loaded) = OpsLog::open(folder.path()).unwrap();
            assert_eq!(loaded.ops[..], ops()[..loaded.ops.len()], "{len}");
            assert!(!matches!(loaded.mended, Some(Mended::Damaged { .. })), "{len}");
            log.append(&[b"after the crash".to_vec()]).unwrap();
            let (_, again) = OpsLog::open(folder.path()).unwrap();
            assert_eq!(again.mended, None, "{len}");
            assert_eq!(again.ops.last().unwrap(), b"after the crash");
            assert_eq!(again.ops.len(), loaded.ops.len() + 1);
        }
    }

    #[test]
    fn zeros_that_a_file_system_left_at_the_end_are_a_torn_tail() {
        let whole = written(folder().path());
        for len in [0, 3, whole.len() - 4, whole.len()] {
            let folder = folder();
            let bytes = [&whole[..len], &[0; 4_096]].concat();
            fs::write(folder.path().join("ops"), bytes).unwrap();
            let (_, loaded) = OpsLog::open(folder.path()).unwrap();
            assert!(!matches!(loaded.mended, Some(Mended::Damaged { .. })), "{len}");
            assert_eq!(loaded.ops[..], ops()[..loaded.ops.len()]);
        }
    }

    #[test]
    fn any_changed_byte_keeps_the_ops_before_it_and_the_damaged_file() {
        let whole = written(folder().path());
        for at in 0..whole.len() {
            let folder = folder();
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(folder.path().join("ops"), &bytes).unwrap();
            let (_, loaded) = OpsLog::open(folder.path()).unwrap();
            assert_eq!(loaded.ops[..], ops()[..loaded.ops.len()], "{at}");
            match loaded.mended.unwrap() {
                Mended::Damaged { offset, kept_as } => {
                    assert!(offset as usize <= at);
                    assert_eq!(fs::read(kept_as).unwrap(), bytes);
                }
                // The damage is in the last frame, or made the frame longer than the file.
                Mended::TornTail(_) => assert!(at > MAGIC.len()),
            }
            assert_eq!(OpsLog::open(folder.path()).unwrap().1.mended, None);
        }
    }

    #[test]
    fn damaged_files_are_kept_side_by_side() {
        let folder = folder();
        for n in 1..4 {
            fs::write(folder.path().join("ops"), b"not ops at all").unwrap();
            let (_, loaded) = OpsLog::open(folder.path()).unwrap();
            let kept_as = folder.path().join(format!("ops.damaged-{n}"));
            assert_eq!(loaded.mended, Some(Mended::Damaged { offset: 0, kept_as }));
        }
    }

    #[test]
    fn ops_of_impossible_length_are_not_written() {
        let folder = folder();
        let (mut log, _) = OpsLog::open(folder.path()).unwrap();
        assert!(log.append(&[vec![]]).is_err());
        assert!(log.append(&[b"good".to_vec(), vec![1; MAX_OP_LEN + 1]]).is_err());
        log.append(&[vec![1; MAX_OP_LEN]]).unwrap();
        assert_eq!(OpsLog::open(folder.path()).unwrap().1.ops, [vec![1; MAX_OP_LEN]]);
    }
}
