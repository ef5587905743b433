//! The other end of the agent's socket: one request, a stream of answers.
//!
//! Blocking, since a command does one thing. A line is bounded by `MAX_LINE`, and every wait has
//! an end that suits the request, so that a script never hangs on an agent that does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Exit, Failure};
use crate::api::{Request, Response};

/// The longest answer in bytes: the full history of an admin (65,536 acts of some 500 bytes of
/// JSON each) fits, a runaway agent does not fill the memory.
const MAX_LINE: u64 = 64 << 20;

/// How long the agent may take for an answer that it knows at once or after a disk write.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that carried its request.
#[derive(Debug)]
pub struct Answers {
    stream: BufReader<UnixStream>,
}

/// Sends the request to the agent at `socket`. `patience` is how long each answer may take; `None`
/// waits for ever, for a stream that the user ends.
pub fn ask(
    socket: &Path,
    request: &Request,
    patience: Option<Duration>,
) -> Result<Answers, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|error| no_connection(socket, &error))?;
    let mut line = serde_json::to_vec(request).expect("a request is plain data");
    line.push(b'\n');
    // An agent that refuses this user answers before it reads: its answer says more than the error.
    let _ = stream.write_all(&line);
    stream.set_read_timeout(patience).map_err(|error| failed(&error))?;
    Ok(Answers { stream: BufReader::new(stream) })
}

/// Asks something that has one answer. An error of the agent is a [`Failure`].
pub fn ask_once(socket: &Path, request: &Request) -> Result<Response, Failure> {
    ask(socket, request, Some(PATIENCE))?.receive()
}

impl Answers {
    /// The next answer. An error of the agent, or the end of the stream, is a [`Failure`].
    pub fn receive(&mut self) -> Result<Response, Failure> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(MAX_LINE);
        match bounded.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(_) if line.len() as u64 == MAX_LINE => {
                return Err(Failure::new(Exit::Failed, "the agent's answer is too long"));
            }
            Ok(_) => return Err(Failure::new(Exit::Failed, ENDED)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Failure::new(Exit::Failed, ENDED));
            }
            Err(error) if is_timeout(&error) => {
                return Err(Failure::new(Exit::Unreachable, "the agent did not answer in time"));
            }
            Err(error) => return Err(failed(&error)),
        }
        match serde_json::from_slice::<Response>(&line) {
            Ok(Response::Error(error)) => Err(error.into()),
            Ok(response) => Ok(response),
            Err(error) => Err(Failure::new(
                Exit::Failed,
                format!(
                    "the agent's answer is not understood ({error}); is it of another version?"
                ),
            )),
        }
    }

    /// A second handle of the connection, whose `shutdown` ends the stream from another thread.
    pub fn handle(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }
}

const ENDED: &str = "the agent ended the connection without an answer; see: journalctl -u ginnel";

fn no_connection(socket: &Path, error: &io::Error) -> Failure {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::NoAgent,
            format!(
                "nobody answers at {socket}: is the agent running? start it with: sudo systemctl \
                 start ginnel (without systemd: sudo ginnel agent)"
            ),
        ),
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::NotPermitted, format!("this user may not open {socket}; use sudo"))
        }
        _ => Failure::new(Exit::Failed, format!("cannot reach the agent at {socket}: {error}")),
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot talk to the agent: {error}"))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
