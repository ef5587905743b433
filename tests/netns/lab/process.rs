//! Commands with a time limit, and daemons that die with their owner.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::namespace::Namespace;

/// How often a child is asked whether it ended.
const POLL: Duration = Duration::from_millis(5);
/// A daemon that got SIGTERM has this long: removing port maps takes some seconds at most.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Outcome {
    /// stdout, or an error with stderr when the code was not 0.
    pub fn success(self) -> Result<String> {
        self.exits(0).map(|outcome| outcome.stdout)
    }

    /// Itself, or an error when the code was another.
    pub fn exits(self, code: i32) -> Result<Self> {
        self.exits_one_of(&[code])
    }

    /// Itself, or an error when the code is none of these.
    pub fn exits_one_of(self, codes: &[i32]) -> Result<Self> {
        let fits = self.code.is_some_and(|code| codes.contains(&code));
        ensure!(
            fits,
            "`{}` ended with {:?} instead of {codes:?} after {:?}\nstdout: {}\nstderr: {}",
            self.line,
            self.code,
            self.took,
            self.stdout.trim(),
            self.stderr.trim()
        );
        Ok(self)
    }

    /// Itself, or an error when stderr is not short and free of debris: a user reads it.
    ///
    /// Stages of long work are lines of their own; the error is the last line.
    pub fn says(self, words: &[&str]) -> Result<Self> {
        let last = self.stderr.trim().lines().last().unwrap_or_default().to_lowercase();
        ensure!(!last.is_empty(), "`{}` failed without a word on stderr", self.line);
        ensure!(
            !last.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"),
            "`{}` panicked: {}",
            self.line,
            self.stderr
        );
        ensure!(last.len() <= 400, "`{}` answers with an essay: {last}", self.line);
        let fits = words.is_empty() || words.iter().any(|word| last.contains(word));
        ensure!(fits, "`{}` says {last:?}, which has none of {words:?}", self.line);
        Ok(self)
    }
}

/// Runs a command to its end; one that is not over after `limit` is killed and an error.
pub fn run(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let outcome = Outcome {
        line: line_of(command),
        code: status.and_then(|status| status.code()),
        stdout: text(stdout),
        stderr: text(stderr),
        took: started.elapsed(),
    };
    ensure!(status.is_some(), "`{}` was not over after {limit:?}: {outcome:?}", outcome.line);
    Ok(outcome)
}

/// A background process with a log file; killed on drop, by its id.
pub struct Daemon {
    child: Child,
    line: String,
}

impl Daemon {
    /// Starts it inside `namespace`, its output appended to `log`.
    pub fn start(namespace: &Namespace, command: &mut Command, log: &Path) -> Result<Self> {
        let out: File = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let line = line_of(command);
        Ok(Daemon { child: namespace.spawn(command)?, line })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; an error if it is still there after ten seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.child.id())?) {
            kill_process(pid, Signal::TERM).with_context(|| format!("stop `{}`", self.line))?;
        }
        match wait(&mut self.child, STOP_LIMIT)? {
            Some(status) => Ok(status),
            None => bail!("`{}` ignored SIGTERM for {STOP_LIMIT:?}", self.line),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Reads a pipe to its end beside the waiting, so that a talkative child never blocks on it.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if line.chars().count() > 200 {
        line.chars().take(200).chain("…".chars()).collect()
    } else {
        line
    }
}
