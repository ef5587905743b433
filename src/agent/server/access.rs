//! Who may do what through the socket.
//!
//! | who | may |
//! |---|---|
//! | root, and the user the agent runs as | change |
//! | members of group `ginnel-admin` | change |
//! | members of group `ginnel` | read |
//! | anybody else | nothing |
//!
//! The kernel says who connected (`SO_PEERCRED`: user, primary group and process at the time of
//! `connect`). Further groups come from two places, and either suffices:
//!
//! * the local group file, by the user's name: needs no new login after `usermod -aG`, and cannot
//!   be raced, since it depends on nothing but the user id;
//! * `/proc/<pid>/status` of the process that connected: knows groups that a directory service
//!   gave. A process id may have passed to another process in between, so this counts only while
//!   all four user ids there are those of the peer; then it is the same user either way.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::net::unix::UCred;

/// The group that may change.
pub const ADMIN_GROUP: &str = "ginnel-admin";

/// The group that may read.
pub const READER_GROUP: &str = "ginnel";

/// A user or group file beyond this is cut; it holds some 10^5 accounts.
const MAX_FILE_LEN: u64 = 16 << 20;

/// What a client may do; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Nothing.
    None,
    /// Ask what changes nothing.
    Read,
    /// Ask everything.
    Change,
}

/// Where the answer is looked up.
#[derive(Debug, Clone)]
pub struct Access {
    own_uid: u32,
    passwd: PathBuf,
    group: PathBuf,
    proc: PathBuf,
}

impl Access {
    /// The files of this host, and the user of this process.
    pub fn of_this_host() -> Self {
        Self {
            own_uid: rustix::process::geteuid().as_raw(),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            proc: "/proc".into(),
        }
    }

    /// What the process at the other end may do.
    pub fn rights(&self, peer: &UCred) -> Rights {
        self.rights_of(peer.uid(), peer.gid(), peer.pid())
    }

    fn rights_of(&self, uid: u32, gid: u32, pid: Option<i32>) -> Rights {
        if uid == 0 || uid == self.own_uid {
            return Rights::Change;
        }
        let (names, mut gids) = self.user(uid);
        gids.push(gid);
        gids.extend(pid.map(|pid| self.process_groups(pid, uid)).unwrap_or_default());
        let groups = read(&self.group);
        if is_member(&groups, ADMIN_GROUP, &names, &gids) {
            Rights::Change
        } else if is_member(&groups, READER_GROUP, &names, &gids) {
            Rights::Read
        } else {
            Rights::None
        }
    }

    /// The names of a user id and their primary groups (`name:password:uid:gid:…`).
    fn user(&self, uid: u32) -> (Vec<String>, Vec<u32>) {
        let passwd = read(&self.passwd);
        let accounts = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid))
                .then(|| (name.to_owned(), fields.next().and_then(|gid| gid.parse().ok())))
        });
        let (names, gids): (_, Vec<_>) = accounts.unzip();
        (names, gids.into_iter().flatten().collect())
    }

    /// The groups of a process, if it still runs as `uid` and nobody else.
    fn process_groups(&self, pid: i32, uid: u32) -> Vec<u32> {
        let status = read(&self.proc.join(pid.to_string()).join("status"));
        let numbers = |key: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        if numbers("Uid:") == [uid; 4] { numbers("Groups:") } else { Vec::new() }
    }
}

/// Whether the group (`name:password:gid:member,member`) has one of these members or numbers.
fn is_member(groups: &str, group: &str, names: &[String], gids: &[u32]) -> bool {
    groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return false };
        name == group
            && (gid.parse().is_ok_and(|gid| gids.contains(&gid))
                || members.split(',').any(|member| names.iter().any(|name| name == member)))
    })
}

/// The text of a file; what cannot be read is empty and gives nobody anything.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host whose files are in `dir`, with the given group file.
    pub(in crate::agent::server) fn host(dir: &Path, group: &str) -> Access {
        std::fs::write(dir.join("group"), group).unwrap();
        std::fs::write(
            dir.join("passwd"),
            "root:x:0:0::/:/bin/sh\nada:x:1001:1001::/:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n",
        )
        .unwrap();
        Access {
            own_uid: 990,
            passwd: dir.join("passwd"),
            group: dir.join("group"),
            proc: dir.join("proc"),
        }
    }

    fn process(dir: &Path, pid: i32, status: &str) {
        let folder = dir.join("proc").join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("status"), status).unwrap();
    }

    #[test]
    fn root_and_the_agents_own_user_may_change_without_any_group() {
        let dir = tempfile::tempdir().unwrap();
        let access = host(dir.path(), "");
        assert_eq!(access.rights_of(0, 0, None), Rights::Change);
        assert_eq!(access.rights_of(990, 990, None), Rights::Change);
        assert_eq!(access.rights_of(1001, 1001, None), Rights::None);
    }

    #[test]
    fn the_group_file_decides_by_user_id() {
        let dir = tempfile::tempdir().unwrap();
        let access = host(dir.path(), "ginnel-admin:x:501:zoe,ada\nginnel:x:500:bob\n");
        assert_eq!(access.rights_of(1001, 1001, None), Rights::Change);
        assert_eq!(access.rights_of(1002, 1002, None), Rights::Read);
        assert_eq!(access.rights_of(1003, 1003, None), Rights::None);
    }

    #[test]
    fn a_primary_group_counts_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let access = host(dir.path(), "ginnel-admin:x:1001:\nginnel:x:500:\n");
        assert_eq!(access.rights_of(1001, 77, None), Rights::Change);
        assert_eq!(access.rights_of(1003, 500, None), Rights::Read);
    }

    #[test]
    fn the_groups_of_a_process_count_only_while_it_is_the_same_user_throughout() {
        let dir = tempfile::tempdir().unwrap();
        let access = host(dir.path(), "ginnel-admin:x:501:\n");
        process(dir.path(), 7, "Uid:\t1003\t1003\t1003\t1003\nGroups:\t4 501 \n");
        process(dir.path(), 8, "Uid:\t1003\t0\t0\t0\nGroups:\t501\n");
        assert_eq!(access.rights_of(1003, 1003, Some(7)), Rights::Change);
        assert_eq!(access.rights_of(1003, 1003, Some(8)), Rights::None);
        assert_eq!(access.rights_of(1003, 1003, Some(9)), Rights::None);
        assert_eq!(access.rights_of(1004, 1004, Some(7)), Rights::None);
    }

    #[test]
    fn malformed_or_missing_files_give_nobody_anything() {
        let dir = tempfile::tempdir().unwrap();
        let access =
            host(dir.path(), "ginnel-admin\nginnel-admin:x\nginnel-admin:x::\n::::\n\u{0}");
        assert_eq!(access.rights_of(1001, 1001, None), Rights::None);
        std::fs::remove_file(dir.path().join("group")).unwrap();
        std::fs::write(dir.path().join("passwd"), b"\xff\xfe:::").unwrap();
        assert_eq!(access.rights_of(1001, 1001, None), Rights::None);
    }
}
