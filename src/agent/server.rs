//! The agent's Unix socket: one request a connection, one JSON object a line.
//!
//! A client connects, sends one [`Request`] line, and reads [`Response`] lines until a
//! [final](Response::is_final) one. The server turns this into [`ClientEvent`]s for the control
//! loop and takes answers from [`Replies::reply`], which never waits.
//!
//! **Who.** The socket's mode lets everybody connect, so that a stranger reads why they are refused
//! rather than a bare "permission denied"; [`Access`] decides from the kernel's word who they are.
//! A stranger is answered and closed at once and never holds a place.
//!
//! **Bounds.** At most [`MAX_CLIENTS`] connections, of which readers hold at most [`MAX_READERS`],
//! so that they cannot lock out those who may change. A connection that has not sent its whole line
//! is *half-open*: it lasts `REQUEST_TIME`, and the oldest one makes room when a newcomer needs a
//! place. One that waits for its answer is never displaced; where there are only such, the newcomer
//! is told so. A request line has at most [`MAX_REQUEST_LEN`] bytes, its nesting is bounded by the
//! JSON parser (128). Answers queue up to `MAX_ANSWERS` a client; a client that reads more slowly
//! is cut off.
//!
//! A client that closes its end, even half of it, or sends more than its one line, is gone:
//! [`ClientEvent::Gone`] tells the loop that nobody waits any more.

pub mod access;
mod place;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use self::access::{ADMIN_GROUP, READER_GROUP};
pub use self::access::{Access, Rights};
pub use self::place::BindError;
use self::place::SocketFile;
use crate::api::{ErrorKind, Request, Response};
use crate::mesh::event::RequestId;

/// Connections at a time: far more than people and scripts on one host use at once, and few enough
/// that all their buffers together stay below 8 MiB.
pub const MAX_CLIENTS: usize = 64;

/// Connections of clients that may only read; a quarter stays free for those who may change.
pub const MAX_READERS: usize = 48;

/// The longest request line in bytes, its newline included. The longest request there is carries an
/// invite of a few hundred bytes.
pub const MAX_REQUEST_LEN: usize = 64 << 10;

/// How long a client may take to send its line: it is written in one go.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// How long a client may take to read one answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Answers that may wait for one client. Probes and stages come about once a second, so a client
/// this far behind has stopped reading.
const MAX_ANSWERS: usize = 32;

/// Events that may wait for the control loop; the connections wait beyond it.
const MAX_EVENTS: usize = 16;

/// The pause after `accept` failed, as it does for as long as file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the control loop is told.
#[derive(Debug, PartialEq)]
pub enum ClientEvent {
    /// A client that may ask this asks it.
    Request {
        /// Goes with every answer.
        id: RequestId,
        /// What it asks.
        request: Request,
        /// Who asks, for the log.
        peer: Peer,
    },
    /// The client went away before its final answer.
    Gone {
        /// Which request nobody waits for.
        id: RequestId,
    },
}

/// The process at the other end, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id at the time it connected, where it is visible from here.
    pub pid: Option<i32>,
}

/// A bound socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    access: Access,
    request_time: Duration,
}

