//! A host that is broken, full, or not the user's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::lab::host::{Host, binary};
use crate::lab::lan::Lan;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("fault_full_disk_refuses_acts_and_loses_nothing", full_disk),
    ("fault_corrupt_identity_is_named_and_kept", corrupt_identity),
    ("fault_second_agent_on_the_same_state_is_refused", second_agent),
    ("fault_without_tun_device_says_so", no_tun),
    ("fault_without_privilege_says_so", not_root),
    ("fault_unknown_configuration_key_is_named_with_its_line", unknown_key),
];

/// An agent that refuses to run ends well within this.
const REFUSED: Duration = Duration::from_secs(10);
/// The user and group nobody of every Linux.
const NOBODY: &str = "65534";

/// ```text
/// a ── switch
/// ```
fn alone(world: &World) -> Result<(Lan, Host)> {
    let switch = Lan::isolated("switch", [192, 168, 1])?;
    let host = world.host("a", &switch)?;
    Ok((switch, host))
}

/// A file system of 4 MiB over a folder, gone on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(folder: &Path) -> Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "none"]).arg(folder);
        ensure!(command.status()?.success(), "mount a small disk");
        Ok(SmallDisk(folder.into()))
    }

    fn fill(&self) -> Result<()> {
        let error = fs::write(self.0.join("ballast"), vec![0u8; 5 << 20]).expect_err("5 MiB in 4");
        ensure!(error.kind() == std::io::ErrorKind::StorageFull, "filling the disk: {error}");
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("ballast"))?)
    }
}

/// More ops than fit a page of the disk.
const PAGE_OF_OPS: usize = 32;

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// See [`alone`].
fn full_disk(world: &mut World) -> Result<()> {
    let (_switch, mut a) = alone(world)?;
    let disk = SmallDisk::over(&a.state_folder())?;
    a.start()?;
    disk.fill()?;
    let told = ["space", "full", "disk"];
    a.ginnel(&["create", "home", "--name", "a"])?.exits(1)?.says(&told)?;
    ensure!(a.status()?.networks().is_empty(), "a network exists that is not on disk");
    disk.free()?;
    let created = a.create("home")?;
    disk.fill()?;
    // The last page of the log may have room for an op or two.
    let refused = (0..PAGE_OF_OPS)
        .map(|_| a.ginnel(&["invite"]))
        .find(|outcome| outcome.as_ref().map_or(true, |outcome| outcome.code != Some(0)));
    refused.context("a full disk took every invite")??.exits(1)?.says(&told)?;
    ensure!(a.status()?.state() == "up", "the network fell because the disk is full");
    a.kill9();
    a.start().context("a start with a full disk")?;
    let status = a.wait_for("the network", REFUSED, |status| status.state() == "up")?;
    ensure!(status.ipv6()? == created.ipv6, "another identity after a restart on a full disk");
    disk.free()?;
    a.invite(&[]).context("an invite once there is space")?;
    drop(a);
    Ok(())
}

/// See [`alone`].
fn corrupt_identity(world: &mut World) -> Result<()> {
    let (_switch, mut a) = alone(world)?;
    a.start()?;
    let created = a.create("home")?;
    a.stop()?;
    let files = files_named("identity", &a.state_folder());
    ensure!(!files.is_empty(), "no file with \"identity\" in its name in the state folder");
    for file in &files {
        let whole = fs::read(file)?;
        ensure!(mode(file)? & 0o077 == 0, "{} can be read by others", file.display());
        for (what, bytes) in [
            ("truncated", whole[..whole.len() / 2].to_vec()),
            ("zeroed", vec![0; whole.len()]),
            ("empty", Vec::new()),
        ] {
            fs::write(file, &bytes)?;
            is_refused_by_name(&a, file).context(what)?;
            ensure!(fs::read(file)? == bytes, "a {what} identity was replaced");
        }
        fs::remove_file(file)?;
        is_refused_by_name(&a, file).context("gone")?;
        ensure!(!file.exists(), "an identity that was gone was made anew");
        fs::write(file, &whole)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
        is_refused_by_name(&a, file).context("readable by all")?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    }
    a.start()?;
    let status = a.wait_for("the network", REFUSED, |status| status.state() == "up")?;
    ensure!(status.ipv6()? == created.ipv6, "another identity than before");
    Ok(())
}

