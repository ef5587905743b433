//! The real binary against the real socket server, with answers from a script: what goes to stdout,
//! what to stderr, and which exit code ends it.

#![allow(clippy::disallowed_methods, reason = "a test may spawn threads and read the clock")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod answers;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ginnel::agent::server::ClientEvent;
use ginnel::api::{Created, ErrorKind, Request, Response, SCHEMA};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use agent::{Agent, binary, code, ginnel, json_lines, text, with_stdin};
use answers::{TOKEN, invited, join_answers, pong, status, summary};

#[test]
fn a_wrong_command_line_ends_with_2_and_nothing_on_stdout() {
    for line in [
        "frob",
        "create",
        "create -",
        "create not_a_label",
        "create home --ipv4-pool 10.0.0.1/16",
        "create home --no-ipv4 --ipv4-pool 10.0.0.0/16",
        "invite --expires 8d",
        "invite --expires soon",
        "join ginnel1x --name -nas",
        "ping",
        "ping nas -c 0",
        "status --check well",
        "completions powder",
        "dht --bootstrap nowhere",
    ] {
        let output = ginnel(Path::new("/nonexistent"), line);
        assert_eq!(code(&output), 2, "{line}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{line}");
        assert!(!output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn an_invite_that_is_too_long_not_text_or_missing_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in
        [("long", vec![b'a'; 70_000]), ("binary", vec![0xff; 100]), ("empty", b" \n".to_vec())]
    {
        let file = dir.path().join(name);
        std::fs::write(&file, &content).unwrap();
        let argument = format!("@{}", file.display());
        let output = binary(Path::new("/nonexistent")).args(["join", &argument]).output().unwrap();
        assert_eq!(code(&output), 2, "{output:?}");
        let output = with_stdin(Path::new("/nonexistent"), "join -", &content);
        assert_eq!(code(&output), 2, "{output:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
    }
}

#[test]
fn without_an_agent_every_verb_ends_with_3_and_says_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for socket in [&dir.path().join("none"), &stale] {
        for line in [
            "",
            "status",
            "create home",
            "invite",
            "join ginnel1x",
            "leave",
            "up",
            "down",
            "peers",
            "ping nas",
            "netcheck",
            "members",
            "revoke nas",
            "log",
            "whois nas",
            "ip",
        ] {
            let output = ginnel(socket, line);
            assert_eq!(code(&output), 3, "{line}: {output:?}");
            let message = text(&output.stderr);
            assert!(message.contains("systemctl start ginnel"), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}

#[test]
fn a_socket_that_may_not_be_opened_ends_with_4() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("needs root");
        return;
    }
    let agent = Agent::start(|_| vec![Response::Done]);
    let closed = agent.dir.path();
    std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let program = closed.with_extension("ginnel");
    // By another process: a child that another test forks meanwhile would hold the copy open for
    // writing, and a program that somebody writes cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ginnel")).arg(&program).status();
    assert!(copied.unwrap().success());
    let run = || {
        let mut command = Command::new(&program);
        command.args(["--socket".as_ref(), agent.socket().as_os_str()]).uid(65_534).gid(65_534);
        command.arg("status").output().unwrap()
    };
    let output = run();
    assert_eq!(code(&output), 4, "{output:?}");
    std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = run();
    std::fs::remove_file(&program).unwrap();
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(text(&output.stderr).contains("group ginnel"), "{output:?}");
}

#[test]
fn the_kind_of_the_agents_error_decides_the_exit_code() {
    for (kind, expected) in [
        (ErrorKind::Failed, 1),
        (ErrorKind::Usage, 2),
        (ErrorKind::NotPermitted, 4),
        (ErrorKind::NotFound, 5),
        (ErrorKind::Unreachable, 6),
    ] {
        let agent = Agent::start(move |_| vec![Response::error(kind, "it \x1b[31mwent\nwrong")]);
        for line in ["up", "join ginnel1x", "ping nas", "whois nas --json"] {
            let output = agent.run(line);
            assert_eq!(code(&output), expected, "{line}");
            assert_eq!(text(&output.stdout), "");
            let message = text(&output.stderr);
            assert_eq!(message, "ginnel: it \u{fffd}[31mwent\u{fffd}wrong\n", "{line}");
        }
    }
}

#[test]
fn an_invite_stands_alone_on_stdout_also_with_a_qr_code() {
    let agent = Agent::start(|request| match request {
        Request::Invite { expires_s: 3_600, admin: true, .. } => vec![invited()],
        other => panic!("{other:?}"),
    });
    let output = agent.run("invite home --expires 1h --admin --qr");
    assert_eq!((code(&output), text(&output.stdout)), (0, format!("{TOKEN}\n")));
    assert!(text(&output.stderr).contains('█'));
    let output = agent.run("invite --expires 1h --admin --json");
    let expected = json!({
        "schema": 1, "invite": TOKEN, "network": "home", "expires": "2026-01-02T00:00:00Z"
    });
    assert_eq!(json_lines(&output), [expected]);
}

#[test]
fn create_names_the_device_and_gives_the_command_for_the_other_machine() {
    let agent = Agent::start(|request| {
        let Request::Create { network, device, invite, no_ipv4, .. } = request else {
            panic!("{request:?}")
        };
        assert_eq!((device.as_str(), no_ipv4), ("laptop", true));
        vec![Response::Created(Created {
            schema: SCHEMA,
            network,
            id: "i".into(),
            ipv4: None,
            ipv6: "fd00::1".parse().unwrap(),
            invite: invite.then(|| TOKEN.to_owned()),
        })]
    });
    let output = agent.run("create home --name laptop --no-ipv4");
    assert!(text(&output.stdout).contains(&format!("sudo ginnel join {TOKEN}\n")), "{output:?}");
    let output = agent.run("create home --name laptop --no-ipv4 --no-invite --json");
    let expected = json!({
        "schema": 1, "network": "home", "id": "i", "ipv4": null, "ipv6": "fd00::1", "invite": null
    });
    assert_eq!(json_lines(&output), [expected]);
}

#[test]
fn join_takes_the_invite_from_anywhere_and_shows_each_stage() {
    let agent = Agent::start(|request| match request {
        Request::Join { invite, device, timeout_ms: 9_000 } if device == "nas" => {
            assert_eq!(invite, TOKEN);
            join_answers()
        }
        other => panic!("{other:?}"),
    });
    let file = agent.dir.path().join("invite");
    std::fs::write(&file, format!("{}\n {}\n", &TOKEN[..9], &TOKEN[9..])).unwrap();
    let from_file = format!("join @{} --name nas --timeout 9s", file.display());
    for output in [
        agent.run(&format!("join {TOKEN} --name nas --timeout 9s")),
        agent.run(&from_file),
        with_stdin(&agent.socket(), "join - --name nas --timeout 9s", TOKEN.as_bytes()),
        with_stdin(&agent.socket(), "join --name nas --timeout 9s", TOKEN.as_bytes()),
    ] {
        assert_eq!(code(&output), 0, "{output:?}");
        assert_eq!(text(&output.stdout), "Joined home as nas, fd00::2, in 1.2 s.\n");
        assert_eq!(text(&output.stderr), "   0.3 s  looking for home\n");
    }
    let output = agent.run(&format!("{from_file} --json"));
    let lines = json_lines(&output);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(lines[0]["stage"], "searching");
    assert_eq!((&lines[1]["stage"], &lines[1]["elapsed_ms"]), (&json!("up"), &json!(1_200)));
}

#[test]
fn ping_prints_replies_then_a_summary_and_fails_where_nothing_answered() {
    let agent = Agent::start(|request| match request {
        Request::Ping { device, .. } if device == "tv" => vec![pong(1, None), summary(1, 0)],
        Request::Ping { count: Some(2), timeout_ms: 32_000, .. } => {
            vec![pong(1, None), pong(2, Some(1.5)), summary(2, 1)]
        }
        other => panic!("{other:?}"),
    });
    let output = agent.run("ping nas -c 2");
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("seq=2 time=1.50 ms path=lan 192.0.2.7:41641\n"));
    assert!(text(&output.stdout).contains("2 probes sent, 1 answered, 50% lost"));
    let lines = json_lines(&agent.run("ping nas -c 2 --json"));
    assert_eq!(lines[0], json!({ "seq": 1, "rtt_ms": null, "path": null }));
    assert_eq!((&lines[1]["path"]["kind"], &lines[2]["received"]), (&json!("lan"), &json!(1)));
    assert_eq!(code(&agent.run("ping tv -c 1")), 6);
}

#[test]
fn an_interrupted_ping_sums_up_what_came() {
    let agent = Agent::start(|_| vec![pong(1, Some(1.5))]);
    let mut child =
        binary(&agent.socket()).args(["ping", "nas"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    assert!(first.starts_with("reply from nas: seq=1"), "{first}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("1 probes sent, 1 answered, 0% lost"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(matches!(agent.gone.recv().unwrap(), ClientEvent::Gone { .. }), "the agent may stop");
}

#[test]
fn status_is_the_default_and_its_check_ends_with_7_when_degraded() {
    let agent = Agent::start(|request| {
        assert_eq!(request, Request::Status);
        vec![Response::Status(status(&json!("unreachable")))]
    });
    assert!(text(&agent.run("").stdout).contains("finds nobody"));
    assert_eq!(json_lines(&agent.run("status --json"))[0]["schema"], 1);
    assert_eq!(code(&agent.run("status --check live")), 0);
    for level in ["ready", "direct"] {
        let output = agent.run(&format!("status --check {level}"));
        assert_eq!((code(&output), text(&output.stdout).as_str()), (7, ""));
        assert!(text(&output.stderr).contains("no node of the DHT answers"), "{output:?}");
    }
    let agent = Agent::start(|_| vec![Response::Status(status(&json!("ready")))]);
    assert_eq!(code(&agent.run("status --check direct")), 0);
}

#[test]
fn ip_prints_addresses_only_and_peers_need_a_network() {
    let agent = Agent::start(|_| vec![Response::Status(status(&json!("ready")))]);
    assert_eq!(text(&agent.run("ip").stdout), "10.71.3.9\nfd00::9\n");
    let expected = json!({ "schema": 1, "addresses": [
        { "network": "home", "name": "laptop", "ipv4": "10.71.3.9", "ipv6": "fd00::9" }
    ] });
    assert_eq!(json_lines(&agent.run("ip --json")), [expected]);
    let expected = json!({ "schema": 1, "network": "home", "peers": [] });
    assert_eq!(json_lines(&agent.run("peers --json")), [expected]);
    assert_eq!(code(&agent.run("peers office")), 5);
}

#[test]
fn an_agent_that_talks_nonsense_or_hangs_up_ends_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for (stream, answer) in listener.incoming().zip(["", "{}\n", "\u{ff}\n", "{\"resp"]) {
            stream.unwrap().write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..4 {
        let output = ginnel(&socket, "status");
        assert_eq!(code(&output), 1, "{output:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let output = Command::new("sh")
        .args(["-c", "\"$0\" completions bash | true"])
        .arg(env!("CARGO_BIN_EXE_ginnel"))
        .output()
        .unwrap();
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = ginnel(Path::new("/nonexistent"), &format!("completions {shell}"));
        assert!(code(&output) == 0 && text(&output.stdout).contains("netcheck"), "{shell}");
    }
}

#[test]
fn a_named_configuration_that_is_missing_or_wrong_ends_with_2_and_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ginnel.toml");
    let run = || ginnel(Path::new("/nonexistent"), &format!("agent --config {}", file.display()));
    let output = run();
    assert!(code(&output) == 2 && text(&output.stderr).contains("No such file"), "{output:?}");
    std::fs::write(&file, "[agent]\nprot = 1\n").unwrap();
    let output = run();
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stderr).contains("ginnel.toml, line 2, agent.prot: unknown"),
        "{output:?}"
    );
}
