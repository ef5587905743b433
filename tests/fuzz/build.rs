//! Has the linker leave out the counters of code that a program does not hold: libFuzzer reads all
//! of them after every input.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,start-stop-gc");
}
