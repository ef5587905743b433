//! An agent that answers from a script, and the real binary run against it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use ginnel::agent::server::{Access, ClientEvent, Server};
use ginnel::api::{Request, Response};
use serde_json::Value;
use tempfile::TempDir;

/// The real server in a thread, with the answers of a script. It ends when it is dropped.
pub struct Agent {
    /// Its folder, with the socket in it.
    pub dir: TempDir,
    /// Which clients hung up.
    pub gone: mpsc::Receiver<ClientEvent>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Agent {
    /// An agent that answers each request so.
    pub fn start(script: impl Fn(Request) -> Vec<Response> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (tell, gone) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let server = Server::bind(&socket, Access::of_this_host()).unwrap();
                let (mut events, replies) = server.start();
                ready.send(()).unwrap();
                loop {
                    let event = tokio::select! {
                        event = events.recv() => event.unwrap(),
                        _ = &mut stopped => return,
                    };
                    match event {
                        ClientEvent::Request { id, request, .. } => {
                            script(request)
                                .into_iter()
                                .for_each(|answer| replies.reply(id, answer));
                        }
                        gone @ ClientEvent::Gone { .. } => drop(tell.send(gone)),
                    }
                }
            });
        });
        is_ready.recv().unwrap();
        Self { dir, gone, stop: Some(stop) }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Runs the binary against it.
    pub fn run(&self, line: &str) -> Output {
        ginnel(&self.socket(), line)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

/// The binary, told to use that socket.
pub fn binary(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel"));
    command.env("GINNEL_SOCKET", socket).env_remove("GINNEL_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary with the words of `line`.
pub fn ginnel(socket: &Path, line: &str) -> Output {
    binary(socket).args(line.split_whitespace()).output().unwrap()
}

/// Runs it with something to read.
pub fn with_stdin(socket: &Path, line: &str, input: &[u8]) -> Output {
    let mut command = binary(socket);
    command.args(line.split_whitespace()).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Fails where the command reads no further than its bound.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The JSON objects of a run that went well.
pub fn json_lines(output: &Output) -> Vec<Value> {
    assert_eq!(code(output), 0, "{output:?}");
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