impl Server {
    /// Makes the socket, and its folder where there is none. Replaces a socket that nobody listens
    /// at, never a live one. Needs a tokio runtime.
    pub fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let (listener, file) = place::listen(path)?;
        Ok(Self { listener, file, access, request_time: REQUEST_TIME })
    }

    /// Starts to serve, as a task of the current runtime that ends, and removes the socket, when
    /// the receiver is dropped.
    #[expect(clippy::disallowed_methods, reason = "the server's one task")]
    pub fn start(self) -> (mpsc::Receiver<ClientEvent>, Replies) {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let replies = Replies::default();
        tokio::spawn(self.accept(events, replies.clone()));
        (receiver, replies)
    }

    async fn accept(self, events: mpsc::Sender<ClientEvent>, replies: Replies) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, &events, &replies, &mut tasks),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                () = events.closed() => {
                    tracing::debug!(socket = %self.file.path().display(), "socket closed");
                    return;
                }
            }
        }
    }

    /// Gives a newcomer a place, or tells it why not.
    fn admit(
        &self,
        stream: UnixStream,
        events: &mpsc::Sender<ClientEvent>,
        replies: &Replies,
        tasks: &mut JoinSet<()>,
    ) {
        let Ok(credentials) = stream.peer_cred() else { return };
        let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
        let rights = self.access.rights(&credentials);
        if rights == Rights::None {
            tracing::debug!(uid = peer.uid, "refused a stranger");
            return refuse(&stream, &not_permitted(rights));
        }
        let mut places = replies.places.lock();
        if !places.make_room(rights) {
            tracing::warn!(uid = peer.uid, "refused a client: all places are taken");
            return refuse(&stream, &Response::error(ErrorKind::Failed, BUSY));
        }
        places.last_id += 1;
        let id = RequestId(places.last_id);
        let replies = replies.clone();
        let client = Client { id, stream, rights, peer, events: events.clone(), replies };
        let task = tasks.spawn(client.serve(self.request_time));
        places.half_open.insert(id, (rights, task));
    }
}

/// Takes the answers of the control loop.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    places: Arc<Mutex<Places>>,
}

impl Replies {
    /// Hands an answer to the client of a request. Never waits: a client that is gone, was answered
    /// or is too slow gets nothing.
    pub fn reply(&self, id: RequestId, response: Response) {
        let mut places = self.places.lock();
        let Some((_, answers)) = places.serving.get(&id) else { return };
        let last = response.is_final();
        if answers.try_send(response).is_err() || last {
            places.serving.remove(&id);
        }
    }
}

/// Who holds a place.
#[derive(Debug, Default)]
struct Places {
    last_id: u64,
    /// No whole line yet; oldest first, since ids count up.
    half_open: BTreeMap<RequestId, (Rights, AbortHandle)>,
    /// Waiting for answers.
    serving: BTreeMap<RequestId, (Rights, mpsc::Sender<Response>)>,
}

impl Places {
    /// Whether there is a place, after the oldest half-open client was displaced if need be.
    fn make_room(&mut self, rights: Rights) -> bool {
        let readers = |rights: &Rights| *rights == Rights::Read;
        let reading = self.half_open.values().filter(|(rights, _)| readers(rights)).count()
            + self.serving.values().filter(|(rights, _)| readers(rights)).count();
        if rights == Rights::Read && reading >= MAX_READERS {
            return self.displace(readers);
        }
        self.half_open.len() + self.serving.len() < MAX_CLIENTS || self.displace(|_| true)
    }

    fn displace(&mut self, which: impl Fn(&Rights) -> bool) -> bool {
        let oldest = self.half_open.iter().find(|(_, (rights, _))| which(rights));
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        if let Some((_, task)) = self.half_open.remove(&id) {
            task.abort();
        }
        true
    }
}

/// One connection. Its place is given back when it is dropped.
struct Client {
    id: RequestId,
    stream: UnixStream,
    rights: Rights,
    peer: Peer,
    events: mpsc::Sender<ClientEvent>,
    replies: Replies,
}

/// Why a client's line is not a request.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// No whole line came.
    #[error("the connection ended")]
    Ended,
    /// The line does not end.
    #[error("a request has at most {} bytes in one line", MAX_REQUEST_LEN)]
    TooLong,
    /// Something follows the line.
    #[error("a connection carries one request")]
    Trailing,
    /// It is no JSON, or asks what this agent does not know.
    #[error("that is not a request that this agent knows: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The request in what a client sent so far; `None` until its line is whole.
pub fn request_in(received: &[u8]) -> Result<Option<Request>, LineError> {
    match received.iter().position(|byte| *byte == b'\n') {
        Some(end) if end + 1 < received.len() => Err(LineError::Trailing),
        Some(end) => Ok(Some(serde_json::from_slice(&received[..end])?)),
        None => Ok(None),
    }
}

