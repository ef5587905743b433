#!/usr/bin/env bash
# Fuzzes every parser of outside bytes (tests/fuzz/targets), one target after the other, and prints
# how often each ran. Installs what it needs (a C++ compiler, cargo-fuzz). Stable Rust is enough.
#
#   scripts/fuzz.sh                        every target for 60 seconds
#   scripts/fuzz.sh 600                    … for ten minutes each
#   scripts/fuzz.sh --executions 10000000  … so many times each, `datagram` ten times as often, and
#                                          `history`, which is slow, 10,000 times less
#   scripts/fuzz.sh 600 control            one target
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

usage='usage: scripts/fuzz.sh [--address] [--keep] [SECONDS | --executions N] [TARGET]'
arguments=("$@")
seconds=60 executions=0 sanitizer=none keep= only=
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
    *[!0-9]*) only=$1 ;;
    *) seconds=$1 ;;
    esac
    shift
done

fuzz=tests/fuzz
mapfile -t targets < <(basename -s .rs $fuzz/bin/*.rs)
if [ -n "$only" ]; then
    [ -e "$fuzz/bin/$only.rs" ] || die "There is no target $only, but: ${targets[*]}"
    targets=("$only")
fi

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
builder cargo test --locked --quiet --test fuzz_corpus -- --quiet --ignored >/dev/null
builder env RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir $fuzz --target-dir "$out" \
    --sanitizer $sanitizer ${only:+"$only"}
programs=$out/$(rustc -vV | sed -n 's/^host: //p')/release

# The longest input in bytes: what the parser takes, and a little more.
max_len() {
    case $1 in
    api | config | segment | store) echo 4096 ;;
    datagram) echo 2048 ;;
    control | op | packet) echo 1300 ;;
    coalesce | record | saved) echo 700 ;;
    stun) echo 1500 ;;
    history) echo 600 ;;
    handshake | invite | genesis | beacon) echo 320 ;;
    *) echo 256 ;;
    esac
}

# Runs one target and notes how it went.
run() {
    local name=$1 runs=$executions log=$out/$1.log ended=ok timeout=5 folder
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
    # -timeout counts whole seconds and only catches what never ends: the targets themselves hold
    # every input to 10 ms of CPU time and to their bound of memory.
    "$programs/$name" -max_len="$(max_len "$name")" -timeout=$timeout -rss_limit_mb=1024 \
        -malloc_limit_mb=1 -len_control=20 -print_final_stats=1 \
        $([ "$executions" = 0 ] && echo "-max_total_time=$seconds" || echo "-runs=$runs") \
        -artifact_prefix="$fuzz/artifacts/$name/" \
        "${folders[@]}" >"$log" 2>&1 || ended=FAILED
    local ran rate
    ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    results+=("$(printf '| %-10s | %12d | %9d | %6d | %s' "$name" "${ran:-0}" "${rate:-0}" \
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
echo '| target     |   executions |  a second | inputs | ended'
echo '|------------|-------------:|----------:|-------:|------'
printf '%s\n' "${results[@]}"
[ $failed -eq 0 ] || die "$failed of the targets failed: see $fuzz/artifacts."
