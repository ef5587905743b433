//! Lives histories of many devices in the simulator: every byte is a choice (`tests/sim/plan.rs`).
//! `SIM_BYTES` of the simulator replays what it finds.

#![no_main]

#[path = "../../sim/main.rs"]
#[allow(dead_code, unused_imports, reason = "most of the simulator serves its own tests")]
mod sim;

use std::thread;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // What the standard library draws once a thread is part of a history.
    let ended = thread::scope(|scope| scope.spawn(|| sim::history::live(data)).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
});
