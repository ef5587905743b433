//! Real sockets in a temporary folder, and clients that mean harm.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Gid, Uid};
use tempfile::TempDir;

use super::place::{FOLDER_MODE, SOCKET_MODE};
use super::*;
use crate::api::{Pong, Status};

type Events = mpsc::Receiver<ClientEvent>;

struct Lab {
    dir: TempDir,
    events: Events,
    replies: Replies,
}

#[tokio::test]
async fn a_request_is_answered_and_the_connection_closed() {
    let mut lab = Lab::start("");
    let mut client = lab.connect().await;
    client.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
    let id = lab.next_request(&Request::Status).await;
    lab.replies.reply(id, status());
    assert_eq!(read_all(&mut client).await, [status()]);
    lab.replies.reply(id, status());
    assert!(lab.events.try_recv().is_err(), "a client that was answered is not gone");
}

#[tokio::test]
async fn answers_stream_until_the_final_one() {
    let mut lab = Lab::start("");
    let mut client = lab.connect().await;
    client.write_all(ping().as_bytes()).await.unwrap();
    let id = lab.any_request().await;
    let answers = [pong(1), pong(2), Response::Done];
    for answer in &answers {
        lab.replies.reply(id, answer.clone());
    }
    assert_eq!(read_all(&mut client).await, answers);
}

#[tokio::test]
async fn a_client_that_leaves_early_is_reported_gone() {
    let mut lab = Lab::start("");
    let mut client = lab.connect().await;
    client.write_all(ping().as_bytes()).await.unwrap();
    let id = lab.any_request().await;
    drop(client);
    assert_eq!(lab.events.recv().await, Some(ClientEvent::Gone { id }));
    lab.replies.reply(id, Response::Done);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_and_reported_gone() {
    let mut lab = Lab::start("");
    let mut client = lab.connect().await;
    client.write_all(ping().as_bytes()).await.unwrap();
    let id = lab.any_request().await;
    for seq in 0..100_000 {
        lab.replies.reply(id, pong(seq));
    }
    assert_eq!(lab.events.recv().await, Some(ClientEvent::Gone { id }));
    assert!(lab.replies.places.lock().serving.is_empty());
}

#[tokio::test]
async fn lines_that_are_no_request_get_one_sentence_and_the_usage_kind() {
    let mut lab = Lab::start("");
    let deep = [vec![b'['; 60_000], b"\n".to_vec()].concat();
    let deep_inside = [
        b"{\"request\":\"leave\",\"network\":".to_vec(),
        b"{\"a\":".repeat(10_000),
        b"\n".to_vec(),
    ]
    .concat();
    let lines: [&[u8]; 9] = [
        b"\n",
        b"hello\n",
        b"\xff\xfe\x00\n",
        b"{\"request\":\"format-disk\"}\n",
        b"{\"request\":\"leave\",\"network\":null,\"really\":true}\n",
        b"{\"request\":\"status\"}\n{\"request\":\"status\"}\n",
        b"{\"request\":\"leave\",\"network\":7}\n",
        &deep,
        &deep_inside,
    ];
    for line in lines {
        let mut client = lab.connect().await;
        client.write_all(line).await.unwrap();
        expect_error(&mut client, ErrorKind::Usage).await;
    }
    assert!(lab.events.try_recv().is_err(), "nothing of this reached the control loop");
}

#[tokio::test]
async fn an_endless_line_is_cut_at_the_bound() {
    let lab = Lab::start("");
    for piece in [b"x".repeat(1 << 20), b"[".repeat(100_000)] {
        let mut client = lab.connect().await;
        let (mut reader, mut writer) = client.split();
        let mut written = 0_usize;
        while written < 1 << 30 {
            match writer.write(&piece).await {
                Ok(more) => written += more,
                Err(_) => break,
            }
        }
        assert!(written < 8 << 20, "{written} bytes were taken");
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("65536 bytes"), "{answer}");
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_leave_room_for_an_honest_client() {
    let mut lab = Lab::start("");
    let mut waiting = lab.connect().await;
    waiting.write_all(ping().as_bytes()).await.unwrap();
    let waiting_id = lab.any_request().await;

    let mut half_open = Vec::new();
    for _ in 0..1_000 {
        let mut client = lab.connect().await;
        client.write_all(b"{\"request\":").await.unwrap();
        half_open.push(client);
    }
    let mut client = lab.connect().await;
    client.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
    let id = lab.next_request(&Request::Status).await;
    lab.replies.reply(id, status());
    let answer = timeout(REQUEST_TIME / 2, read_all(&mut client)).await;
    assert_eq!(answer.expect("nobody has to wait for the others to time out"), [status()]);

    lab.replies.reply(waiting_id, Response::Done);
    assert_eq!(read_all(&mut waiting).await, [Response::Done], "who waits is never displaced");
    let places = lab.replies.places.lock();
    assert!(places.half_open.len() + places.serving.len() <= MAX_CLIENTS);
}

#[tokio::test]
async fn when_everybody_waits_for_an_answer_a_newcomer_is_told_so() {
    let mut lab = Lab::start("");
    let mut waiting = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut client = lab.connect().await;
        client.write_all(ping().as_bytes()).await.unwrap();
        waiting.push((lab.any_request().await, client));
    }
    expect_error(&mut lab.connect().await, ErrorKind::Failed).await;
    let (id, mut client) = waiting.pop().unwrap();
    lab.replies.reply(id, Response::Done);
    assert_eq!(read_all(&mut client).await, [Response::Done]);
    let mut client = lab.connect().await;
    client.write_all(ping().as_bytes()).await.unwrap();
    lab.any_request().await;
}

#[tokio::test]
async fn a_half_open_connection_ends_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::bind(&dir.path().join("s"), access(dir.path(), "")).unwrap();
    server.request_time = Duration::from_millis(20);
    let (_events, replies) = server.start();
    let mut client = UnixStream::connect(dir.path().join("s")).await.unwrap();
    client.write_all(b"{").await.unwrap();
    assert_eq!(read_all(&mut client).await, []);
    assert!(replies.places.lock().half_open.is_empty());
}

