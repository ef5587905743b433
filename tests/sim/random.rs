//! Random histories: a seed makes the devices, their NATs, the weather and what goes wrong; see
//! [`plan`](super::plan) for what there is and [`history`](super::history) for what must come of it.
//!
//! `SIM_SEEDS=500` tries more seeds than an ordinary test run, `SIM_FIRST` says where to begin,
//! `SIM_SEED=7` replays one, `SIM_BYTES=…` one that was made small. With `SIM_TRACE=1` every
//! datagram is shown. `SIM_SHRINK` says how many failing seeds are made small.

use std::any::Any;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::history::live;
use super::plan::Plan;
use super::shrink::shrink;

/// Seeds of an ordinary run; `scripts/test.sh` lives 500.
const SEEDS: u64 = 20;

/// How many failing seeds are made small: each costs hundreds of runs.
const SHRUNK: usize = 2;

/// Threads that fail here do so for the shrinker, and nobody wants to read it.
const SHRINKING: &str = "shrinking";

/// Runs one history on a thread of its own: what the standard library draws once a thread is part
/// of the run. Its trace, or why it ended badly.
fn run(bytes: &[u8], thread: &str) -> Result<u64, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(thread.to_owned());
        let handle = thread.spawn_scoped(scope, || live(bytes)).expect("a thread");
        handle.join().map_err(|panic| message(&*panic))
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// The failure without its numbers: the same for histories that fail in the same way.
fn essence(failure: &str) -> String {
    let first = failure.lines().next().unwrap_or_default();
    let what = first.split_once(": ").map_or(first, |(_, what)| what);
    what.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

/// A small history that fails in the same way, with the command that shows it.
fn explain(bytes: &[u8], failure: &str) -> String {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if thread::current().name() != Some(SHRINKING) {
                loud(info);
            }
        }));
    });
    let wanted = essence(failure);
    let fails = |bytes: &[u8]| run(bytes, SHRINKING).is_err_and(|found| essence(&found) == wanted);
    let small = shrink(bytes, fails);
    let failure = run(&small, SHRINKING).expect_err("it failed while it was made small");
    let hex: String = small.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "made small:\n{}  {failure}\n  SIM_TRACE=1 SIM_BYTES={hex} cargo test --test sim random_histories_end_well -- --nocapture\n",
        Plan::read(&small)
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The seeds of `seeds` that fail, in order, and why; on as many threads as there are cores.
fn failures(seeds: std::ops::Range<u64>) -> Vec<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mine = std::iter::from_fn(|| {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            (seed < seeds.end).then_some(seed)
        });
        mine.filter_map(|seed| Some((seed, run(&Plan::bytes(seed), "history").err()?))).collect()
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut failed: Vec<(u64, String)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let found = threads.into_iter().map(|thread| thread.join().expect("it catches panics"));
        found.flat_map(|found: Vec<_>| found).collect()
    });
    failed.sort();
    failed
}

#[test]
fn random_histories_end_well() {
    let replayed = match (number("SIM_SEED"), std::env::var("SIM_BYTES")) {
        (Some(seed), _) => Some(Plan::bytes(seed)),
        (None, Ok(hex)) => Some(unhex(&hex)),
        (None, Err(_)) => None,
    };
    if let Some(bytes) = replayed {
        println!("{}", Plan::read(&bytes));
        println!("trace {:016x}", run(&bytes, "history").expect("it ends well"));
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let failed = failures(first..first + number("SIM_SEEDS").unwrap_or(SEEDS));
    for (seed, failure) in failed.iter().take(number("SIM_SHRINK").map_or(SHRUNK, |n| n as usize)) {
        println!("seed {seed}: {failure}\n{}", explain(&Plan::bytes(*seed), failure));
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "these seeds failed; SIM_SEED=<seed> replays one: {seeds:?}");
}

#[test]
fn random_histories_are_the_same_for_the_same_seed() {
    for seed in [3, 4, 5, 6] {
        let bytes = Plan::bytes(seed);
        assert_eq!(run(&bytes, "history"), run(&bytes, "history"), "seed {seed}");
    }
}

/// What the shrinker left of histories that showed a bug.
const ONCE_FAILED: [&str; 4] = [
    // A joining device took its sponsor for a member before it was one itself, and forgot that they
    // had met when it was: it never heard of anybody who joined later.
    "65700c0057b5100000725d0000000000156c0000000000001500000000000000",
    // The sponsor crashed between its nonce and the request, and took the request for forged.
    "0022e400460000000051f400000000000321cd00000000891500000000000000",
    // One confirmation of a session, sent to two addresses.
    "0000003d8f950000007b690081000000151b00c5ff000000",
    // A joining device crashed once it was granted, and its sponsor began the new session: it waited for
    // one of its own to stand.
    "000f600000002f0000750000000000001500000000000000090000000000000015240089f6000000",
];

#[test]
fn histories_that_once_failed_end_well() {
    for bytes in ONCE_FAILED {
        run(&unhex(bytes), "history").expect("it ends well");
    }
}
