#!/usr/bin/env bash
# Shows a private LAN forming between machines behind NATs, on this machine alone: it builds a
# small Internet out of network namespaces and touches nothing outside them.
#
#   scripts/demo.sh              quick build
#   scripts/demo.sh --release    optimised build: minutes longer, faster traffic
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh

profile=()
case "${1:-}" in
'') ;;
--release) profile=(--release) ;;
-h | --help)
    echo "usage: scripts/demo.sh [--release]"
    exit 0
    ;;
*) die "usage: scripts/demo.sh [--release]" ;;
esac
become_root "$@"
install_rust
install_lab

say "Building ginnel (the first time takes some minutes: every dependency is compiled)"
started=$SECONDS
lab=$(build_lab "${profile[@]}") || true
[ -x "$lab" ] || die "The build failed; the compiler's words are above."
say "Built in $((SECONDS - started)) s"
# Ctrl-C ends the lab at once: what that leaves is removed here.
trap ':' INT
ended=0
"$lab" --demo || ended=$?
[ "$ended" -eq 0 ] || "$lab" --tidy
exit "$ended"