impl Client {
    async fn serve(mut self, request_time: Duration) {
        let Ok(request) = timeout(request_time, self.read_request()).await else { return };
        let request = match request {
            Ok(request) if request.is_read_only() || self.rights == Rights::Change => request,
            Ok(_) => return self.answer(&not_permitted(self.rights)).await.unwrap_or_default(),
            Err(LineError::Ended) => return,
            Err(error) => {
                let refusal = Response::error(ErrorKind::Usage, error.to_string());
                return self.answer(&refusal).await.unwrap_or_default();
            }
        };
        let Some(answers) = self.promote() else { return };
        let Self { id, peer, .. } = self;
        if self.events.send(ClientEvent::Request { id, request, peer }).await.is_err() {
            return;
        }
        if self.relay_answers(answers).await.is_err() {
            // The loop is gone only when the agent stops, and then nobody is left to tell.
            let _ = self.events.send(ClientEvent::Gone { id }).await;
        }
    }

    async fn read_request(&mut self) -> Result<Request, LineError> {
        // All of the capacity at once: growing would leave copies of an invite behind.
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_REQUEST_LEN));
        loop {
            match (&mut self.stream)
                .take((MAX_REQUEST_LEN - line.len()) as u64)
                .read_buf(&mut *line)
                .await
            {
                Ok(0) if line.len() == MAX_REQUEST_LEN => return Err(LineError::TooLong),
                Ok(0) | Err(_) => return Err(LineError::Ended),
                Ok(_) => {}
            }
            if let Some(request) = request_in(&line)? {
                return Ok(request);
            }
        }
    }

    /// From half-open to waiting; `None` where the place was lost in the same moment.
    fn promote(&self) -> Option<mpsc::Receiver<Response>> {
        let (sender, answers) = mpsc::channel(MAX_ANSWERS);
        let mut places = self.replies.places.lock();
        let (rights, _) = places.half_open.remove(&self.id)?;
        places.serving.insert(self.id, (rights, sender));
        Some(answers)
    }

    /// Writes answers up to the final one; an error where the client went away before, or fell
    /// behind.
    async fn relay_answers(&mut self, mut answers: mpsc::Receiver<Response>) -> io::Result<()> {
        loop {
            let mut excess = [0; 1];
            tokio::select! {
                biased;
                answer = answers.recv() => {
                    let answer = answer.ok_or(io::ErrorKind::TimedOut)?;
                    self.answer(&answer).await?;
                    if answer.is_final() {
                        return Ok(());
                    }
                }
                _ = self.stream.read(&mut excess) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }

    async fn answer(&mut self, response: &Response) -> io::Result<()> {
        timeout(ANSWER_TIME, self.stream.write_all(&line(response))).await?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut places = self.replies.places.lock();
        places.half_open.remove(&self.id);
        places.serving.remove(&self.id);
    }
}

const BUSY: &str = "the agent serves as many clients as it can; try again in a moment";

fn not_permitted(rights: Rights) -> Response {
    let message = if rights == Rights::Read {
        format!(
            "changing anything needs root or group {ADMIN_GROUP}; use sudo, or add the user to that group"
        )
    } else {
        format!(
            "this user may not ask the agent; use sudo, or add the user to group {READER_GROUP} \
             to look or {ADMIN_GROUP} to change"
        )
    };
    Response::error(ErrorKind::NotPermitted, message)
}

/// Answers a client that gets no place: as much as its empty buffer takes, and no waiting.
fn refuse(stream: &UnixStream, response: &Response) {
    let _ = stream.try_write(&line(response));
}

fn line(response: &Response) -> Zeroizing<Vec<u8>> {
    let mut line =
        serde_json::to_vec(response).expect("the API has no map with keys that are not strings");
    line.push(b'\n');
    Zeroizing::new(line)
}

#[cfg(test)]
mod tests;
