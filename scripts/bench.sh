#!/usr/bin/env bash
# Figures: how long joining and coming back take, what idling costs, and one TCP stream through the
# tunnel beside boringtun-cli and wireguard-go in the same run. Prints a Markdown table; JSON goes
# to the file that is named (target/bench.json).
#
#   scripts/bench.sh [FILE]
#
# Takes the build of an optimised binary and about 15 minutes more. Nothing else should run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh

become_root "$@"
install_rust
install_lab
install_missing iperf3=iperf3 wg=wireguard-tools wireguard-go=wireguard-go

target=${CARGO_TARGET_DIR:-target}
file=${1:-$target/bench.json}
if ! command -v boringtun-cli >/dev/null; then
    # Built once; a second run finds it there.
    if [ ! -x "$target/peers/bin/boringtun-cli" ]; then
        say "Building boringtun-cli to compare with"
        builder cargo install boringtun-cli --locked --quiet --root "$target/peers"
    fi
    PATH="$PATH:$(realpath "$target/peers/bin")"
fi
say "Building ginnel, optimised"
builder cargo build --release --locked --quiet
lab=$(build_lab) || true
[ -x "$lab" ] || die "The build failed; the compiler's words are above."
say "Measuring (about a quarter of an hour; the idle device is watched longest)"
GINNEL_BIN=$(realpath "$target/release/ginnel") "$lab" --figures "$file"
echo "JSON: $file"
