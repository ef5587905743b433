//! `ginnel ping`: replies as they come, each with the path it took, then a summary.
//!
//! Interrupting it (Ctrl-C) ends the connection, which makes the agent stop, and prints the summary
//! of what came until then. It fails with "unreachable" where nothing answered, and with
//! `--until-direct` also where no reply came directly.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::args::PingArgs;
use super::render::{clean, milliseconds, path};
use super::{Exit, Failure, client, print, print_json, unexpected};
use crate::api::{PathKind, PathStatus, PingSummary, Pong, Request, Response, SCHEMA};

/// How long a device that has to be found first may take, beyond a second for each probe.
const CONNECTING: Duration = Duration::from_secs(30);

/// "For ever" for the agent, small enough to be added to any clock.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much longer than its own time-out the agent may take to say that it gave up.
const GRACE: Duration = Duration::from_secs(10);

/// Probes until the count, the time-out, a direct reply or the user ends it.
pub fn run(args: PingArgs, socket: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
    let timeout = args.timeout.or_else(|| default_timeout(args.count, args.until_direct));
    let request = Request::Ping {
        device: args.device.clone(),
        count: args.count,
        until_direct: args.until_direct,
        timeout_ms: u64::try_from(timeout.unwrap_or(FOR_EVER).as_millis()).unwrap_or(u64::MAX),
    };
    let mut answers = client::ask(socket, &request, timeout.map(|timeout| timeout + GRACE))?;
    let interrupted = end_on_interrupt(answers.handle()?)?;
    let mut tally = Tally::default();
    let summary = loop {
        match answers.receive() {
            Ok(Response::Pong(pong)) => {
                tally.count(&pong);
                match args.json {
                    true => print_json(&pong, out)?,
                    false => print(&line(&args.device, &pong), out)?,
                }
            }
            Ok(Response::PingSummary(summary)) => break summary,
            Ok(other) => return Err(unexpected(&other)),
            Err(_) if interrupted.load(Ordering::Relaxed) => break tally.summary(&args.device),
            Err(failure) => return Err(failure),
        }
    };
    match args.json {
        true => print_json(&summary, out)?,
        false => print(&text(&summary), out)?,
    }
    verdict(&summary, args.until_direct)
}

/// `None` is for ever.
fn default_timeout(count: Option<u32>, until_direct: bool) -> Option<Duration> {
    match count {
        Some(count) => Some(CONNECTING + Duration::from_secs(count.into())),
        None => until_direct.then_some(CONNECTING),
    }
}

fn verdict(summary: &PingSummary, until_direct: bool) -> Result<Exit, Failure> {
    let device = clean(&summary.device);
    let unreachable = |message| Err(Failure::new(Exit::Unreachable, message));
    if summary.received == 0 {
        return unreachable(format!("{device} did not answer; see: ginnel status"));
    }
    if until_direct && !summary.path.as_ref().is_some_and(is_direct) {
        return unreachable(format!("no direct path to {device} came about in time"));
    }
    Ok(Exit::Done)
}

fn is_direct(path: &PathStatus) -> bool {
    matches!(path.kind, PathKind::Direct | PathKind::Lan)
}

fn line(device: &str, pong: &Pong) -> String {
    let (device, seq) = (clean(device), pong.seq);
    let way = pong.path.as_ref().map(|way| format!(" path={}", path(way))).unwrap_or_default();
    match pong.rtt_ms {
        Some(rtt) => format!("reply from {device}: seq={seq} time={}{way}\n", milliseconds(rtt)),
        None => format!("no reply from {device}: seq={seq}{way}\n"),
    }
}

fn text(summary: &PingSummary) -> String {
    let PingSummary { sent, received, .. } = *summary;
    let lost = 100 * u64::from(sent.saturating_sub(received)) / u64::from(sent.max(1));
    let device = clean(&summary.device);
    let mut text = format!(
        "\n--- {device} ping statistics ---\n{sent} probes sent, {received} answered, {lost}% lost\n"
    );
    if let (Some(min), Some(avg), Some(max)) = (summary.min_ms, summary.avg_ms, summary.max_ms) {
        text += &format!("round trip min/avg/max = {min:.2}/{avg:.2}/{max:.2} ms\n");
    }
    text
}

