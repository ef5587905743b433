//! The fuzz targets as a library, for the programs in `bin/`; see [`targets`].

use std::cell::Cell;

use targets::Cost;

pub mod targets;

thread_local! {
    /// What the dearest inputs so far cost.
    static DEAREST: Cell<Option<Cost>> = const { Cell::new(None) };
}

/// Runs one input of the target of this name, as libFuzzer wants it: it counts a panic, an
/// allocation or a time over the bounds as a crash. Says at the end of the program what the dearest
/// inputs cost, which `scripts/fuzz.sh` reads.
pub fn fuzz(name: &str, data: &[u8]) {
    let named = targets::TARGETS.iter().find(|target| target.name == name);
    let cost = named.expect("each program has a target").run(data, 1);
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
