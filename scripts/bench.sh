#!/usr/bin/env bash
# Figures: throughput, latency, processor time and memory beside other VPNs in the same run, and how
# long joining and coming back take, and what idling costs. Markdown on stdout, progress on stderr.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/bench.sh [FILE] [OPTION]...

  FILE                   all raw values as JSON (default target/bench.json)
  --chart FILE           the comparison as SVG (default target/bench.svg)
  --rounds N             interleaved repetitions (default 5)
  --only PART,…          of joining, recovery, throughput, flood, idle
  --carriers NAME,…      of what throughput compares, those with NAME in their name
  --wireguard-go FILE    compare with this wireguard-go as well; may be repeated
  --gotatun FILE         compare with this gotatun as well
  --quick                one short round, to see that everything works

A whole run takes about 25 minutes on two cores, after the build of an optimised binary. Nothing
else should run: the last line of the comparison says how much else did.
TEXT
}

called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh
target=${CARGO_TARGET_DIR:-target}
file=$target/bench.json chart=$target/bench.svg parts=throughput,flood carriers=boringtun options=()
absolute() { (cd "$called_from" && realpath -m -- "$1"); }
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --quick) options+=("$1"); shift; continue ;;
        --chart | --rounds | --only | --carriers | --wireguard-go | --gotatun)
            [ -n "${2:-}" ] || die "$1 needs a value" ;;
        -*) usage >&2; exit 2 ;;
        *) file=$(absolute "$1"); shift; continue ;;
    esac
    case $1 in
        --chart) chart=$(absolute "$2") ;;
        --wireguard-go | --gotatun) options+=("$1" "$(absolute "$2")") ;;
        --only) parts=$2; options+=("$1" "$2") ;;
        --carriers) carriers=$2; options+=("$1" "$2") ;;
        --rounds) options+=("$1" "$2") ;;
    esac
    shift 2
done

# Paths are absolute from here on, or begin at the repository: the call as root starts from there.
become_root "$file" --chart "$chart" ${options[@]+"${options[@]}"}
install_rust
install_lab
if [[ $parts == *throughput* || $parts == *flood* ]]; then
    install_missing iperf3=iperf3 wg=wireguard-tools wireguard-go=wireguard-go nebula=nebula \
        tincd=tinc
fi
if [[ $parts == *throughput* && $carriers == *boringtun* ]] &&
    ! command -v boringtun-cli >/dev/null; then
    # Built once; a second run finds it there.
    if [ ! -x "$target/peers/bin/boringtun-cli" ]; then
        say "Building boringtun-cli to compare with" >&2
        builder cargo install boringtun-cli --locked --quiet --root "$target/peers"
    fi
    PATH="$PATH:$(realpath "$target/peers/bin")"
fi
say "Building ginnel, optimised" >&2
builder cargo build --release --locked --quiet
lab=$(build_lab) || true
[ -x "$lab" ] || die "The build failed; the compiler's words are above."
say "Measuring" >&2
GINNEL_BIN=$(realpath "$target/release/ginnel") \
    "$lab" --figures "$file" --chart "$chart" ${options[@]+"${options[@]}"}
echo "JSON: $file, chart: $chart" >&2
