//! Namespaces for tests: a thread of its own in a network (and mount) namespace of its own.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Runs `test` on a thread in fresh network and mount namespaces, with loopback up; or says why not.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to make network namespaces");
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: the descriptor table stays shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .unwrap();
        sh("mount --make-rprivate /; ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The same for an asynchronous test.
pub fn isolated_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    isolated(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
}

/// Runs a shell script in the namespaces of this thread; panics where it fails.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A second, named namespace, removed with what runs in it when dropped.
pub struct Neighbour(pub String);

impl Neighbour {
    /// A namespace that is joined to this one by a veth pair `lan` (here) and `lan` (there).
    pub fn on_lan() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gi-{}-{number}", std::process::id());
        sh(&format!(
            "ip netns add {name}; ip link add lan type veth peer name lan netns {name}; \
             ip link set lan up; ip -n {name} link set lan up; ip -n {name} link set lo up"
        ));
        Self(name)
    }

    /// Runs a script there.
    pub fn sh(&self, script: &str) -> String {
        sh(&format!("ip netns exec {} sh -ec '{script}'", self.0))
    }

    /// Runs `work` on a thread there.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
            work()
        })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let name = &self.0;
        let script = format!("ip netns pids {name} | xargs -r kill -9; ip netns del {name}");
        Command::new("sh").args(["-c", &script]).status().ok();
    }
}

/// Takes `CAP_NET_ADMIN` from this thread.
pub fn drop_net_admin() {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
    rustix::thread::set_capabilities(None, sets).unwrap();
}
