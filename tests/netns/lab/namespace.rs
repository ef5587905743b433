//! One network namespace, removed on drop.
//!
//! Sockets, devices and children are made *inside* a namespace by a short-lived thread that joins
//! it first ([`Namespace::run`]): a child keeps the namespace of the thread that forked it, and a
//! socket the one it was created in, so nothing else of the test process ever moves.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{self, Outcome};

/// All names of the lab begin with this, then the process id, so that leftovers can be told.
const PREFIX: &str = "gl-";
/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";
/// `ip`, `nft` and friends answer at once; more than this is a hang.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// A number no other namespace or world of this process has.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The beginning of every name this process gives: `gl-<pid>-`.
pub fn name_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// A network namespace with loopback up.
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes `gl-<pid>-<n>-<label>`.
    pub fn new(label: &str) -> Result<Self> {
        let name = format!("{}{}-{label}", name_prefix(), unique());
        process::run(Command::new("ip").args(["netns", "add", &name]), TOOL_LIMIT)?.success()?;
        let handle = File::open(Path::new(NETNS_DIR).join(&name))
            .with_context(|| format!("open the namespace {name}"))?;
        let namespace = Namespace { name, handle };
        // Duplicate address detection would keep every new IPv6 address unusable for a second.
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace it made");
                work()
            });
            inside.join().expect("work inside a namespace does not panic")
        })
    }

    /// Starts a child inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn()).with_context(|| format!("start {command:?}"))
    }

    /// Runs a command inside the namespace to its end.
    pub fn command(&self, command: &mut Command, limit: Duration) -> Result<Outcome> {
        self.run(|| process::run(command, limit))
    }

    /// Runs `program` with `args` and returns its stdout; an exit code other than 0 is an error.
    pub fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        self.command(Command::new(program).args(args), TOOL_LIMIT)?.success()
    }

    /// Runs lines of `ip` commands; the first that fails is the error.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.feed(Command::new("ip").args(["-batch", "-"]), lines)
    }

    /// Loads nft rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.feed(Command::new("nft").args(["-f", "-"]), rules)
    }

    /// Writes a value below `/proc/sys`, of this namespace for the `net` tree.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| std::fs::write(&path, value))
            .with_context(|| format!("write {value} to {}", path.display()))
    }

    fn feed(&self, command: &mut Command, input: &str) -> Result<()> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        // A tool that stops at its first error closes the pipe: its own message says more.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{command:?} in {}: {}\n{input}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What was forked by a process of ours (a daemon that detached) ends here.
        end_processes_of(&self.name);
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Removes namespaces, mounts and folders of earlier runs whose process is gone.
pub fn remove_leftovers() {
    for name in names_in(NETNS_DIR).filter(|name| is_leftover(name)) {
        end_processes_of(&name);
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for mount in mounts_below(&std::env::temp_dir().join(PREFIX).to_string_lossy()) {
        let folder = Path::new(&mount).strip_prefix(std::env::temp_dir()).ok();
        let world = folder.and_then(|path| path.iter().next()).map(|name| name.to_string_lossy());
        if world.is_some_and(|name| is_leftover(&name)) {
            let _ = Command::new("umount").args(["--lazy", &mount]).status();
        }
    }
    for name in names_in(&std::env::temp_dir().to_string_lossy()).filter(|name| is_leftover(name)) {
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(name));
    }
}

fn names_in(folder: &str) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn mounts_below(prefix: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| point.starts_with(prefix)).map(str::to_owned).collect()
}

/// Named `gl-<pid>-…` where no process has that id.
fn is_leftover(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let Some(pid) = rest.split('-').next().and_then(|digits| digits.parse::<u32>().ok()) else {
        return false;
    };
    !Path::new("/proc").join(pid.to_string()).exists()
}

/// Kills what runs in a namespace of the lab: only processes that a lab started can be there.
fn end_processes_of(name: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { return };
    for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
