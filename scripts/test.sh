#!/usr/bin/env bash
# Everything that must hold: format, lints, documentation, licences, unit tests, and the real
# binary in network namespaces. Installs what it needs (Debian packages, cargo-deny).
#
#   scripts/test.sh           all of it, at most 20 minutes on two cores
#   scripts/test.sh --fast    without the namespaces and without installing cargo-deny
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh

fast=
case "${1:-}" in
'') ;;
--fast) fast=yes ;;
-h | --help)
    echo "usage: scripts/test.sh [--fast]   (--fast: no namespaces, cargo-deny only if installed)"
    exit 0
    ;;
*) die "usage: scripts/test.sh [--fast]" ;;
esac
become_root "$@"
install_rust
install_lab
# A stock peer for the tests of interoperability.
install_missing wg=wireguard-tools wireguard-go=wireguard-go

results=()
failed=0

# Runs one step and notes how it ended; the others run all the same.
step() {
    local name=$1 started=$SECONDS ended=ok
    shift
    say "$name"
    "$@" || ended=FAILED
    [ "$ended" = ok ] || failed=$((failed + 1))
    results+=("$(printf '%-8s %5ds  %s' "$ended" $((SECONDS - started)) "$name")")
}
skip() { results+=("$(printf '%-8s %5s   %s' skipped - "$1: $2")"); }

documentation() {
    RUSTDOCFLAGS=-Dwarnings builder cargo doc --locked --no-deps --document-private-items
}

deny() {
    builder cargo deny --log-level error check --hide-inclusion-graph "$@"
}

# The advisory database is fetched from the Internet: a machine that cannot says so, and only that.
advisories() {
    local log
    log=$(mktemp)
    if builder timeout 120 cargo deny check advisories >"$log" 2>&1; then
        skip_reason=
    elif grep -qiE 'failed to (fetch|open|clone|update|query)|advisory database|network|timed out' "$log" &&
        ! grep -qE 'RUSTSEC-' "$log"; then
        skip_reason="the advisory database cannot be reached from here"
    else
        cat "$log"
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# The unit names the installed binary, which need not exist here: the built one stands in.
unit_file() {
    local folder
    folder=$(mktemp -d)
    local binary=${CARGO_TARGET_DIR:-target}/debug/ginnel
    binary=$(realpath "$binary")
    sed -E "s#^(ExecStart=[-@:+!|]*)[^ ]*ginnel#\1$binary#" systemd/ginnel.service >"$folder/ginnel.service"
    local ended=0
    # Only what concerns this unit: others of the machine are not ours to judge.
    local complaints
    complaints=$(systemd-analyze verify --man=no "$folder/ginnel.service" 2>&1 | grep -F ginnel || true)
    [ -z "$complaints" ] || { printf '%s\n' "$complaints"; ended=1; }
    systemd-analyze security --offline=true --threshold=20 --no-pager "$folder/ginnel.service" |
        tail -1 || ended=1
    rm -rf "$folder"
    return $ended
}

netns() {
    local lab
    lab=$(build_lab) || return 1
    [ -x "$lab" ] || return 1
    "$lab"
}

step "format" builder cargo fmt --check
step "lints" builder cargo clippy --all-targets --locked --quiet -- -D warnings
step "documentation" documentation
if ! builder cargo deny --version >/dev/null 2>&1; then
    if [ -n "$fast" ]; then
        skip "licences, bans, sources" "cargo-deny is not installed and --fast installs nothing"
    else
        # Its debug build takes half the time and does the same.
        step "install cargo-deny" builder cargo install cargo-deny --locked --debug --quiet
    fi
fi
if builder cargo deny --version >/dev/null 2>&1; then
    step "licences, bans, sources" deny bans licenses sources
    skip_reason=
    step "advisories" advisories
    if [ -n "$skip_reason" ]; then
        echo "Not checked: $skip_reason."
        unset 'results[-1]'
        skip "advisories" "$skip_reason"
    fi
fi
# A package of its own, with a lock file of its own: it has to follow ours.
fuzz_lock() { builder cargo metadata --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null; }
step "lock file of the fuzz targets" fuzz_lock
export GINNEL_NETNS=off
step "tests" builder env SIM_SEEDS=500 cargo test --locked --quiet --no-fail-fast
unset GINNEL_NETNS
if command -v systemd-analyze >/dev/null; then
    step "systemd unit" unit_file
else
    skip "systemd unit" "no systemd-analyze here"
fi
if [ -n "$fast" ]; then
    skip "network namespaces" "--fast"
else
    step "network namespaces" netns
fi

say "Summary after ${SECONDS}s"
printf '%s\n' "${results[@]}"
[ "$failed" -eq 0 ] || die "$failed of the steps above failed."
echo "All that ran passed."
