//! The fuzz targets as a library, for the programs in `bin/`; see [`targets`].

use std::cell::Cell;

use targets::{Cost, TARGETS, Target};

pub mod targets;

thread_local! {
    /// What the dearest inputs so far cost.
    static DEAREST: Cell<Option<Cost>> = const { Cell::new(None) };
}

/// The program of the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::fuzz(
            const { $crate::named($name) },
            data
        ));
    };
}

/// The target of this name. To be found while compiling: a program then holds the code of no other
/// one, whose counters libFuzzer would read after every input.
pub const fn named(name: &str) -> Target {
    let mut number = 0;
    while !same(TARGETS[number].name.as_bytes(), name.as_bytes()) {
        number += 1;
    }
    TARGETS[number]
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([a, one @ ..], [b, other @ ..]) => *a == *b && same(one, other),
        _ => false,
    }
}

/// Runs one input of a target, as libFuzzer wants it: it counts a panic, an allocation or a time
/// over the bounds as a crash. Says at the end of the program what the dearest inputs cost, which
/// `scripts/fuzz.sh` reads.
pub fn fuzz(target: Target, data: &[u8]) {
    let cost = target.run(data, 1);
    let before = DEAREST.replace(None).unwrap_or_else(|| {
        // SAFETY: the function does nothing that is forbidden while a program ends.
        let failed = unsafe { libc::atexit(say) };
        assert_eq!(failed, 0, "there is room for one function");
        Cost::default()
    });
    DEAREST.set(Some(before.max(cost)));
}

extern "C" fn say() {
    let Cost { largest_allocation, time } = DEAREST.get().unwrap_or_default();
    eprintln!("cost::largest_allocation: {largest_allocation}");
    eprintln!("cost::slowest_input_us: {}", time.as_micros());
}
