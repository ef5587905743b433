#!/usr/bin/env bash
# Fuzzes every parser of outside bytes (tests/fuzz/targets), one target after the other, and prints
# how often each ran and what its dearest input cost: of a core, and the largest single allocation.
# An input over the bounds (tests/fuzz/targets: 10 ms, and at most 1 MiB) is a failure. Installs what it needs (a
# C++ compiler, cargo-fuzz). Stable Rust is enough.
#
#   scripts/fuzz.sh                        every target for 60 seconds
#   scripts/fuzz.sh 600                    … for ten minutes each
#   scripts/fuzz.sh --executions 10000000  … so many times each, `datagram` ten times as often, and
#                                          `history`, which is slow, 10,000 times less
#   scripts/fuzz.sh 600 control op         these targets
#   scripts/fuzz.sh --address …            with the address sanitizer: slower, and it sees memory
#                                          errors of unsafe code in dependencies
#   scripts/fuzz.sh --keep …               afterwards puts the inputs that reach most into the
#                                          committed corpora (tests/fuzz/corpus), and no others
#
# What fails is left in tests/fuzz/artifacts/TARGET/. Inputs found so far are kept in
# tests/fuzz/target/corpus/ and used again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh

usage='usage: scripts/fuzz.sh [--address] [--keep] [SECONDS | --executions N] [TARGET…]'
arguments=("$@")
seconds=60 executions=0 sanitizer=none keep= only=()
while [ $# -gt 0 ]; do
    case $1 in
    --address) sanitizer=address ;;
    --keep) keep=yes ;;
    --executions)
        executions=${2:-} seconds=0
        [[ $executions =~ ^[1-9][0-9]*$ ]] || die "$usage"
        shift
        ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 0 ;;
    -*) die "$usage" ;;
    *[!0-9]*) only+=("$1") ;;
    *) seconds=$1 ;;
    esac
    shift
done

fuzz=tests/fuzz
mapfile -t targets < <(basename -s .rs $fuzz/bin/*.rs)
for name in "${only[@]}"; do
    [ -e "$fuzz/bin/$name.rs" ] || die "There is no target $name, but: ${targets[*]}"
done

# Only a missing package needs root.
command -v c++ >/dev/null && command -v cargo >/dev/null || become_root "${arguments[@]}"
install_missing c++=build-essential
install_rust
builder cargo fuzz --version >/dev/null 2>&1 || {
    say "Installing cargo-fuzz"
    builder cargo install cargo-fuzz --locked --debug --quiet
}

say "Building"
# The dependencies of the targets are built with other flags than the crate's own: a folder of
# their own keeps both from being built again and again. RUSTC_BOOTSTRAP, which only the sanitizer
# needs, is always set, since many build scripts ask for it and would run again with each change.
out=$PWD/$fuzz/target
builder cargo test --locked --quiet --test fuzz_corpus -- --ignored >/dev/null
build() {
    builder env RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir $fuzz --target-dir "$out" \
        --sanitizer $sanitizer "$@"
}
if [ ${#only[@]} -eq 0 ]; then
    build
else
    targets=("${only[@]}")
    for name in "${targets[@]}"; do build "$name"; done
fi
programs=$out/$(rustc -vV | sed -n 's/^host: //p')/release

# The longest input in bytes: what the parser takes, and a little more; and where the bytes name
# packets that are made up, enough for a few dozen.
max_len() {
    case $1 in
    datagram | aead) echo 2048 ;;
    stun | store) echo 1500 ;;
    control | op | packet) echo 1300 ;;
    api | config | segment) echo 1024 ;;
    record | saved) echo 700 ;;
    history) echo 600 ;;
    genesis | invite | beacon) echo 320 ;;
    narrow) echo 160 ;;
    handshake | coalesce) echo 120 ;;
    *) echo 256 ;;
    esac
}

# What a target said of itself at its end, from the log.
stat_of() {
    sed -n "s/^[a-z]*::\(number_of_\)\?$1: *//p" "$log"
}

# Runs one target and notes how it went.
run() {
    local name=$1 runs=$executions log=$out/$1.log ended=ok timeout=5 folder began
    case $name in
    datagram) runs=$((runs * 10)) ;;
    # A history is a second, not microseconds, of work.
    history) runs=$((runs / 10000)) timeout=120 ;;
    esac
    local folders=("$out/corpus/$name")
    mkdir -p "$out/corpus/$name" "$fuzz/artifacts/$name"
    for folder in "$fuzz/corpus/$name" "$out/seeds/$name"; do
        [ -d "$folder" ] && folders+=("$folder")
    done
    say "$name"
    began=${EPOCHREALTIME/[^0-9]/}
    # -timeout counts whole seconds and only catches what never ends: the targets themselves hold
    # every input to 10 ms of CPU time and to their bound of memory.
    "$programs/$name" -max_len="$(max_len "$name")" -timeout=$timeout -rss_limit_mb=1024 \
        -malloc_limit_mb=1 -len_control=20 -print_final_stats=1 \
        $([ "$executions" = 0 ] && echo "-max_total_time=$seconds" || echo "-runs=$runs") \
        -artifact_prefix="$fuzz/artifacts/$name/" \
        "${folders[@]}" >"$log" 2>&1 || ended=FAILED
    local took=$((${EPOCHREALTIME/[^0-9]/} - began)) ran slowest largest
    ran=$(stat_of executed_units) slowest=$(stat_of slowest_input_us) largest=$(stat_of largest_allocation)
    results+=("$(printf '| %-9s | %12d | %8d | %11s | %10s | %6d | %s' "$name" "${ran:-0}" \
        $((${ran:-0} * 1000000 / took)) "${slowest:-?}" "${largest:-?}" \
        "$(find "$out/corpus/$name" -type f | wc -l)" "$ended")")
    if [ $ended = FAILED ]; then
        failed=$((failed + 1))
        grep -E 'panicked|^thread|SUMMARY|Test unit written|assertion|left:|right:' -A1 "$log" | tail -15
    fi
}

# Replaces the committed corpus by the fewest inputs that reach what all of them reach.
keep() {
    local name=$1 new=$out/minimal/$1
    [ -d "$fuzz/corpus/$name" ] || return 0
    rm -rf "$new"
    mkdir -p "$new"
    "$programs/$name" -merge=1 -set_cover_merge=1 -max_len="$(max_len "$name")" "$new" \
        "$fuzz/corpus/$name" "$out/seeds/$name" "$out/corpus/$name" >"$out/$name.log" 2>&1
    # What was a finding stays, whatever it reaches today.
    find "$fuzz/corpus/$name" -type f ! -name 'found-*' -delete
    cp "$new"/* "$fuzz/corpus/$name/"
}

results=() failed=0
for name in "${targets[@]}"; do run "$name"; done
if [ -n "$keep" ]; then
    say "Minimising the corpora"
    for name in "${targets[@]}"; do keep "$name"; done
    du -sh --apparent-size $fuzz/corpus
fi

say "After ${SECONDS}s"
echo '| target    |   executions | a second | slowest, µs | at once, B | inputs | ended'
echo '|-----------|-------------:|---------:|------------:|-----------:|-------:|------'
printf '%s\n' "${results[@]}"
[ $failed -eq 0 ] || die "$failed of the targets failed: see $fuzz/artifacts."
