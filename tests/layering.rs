//! The layers that `src/lib.rs` describes, held by reading the source: which module may know which other one, and
//! which outside crate belongs where.
//!
//! A deliberately small reader does it: comments, strings and test modules are taken out, then
//! every path that begins with `crate::`, `super::…` or the name of a dependency counts, in a `use`
//! as well as in an expression. What a macro makes is not seen.
//!
//! Where the table names submodules (`forward::{table, slot, tunnel}`), a type that `mod.rs`
//! re-exports counts as its submodule, and a type that `mod.rs` defines belongs to everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// module | modules it may import (`forward::table`: a part of one) | outside crates
///
/// What building showed to be better than the first plan:
/// * `io` speaks `mesh::event`, `wire` and `api`: adapters take and give what `mesh` decides with,
///   plain data without behaviour, so that nothing in between has to translate it.
/// * `io` has libc, for one socket option that no safe crate names.
/// * `io` has arc-swap: what a socket is known to do is read for every batch, and no lock is held
///   across a system call.
/// * `io` has parking_lot: a DHT node's thread and its owner share a few numbers.
/// * `cli` checks a device's name by `membership::policy`, so that the user hears of a bad name
///   before the agent does, in the same words.
/// * `cli` has tokio, for one signal: Ctrl-C ends `ping` with its summary.
const TABLE: &str = "
identity   | -                         | x25519-dalek ed25519-dalek curve25519-dalek sha2 hkdf zeroize serde data-encoding
membership | identity                  | postcard serde data-encoding zeroize
wire       | identity membership       | stun_codec bytecodec chacha20poly1305 postcard serde zeroize
forward    | identity wire             | boringtun blake2 chacha20poly1305 hkdf ring rand parking_lot arc-swap zeroize
mesh       | identity membership wire forward::table forward::slot forward::tunnel api | rand zeroize
io         | identity wire api mesh::event forward::buffer forward::ecn forward::expected forward::packet | tokio tun-rs tun-tap quinn-udp socket2 rustix libc rtnetlink netlink-packet-route netlink-sys futures-util n0-mainline igd-next crab_nat arc-swap parking_lot rand zeroize
api        | identity                  | serde
config     | identity                  | serde toml tracing-subscriber
agent      | identity membership wire forward mesh io api config | tokio anyhow arc-swap parking_lot rustix sd-notify serde_json zeroize
cli        | api config identity membership::policy | clap clap_complete anyhow comfy-table indicatif humantime qrcode serde serde_json rustix tokio
";

/// Allowed in every layer.
const EVERYWHERE: &[&str] = &["thiserror", "tracing"];

/// One row of the table.
struct Layer {
    name: &'static str,
    modules: Vec<&'static str>,
    crates: Vec<&'static str>,
}

fn layers() -> Vec<Layer> {
    let rows = TABLE.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut columns = line.split('|').map(|column| column.split_whitespace().collect());
        let mut next = || -> Vec<&'static str> { columns.next().expect("three columns a row") };
        Layer { name: next()[0], modules: next(), crates: next() }
    });
    rows.collect()
}

/// Crates that only one place may name: who looks for what makes and opens handshakes and packets
/// finds it there, and nowhere else.
const ONE_PLACE_ONLY: &[(&str, &str)] = &[
    ("boringtun", "src/forward/tunnel"),
    ("blake2", "src/forward/tunnel"),
    ("ring", "src/forward/aead"),
];

/// Longest file, tests not counted.
const MAX_LINES: usize = 400;
/// Files that may be longer, with the reason. There is none.
const LONGER: &[&str] = &[];