#[tokio::test]
async fn the_groups_decide_who_may_look_and_who_may_change() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let leave = "{\"request\":\"leave\",\"network\":null}\n";
    let status = "{\"request\":\"status\"}\n";
    let groups = "ginnel-admin:x:501:ada\nginnel:x:500:bob\n";
    for (uid, line, allowed) in [
        (0, leave, true),
        (1001, leave, true),
        (1001, status, true),
        (1002, leave, false),
        (1002, status, true),
        (1003, leave, false),
        (1003, status, false),
    ] {
        let mut lab = Lab::start(groups);
        let mut client = lab.connect_as(uid).await;
        // A stranger is refused before it wrote a word.
        let _ = client.write_all(line.as_bytes()).await;
        if allowed {
            let id = lab.any_request().await;
            lab.replies.reply(id, Response::Done);
            assert_eq!(read_all(&mut client).await, [Response::Done]);
        } else {
            let message = expect_error(&mut client, ErrorKind::NotPermitted).await;
            assert!(message.contains("group ginnel"), "{message}");
            assert!(lab.events.try_recv().is_err());
        }
    }
}

#[tokio::test]
async fn readers_and_strangers_cannot_lock_out_who_may_change() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut lab = Lab::start("ginnel:x:500:bob\n");
    let mut readers = Vec::new();
    for _ in 0..MAX_READERS {
        let mut client = lab.connect_as(1002).await;
        client.write_all(ping().as_bytes()).await.unwrap();
        lab.any_request().await;
        readers.push(client);
    }
    expect_error(&mut lab.connect_as(1002).await, ErrorKind::Failed).await;
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(lab.connect_as(1003).await);
    }
    let mut client = lab.connect().await;
    client.write_all(ping().as_bytes()).await.unwrap();
    lab.any_request().await;
    drop(strangers);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run").join("s");
    let bind = || Server::bind(&path, access(dir.path(), ""));
    let live = bind().unwrap();
    assert_eq!(mode(&path), SOCKET_MODE);
    assert_eq!(mode(path.parent().unwrap()), FOLDER_MODE);
    assert!(matches!(bind(), Err(BindError::Live(_))));
    drop(live);
    assert!(!path.exists(), "a server that ends removes its socket");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let replaced = bind().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(replaced);
    assert!(matches!(bind(), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_server() {
    let Lab { dir, events, replies: _ } = Lab::start("");
    let path = dir.path().join("s");
    assert!(path.exists());
    drop(events);
    while path.exists() {
        tokio::task::yield_now().await;
    }
}

impl Lab {
    fn start(groups: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let access = access(dir.path(), groups);
        let (events, replies) = Server::bind(&dir.path().join("s"), access).unwrap().start();
        Self { dir, events, replies }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).await.unwrap()
    }

    /// Connects from a thread that has become another user.
    async fn connect_as(&self, uid: u32) -> UnixStream {
        let path = self.dir.path().join("s");
        let connect = move || {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            std::os::unix::net::UnixStream::connect(path).unwrap()
        };
        // Credentials are a thread's own.
        let stream = std::thread::spawn(connect).join().unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    async fn any_request(&mut self) -> RequestId {
        match self.events.recv().await {
            Some(ClientEvent::Request { id, .. }) => id,
            other => panic!("no request but {other:?}"),
        }
    }

    /// The id of the next request, which must be this one.
    async fn next_request(&mut self, expected: &Request) -> RequestId {
        match self.events.recv().await {
            Some(ClientEvent::Request { id, request, .. }) if request == *expected => id,
            other => panic!("not {expected:?} but {other:?}"),
        }
    }
}

fn access(dir: &Path, groups: &str) -> Access {
    super::access::tests::host(dir, groups)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn read_all(client: &mut UnixStream) -> Vec<Response> {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reads to the end, which may be a reset where the server left something unread.
async fn expect_error(client: &mut UnixStream, kind: ErrorKind) -> String {
    let mut bytes = Vec::new();
    let _ = client.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    match serde_json::from_str(&text).unwrap() {
        Response::Error(error) if error.kind == kind => error.message,
        other => panic!("not {kind:?} but {other:?}"),
    }
}

fn ping() -> String {
    let request =
        Request::Ping { device: "nas".into(), count: None, until_direct: false, timeout_ms: 1_000 };
    serde_json::to_string(&request).unwrap() + "\n"
}

fn pong(seq: u32) -> Response {
    Response::Pong(Pong { seq, rtt_ms: Some(1.5), path: None })
}

fn status() -> Response {
    Response::Status(Status { schema: 1, version: "0".into(), uptime_s: 1, networks: Vec::new() })
}
