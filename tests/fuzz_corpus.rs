//! Every fuzz target on its seeds and on what fuzzing found (`tests/fuzz/corpus/NAME/`): no panic,
//! no allocation over the bound, no input that takes too long. With `--nocapture` it says what the
//! dearest inputs cost.
//!
//! `cargo test --test fuzz_corpus -- --ignored` writes the seeds to where `scripts/fuzz.sh` starts
//! from.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::{Cost, TARGETS, Target};

/// How much longer than an optimized build this one may take, on a machine that does other things
/// as well: it shall find what is quadratic, not what is not inlined.
const PATIENCE: u32 = if cfg!(debug_assertions) { 20 } else { 2 };

/// Committed inputs, in bytes all together: they shall stay small beside the sources.
const MAX_CORPUS: usize = 400 << 10;

#[test]
fn no_target_fails_on_its_seeds() {
    for target in TARGETS {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let _ = run(target, seed, &format!("seed {number}"));
        }
    }
}

#[test]
fn no_target_fails_on_its_corpus() {
    let mut bytes = 0;
    for target in TARGETS {
        let files = files(&corpus().join(target.name));
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        let mut dearest = Cost::default();
        for file in files {
            let input = fs::read(&file).expect("a corpus can be read");
            bytes += input.len();
            dearest = dearest.max(run(target, &input, &file.display().to_string()));
        }
        let Cost { largest_allocation, time } = dearest;
        println!("{}: at most {largest_allocation} bytes at once and {time:?}", target.name);
    }
    assert!(bytes <= MAX_CORPUS, "the corpora have {bytes} bytes: `scripts/fuzz.sh --keep`");
}

#[test]
fn every_corpus_and_every_program_has_a_target_and_every_target_a_program() {
    let stems = |folder: PathBuf| {
        let mut stems: Vec<String> = entries(&folder)
            .iter()
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        stems.sort();
        stems
    };
    let mut names: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    names.sort();
    assert_eq!(stems(corpus()), names);
    // The simulator replays its own.
    names.push("history".into());
    names.sort();
    assert_eq!(stems(package().join("bin")), names);
}

#[test]
#[ignore = "writes the seeds for scripts/fuzz.sh"]
fn write_the_seeds() {
    for target in TARGETS {
        let folder = package().join("target/seeds").join(target.name);
        fs::create_dir_all(&folder).expect("the target folder can be written");
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("so can its files");
        }
    }
}

fn run(target: &Target, input: &[u8], what: &str) -> Cost {
    let result = catch_unwind(|| target.run(input, PATIENCE));
    result.unwrap_or_else(|_| panic!("{} fails on {what}", target.name))
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn corpus() -> PathBuf {
    package().join("corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_file()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