#[test]
fn modules_and_crates_are_used_only_where_the_table_says() {
    let faults: Vec<String> = sources("src").iter().flat_map(|path| faults_of(path)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_is_short_enough_to_read() {
    let mut faults = Vec::new();
    for path in sources("src").into_iter().chain(sources("tests")) {
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let lines = without_tests(&text).count();
        let name = relative(&path);
        if !is_unit_test(&name) && lines > MAX_LINES && !LONGER.contains(&name.as_str()) {
            faults.push(format!(
                "{name} has {lines} lines without its tests, the limit is {MAX_LINES}"
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_top_level_module_has_a_row_in_the_table() {
    let lib = code_of(&fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs exists"));
    let words: Vec<&str> = lib.split_whitespace().collect();
    for pair in words.windows(2).filter(|pair| pair[0] == "mod") {
        let name = pair[1].trim_end_matches(';');
        assert!(layers().iter().any(|layer| layer.name == name), "{name} has no row in the table");
    }
}

#[test]
fn the_reader_sees_what_it_has_to_see() {
    let module = ["mesh", "peers"].map(String::from);
    let text = r#"
        // crate::in_a_comment::X
        use crate::{api::{Status, self}, wire::stun as s};
        fn f() { let x = "crate::in_a_string::X"; super::super::io::udp::open(); super::peer::Y; }
        impl a::tokio::B for tokio::C {}
        #[cfg(test)]
        mod tests { use crate::in_a_test::X; }
    "#;
    let known = BTreeSet::from(["tokio".to_string()]);
    let (modules, crates) = paths_of(&code_of(text), &module, &known);
    let seen: BTreeSet<String> = modules.iter().map(|path| path.join("::")).collect();
    let expected = ["api::Status", "api::self", "wire::stun", "io::udp", "mesh::peer"];
    assert_eq!(seen, expected.map(String::from).into());
    assert_eq!(crates, BTreeSet::from(["tokio".to_string()]));
}

fn faults_of(path: &Path) -> Vec<String> {
    let name = relative(path);
    if is_unit_test(&name) {
        return Vec::new();
    }
    let module = module_of(&name);
    let table = layers();
    let top = module.first().map(String::as_str).unwrap_or_default();
    let Some(layer) = table.iter().find(|layer| layer.name == top) else { return Vec::new() };
    let code = code_of(&fs::read_to_string(path).expect("a source file can be read"));
    let known = dependencies();
    let (modules, crates) = paths_of(&code, &module, &known.keys().cloned().collect());
    let mut faults = Vec::new();
    for used in modules.iter().filter(|used| !may_import(layer, used)) {
        faults.push(format!("{name}: `{}` may not know `crate::{}`", layer.name, used.join("::")));
    }
    for used in &crates {
        let cargo_name = known[used].as_str();
        let belongs = layer.crates.contains(&cargo_name) || EVERYWHERE.contains(&cargo_name);
        if !belongs {
            faults.push(format!(
                "{name}: the crate `{cargo_name}` does not belong in `{}`",
                layer.name
            ));
        }
        let only = ONE_PLACE_ONLY.iter().find(|(krate, _)| *krate == cargo_name);
        if let Some((_, file)) = only.filter(|(_, file)| !name.starts_with(file)) {
            faults.push(format!("{name}: the crate `{cargo_name}` may be named only in {file}"));
        }
    }
    faults
}

/// Whether the whole file is the test module of one beside it.
fn is_unit_test(name: &str) -> bool {
    name.starts_with("src/") && (name.ends_with("/tests.rs") || name.contains("/tests/"))
}

fn may_import(layer: &Layer, used: &[String]) -> bool {
    let Some(top) = used.first() else { return true };
    let known = layers().iter().any(|layer| layer.name == top);
    // Macros and items of lib.rs are nobody's layer.
    if top == layer.name || !known || layer.modules.contains(&top.as_str()) {
        return true;
    }
    let parts: Vec<&str> =
        layer.modules.iter().filter_map(|part| part.strip_prefix(&format!("{top}::"))).collect();
    let Some(second) = used.get(1) else { return !parts.is_empty() };
    if parts.is_empty() {
        return false;
    }
    let submodule = home_of(top, second);
    submodule.is_none_or(|home| parts.contains(&home.as_str()))
}

/// The submodule of `top` that `item` lives in: itself, or where `mod.rs` re-exports it from;
/// `None` when `mod.rs` defines it.
fn home_of(top: &str, item: &str) -> Option<String> {
    let folder = root().join("src").join(top);
    if folder.join(format!("{item}.rs")).exists() || folder.join(item).is_dir() {
        return Some(item.into());
    }
    let text = fs::read_to_string(folder.join("mod.rs")).ok()?;
    let tokens = tokens_of(&code_of(&text));
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            let mut paths = Vec::new();
            at = read_tree(&tokens, at + 1, &[], &mut paths);
            let names = |path: &&Vec<String>| path.last().is_some_and(|last| last == item);
            if let Some(path) = paths.iter().find(names) {
                let start = usize::from(path.first().is_some_and(|first| first == "self"));
                return path.get(start).cloned();
            }
        }
        at += 1;
    }
    None
}

/// Paths into this crate, as `[module, item]`, and dependencies named.
fn paths_of(
    code: &str,
    module: &[String],
    known: &BTreeSet<String>,
) -> (Vec<Vec<String>>, BTreeSet<String>) {
    let tokens = tokens_of(code);
    let (mut modules, mut crates) = (Vec::new(), BTreeSet::new());
    for at in 0..tokens.len() {
        let token = tokens[at].as_str();
        let follows = tokens.get(at + 1).is_some_and(|next| next == "::");
        // Inside a longer path (`a::tokio` is not the crate)
        let inside = at >= 2 && tokens[at - 1] == "::" && is_name(&tokens[at - 2]);
        let used = tokens.get(at.wrapping_sub(1)).is_some_and(|before| before == "use");
        if inside {
            continue;
        }
        match token {
            "crate" if follows => {
                let mut paths = Vec::new();
                read_tree(&tokens, at + 2, &[], &mut paths);
                modules.extend(paths);
            }
            "super" if follows => {
                let mut start = at;
                let mut up = 0;
                while tokens.get(start).is_some_and(|token| token == "super") {
                    up += 1;
                    start += 2;
                }
                let parent = &module[..module.len().saturating_sub(up)];
                let mut paths = Vec::new();
                read_tree(&tokens, start, parent, &mut paths);
                modules.extend(paths);
            }
            _ if known.contains(token) && (follows || used) => {
                crates.insert(token.into());
            }
            _ => {}
        }
    }
    modules.iter_mut().for_each(|path| path.truncate(2));
    modules.retain(|path| !path.is_empty());
    (modules, crates)
}

/// Reads a path or a tree of them (`a::{b, c::d}`) from `at`; returns where it ends.
fn read_tree(
    tokens: &[String],
    at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut at = at;
    while let Some(token) = tokens.get(at) {
        if token == "{" && at > 0 && (tokens[at - 1] == "::" || tokens[at - 1] == "use") {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                let next = read_tree(tokens, at, &path, paths);
                at = next.max(at + 1);
                while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                    at += 1;
                }
                if tokens.get(at).is_some_and(|token| token == ",") {
                    at += 1;
                }
            }
            return at + 1;
        }
        if !is_name(token) {
            break;
        }
        path.push(token.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    paths.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(rest[..length].into());
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The lines before the test module, which is a file's last part.
fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    let after = text.lines().skip(1).chain(std::iter::once(""));
    let starts = |line: &str, next: &str| {
        line.trim() == "#[cfg(test)]" && next.split_whitespace().take(2).any(|word| word == "mod")
    };
    text.lines()
        .zip(after)
        .take_while(move |(line, next)| !starts(line, next))
        .map(|(line, _)| line)
}

/// The text without comments, strings and tests.
fn code_of(text: &str) -> String {
    let stripped = without_tests(text).map(|line| {
        let line = line.replace("'\"'", "");
        let mut code = String::new();
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => drop(chars.next()),
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                _ if !in_string => code.push(c),
                _ => {}
            }
        }
        code
    });
    stripped.collect::<Vec<_>>().join("\n")
}

/// Dependencies: their name in Rust → their name in Cargo.toml.
fn dependencies() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml exists");
    let section = text.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names = section
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(" =").next());
    let names = names.map(str::trim).filter(|name| !name.is_empty() && !name.starts_with('#'));
    names.map(|name| (name.replace('-', "_"), name.to_owned())).collect()
}

/// `src/mesh/peers.rs` → `[mesh, peers]`, `src/mesh/mod.rs` → `[mesh]`.
fn module_of(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(String::from).collect()
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
