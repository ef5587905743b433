//! The fuzz targets as a library, for the programs in `bin/`; see [`targets`].

pub mod targets;

/// Runs one input of the target of this name, as libFuzzer wants it: it counts a panic, an
/// allocation or a time over the bounds as a crash.
pub fn fuzz(name: &str, data: &[u8]) {
    let named = targets::TARGETS.iter().find(|target| target.name == name);
    named.expect("each program has a target").run(data, 1);
}