/// What the replies until an interruption come to.
#[derive(Debug, Default)]
struct Tally {
    sent: u32,
    replies: Vec<f64>,
    path: Option<PathStatus>,
}

impl Tally {
    fn count(&mut self, pong: &Pong) {
        self.sent = self.sent.max(pong.seq);
        if let Some(rtt) = pong.rtt_ms {
            self.replies.push(rtt);
            self.path = pong.path.clone().or_else(|| self.path.take());
        }
    }

    fn summary(self, device: &str) -> PingSummary {
        let received = self.replies.len();
        let answered = received > 0;
        PingSummary {
            schema: SCHEMA,
            device: device.to_owned(),
            sent: self.sent,
            received: u32::try_from(received).unwrap_or(u32::MAX),
            min_ms: self.replies.iter().copied().reduce(f64::min),
            avg_ms: answered.then(|| self.replies.iter().sum::<f64>() / received as f64),
            max_ms: self.replies.iter().copied().reduce(f64::max),
            path: self.path,
        }
    }
}

/// Ends the connection at the first SIGINT, and says so; a second one ends the process.
#[expect(clippy::disallowed_methods, reason = "a signal has to be waited for beside the socket")]
fn end_on_interrupt(connection: UnixStream) -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error| Failure::new(Exit::Failed, format!("cannot wait for signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // Here and not in the thread: from now on no SIGINT is missed.
    let mut interrupts = {
        let _context = runtime.enter();
        signal(SignalKind::interrupt()).map_err(failed)?
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            interrupts.recv().await;
            flag.store(true, Ordering::Relaxed);
            // An error means that the connection ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
            interrupts.recv().await;
            std::process::exit(130);
        });
    });
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(seq: u32, rtt_ms: Option<f64>, kind: PathKind) -> Pong {
        let endpoint = "203.0.113.11:41641".parse().unwrap();
        Pong { seq, rtt_ms, path: rtt_ms.map(|_| PathStatus { kind, endpoint, via: None }) }
    }

    fn tally(pongs: &[Pong]) -> PingSummary {
        let mut tally = Tally::default();
        pongs.iter().for_each(|pong| tally.count(pong));
        tally.summary("nas")
    }

    #[test]
    fn each_reply_names_the_path_it_took() {
        let expected = "reply from nas: seq=1 time=1.42 ms path=direct 203.0.113.11:41641\n";
        assert_eq!(line("nas", &pong(1, Some(1.42), PathKind::Direct)), expected);
        assert_eq!(line("nas", &pong(2, None, PathKind::Direct)), "no reply from nas: seq=2\n");
    }

    #[test]
    fn an_interrupted_series_is_summed_up_from_what_came() {
        let summary = tally(&[
            pong(1, None, PathKind::Relay),
            pong(2, Some(4.0), PathKind::Relay),
            pong(3, Some(2.0), PathKind::Direct),
        ]);
        let expected = "\n--- nas ping statistics ---\n3 probes sent, 2 answered, 33% lost\n\
                        round trip min/avg/max = 2.00/3.00/4.00 ms\n";
        assert_eq!(text(&summary), expected);
        assert_eq!(summary.path.unwrap().kind, PathKind::Direct);
    }

    #[test]
    fn silence_and_a_missing_direct_path_are_unreachable() {
        let exit = |pongs: &[Pong], until_direct| {
            verdict(&tally(pongs), until_direct).unwrap_or_else(|failure| failure.exit)
        };
        assert_eq!(exit(&[], false), Exit::Unreachable);
        assert_eq!(exit(&[pong(1, None, PathKind::Direct)], false), Exit::Unreachable);
        assert_eq!(exit(&[pong(1, Some(1.0), PathKind::Relay)], false), Exit::Done);
        assert_eq!(exit(&[pong(1, Some(1.0), PathKind::Relay)], true), Exit::Unreachable);
        assert_eq!(exit(&[pong(1, Some(1.0), PathKind::Lan)], true), Exit::Done);
    }

    #[test]
    fn without_a_count_only_until_direct_has_a_time_out_of_its_own() {
        assert_eq!(default_timeout(None, false), None);
        assert_eq!(default_timeout(None, true), Some(CONNECTING));
        assert_eq!(default_timeout(Some(5), false), Some(Duration::from_secs(35)));
    }
}