fn is_refused_by_name(host: &Host, file: &Path) -> Result<()> {
    let outcome = host.namespace.command(&mut host.agent_command(), REFUSED)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    outcome.exits(1)?.says(&[&name])?;
    Ok(())
}

/// See [`alone`].
fn second_agent(world: &mut World) -> Result<()> {
    let (_switch, mut a) = alone(world)?;
    a.start()?;
    a.create("home")?;
    let before = a.status()?;
    let refused = a.namespace.command(&mut a.agent_command(), REFUSED)?;
    refused.exits(1)?.says(&["another", "already", "agent"])?;
    let mut elsewhere = Command::new(binary());
    elsewhere.arg("agent").arg("--state-dir").arg(a.state_folder());
    elsewhere.arg("--socket").arg(a.folder().join("other"));
    let refused = a.namespace.command(&mut elsewhere, REFUSED)?;
    refused.exits(1)?.says(&["another", "already", "agent"])?;
    ensure!(a.is_running(), "the first agent ended");
    let after = a.status()?;
    ensure!(
        after.state() == "up" && after.ipv6()? == before.ipv6()?,
        "the first agent was disturbed"
    );
    Ok(())
}

/// See [`alone`]; the agent's view of `/dev/net` is empty.
fn no_tun(world: &mut World) -> Result<()> {
    let (_switch, mut a) = alone(world)?;
    let agent = a.agent_command();
    let mut hidden = Command::new("unshare");
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
    hidden.args(["--mount", "sh", "-c", script]).arg(agent.get_program()).args(agent.get_args());
    a.start_with(&mut hidden)?;
    a.ginnel(&["create", "home", "--name", "a"])?.exits(1)?.says(&["/dev/net/tun", "tun"])?;
    ensure!(a.is_running(), "the agent ended");
    a.kill9();
    // With the device there, the same state is good.
    a.start()?;
    if a.status()?.networks().is_empty() {
        a.create("home")?;
    }
    a.wait_for("the network", REFUSED, |status| status.state() == "up")?;
    Ok(())
}

/// See [`alone`]; verbs and an agent run as nobody.
fn not_root(world: &mut World) -> Result<()> {
    let (_switch, mut a) = alone(world)?;
    // Where the build is may be closed to nobody, and so is a temporary folder.
    let copy = world.folder().join("ginnel");
    fs::copy(binary(), &copy)?;
    fs::set_permissions(world.folder(), fs::Permissions::from_mode(0o755))?;
    let own = world.folder().join("nobody");
    fs::create_dir_all(&own)?;
    std::os::unix::fs::chown(&own, Some(NOBODY.parse()?), Some(NOBODY.parse()?))?;
    let as_nobody = |args: &[&str], socket: PathBuf| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&copy).args(args).env("GINNEL_SOCKET", socket);
        a.namespace.command(&mut command, REFUSED)
    };
    as_nobody(&["status"], own.join("none"))?.exits(3)?.says(&["agent"])?;
    let state = own.join("state").display().to_string();
    as_nobody(&["agent", "--state-dir", &state], own.join("sock"))?.exits(4)?.says(&[])?;
    let socket = a.folder().join("sock");
    a.start()?;
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&copy).args(args).env("GINNEL_SOCKET", &socket);
        a.namespace.command(&mut command, REFUSED)
    };
    as_nobody(&["create", "home"])?.exits(4)?.says(&[])?;
    ensure!(a.status()?.networks().is_empty(), "nobody made a network");
    Ok(())
}

/// See [`alone`].
fn unknown_key(world: &mut World) -> Result<()> {
    let (_switch, a) = alone(world)?;
    a.configure("[agent]\nport = 0\nprot = 1\n")?;
    let outcome = a.namespace.command(&mut a.agent_command(), REFUSED)?;
    let outcome = outcome.exits_one_of(&[1, 2])?;
    ensure!(
        outcome.stderr.contains("prot") && outcome.stderr.contains('3'),
        "neither key nor line is named: {}",
        outcome.stderr
    );
    Ok(())
}

fn mode(file: &Path) -> Result<u32> {
    Ok(fs::metadata(file)?.permissions().mode())
}

fn files_named(part: &str, folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let found =
        entries.flat_map(|path| if path.is_dir() { files_named(part, &path) } else { vec![path] });
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
    found.filter(named).collect()
}
