#!/usr/bin/env bash
# Builds ginnel and installs it on this machine: binary, systemd unit, the user and the groups,
# shell completions. Running it again upgrades; --uninstall takes everything away but the keys.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/install.sh [--prefix DIR] [--binary FILE] [--no-start]
       scripts/install.sh --uninstall [--prefix DIR] [--purge]

  --prefix DIR    install below DIR (default /usr/local)
  --binary FILE   install this binary instead of building one
  --no-start      install only; do not enable or start the service
  --uninstall     stop the service and remove what was installed; keys are kept
  --purge         with --uninstall: also remove keys, configuration, user and groups. This device
                  can then never come back to its networks without a new invite.
TEXT
}

die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }

prefix=/usr/local binary='' start=yes uninstall=no purge=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --binary) binary=${2:?--binary needs a file}; shift 2 ;;
        --no-start) start=no; shift ;;
        --uninstall) uninstall=yes; shift ;;
        --purge) purge=yes; shift ;;
        -h|--help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
case $prefix in
    /*) ;;
    *) die "--prefix needs an absolute folder, not $prefix" ;;
esac
case $prefix in
    *[!A-Za-z0-9/._-]*) die "--prefix may have letters, digits and / . _ - only" ;;
esac
if [ "$purge" = yes ] && [ "$uninstall" = no ]; then die "--purge goes with --uninstall"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unit=/etc/systemd/system/ginnel.service
bin=$prefix/bin/ginnel
bash_completion=$prefix/share/bash-completion/completions/ginnel
zsh_completion=$prefix/share/zsh/site-functions/_ginnel
fish_completion=$prefix/share/fish/vendor_completions.d/ginnel.fish

# As the user who called, since that is who has a Rust toolchain; sets $binary.
build() {
    local target=${CARGO_TARGET_DIR:-$root/target}
    local build='cd "$1" && command -v cargo >/dev/null || {
        echo "install.sh: cargo is missing; install Rust 1.95 or newer: https://rustup.rs" >&2; exit 1; }
        CARGO_TARGET_DIR=$2 exec cargo build --release --locked'
    say "building (a few minutes the first time) ..."
    if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        sudo -u "$SUDO_USER" -H bash -lc "$build" bash "$root" "$target" || die "the build failed"
    else
        bash -c "PATH=\$PATH:\${HOME:-/root}/.cargo/bin; $build" bash "$root" "$target" ||
            die "the build failed"
    fi
    binary=$target/release/ginnel
}

raise() {
    [ "$(id -u)" = 0 ] && return
    command -v sudo >/dev/null || die "this needs root, and there is no sudo: run it as root"
    say "the rest needs root ..."
    exec sudo -- "$root/scripts/install.sh" --prefix "$prefix" "$@"
}

has_systemd() { [ -d /run/systemd/system ]; }

# $1 = group
make_group() {
    if ! grep -q "^$1:" /etc/group; then groupadd --system "$1"; say "made group $1"; fi
}

install_files() {
    install -D -m 0755 "$binary" "$bin"
    install -d -m 0755 /etc/ginnel
    local file shell
    for shell in bash zsh fish; do
        file=${shell}_completion
        install -d -m 0755 "$(dirname "${!file}")"
        "$bin" completions "$shell" >"${!file}"
        chmod 0644 "${!file}"
    done
    install -d -m 0755 "$(dirname "$unit")"
    sed "s#/usr/local/bin/ginnel#$bin#" "$root/systemd/ginnel.service" >"$unit"
    chmod 0644 "$unit"
    say "installed $bin, $unit and completions for bash, zsh and fish"
}

make_users() {
    make_group ginnel
    make_group ginnel-admin
    if ! grep -q '^ginnel:' /etc/passwd; then
        useradd --system --gid ginnel --no-create-home --home-dir /var/lib/ginnel \
            --shell /usr/sbin/nologin --comment 'ginnel agent' ginnel
        say "made user ginnel"
    fi
}

start_service() {
    if ! has_systemd; then
        say "there is no systemd here; run the agent yourself: sudo $bin agent"
        return
    fi
    systemctl daemon-reload
    if [ "$start" = no ]; then
        say "not started; do that with: sudo systemctl enable --now ginnel"
        return
    fi
    systemctl enable --quiet ginnel
    # Also when it runs already: this may be an upgrade.
    systemctl restart ginnel || die "the agent did not start; see: journalctl -u ginnel"
    say "the agent is running"
}

next_steps() {
    cat <<TEXT

Make a network:          sudo ginnel create home
or join one:             sudo ginnel join INVITE
To do without sudo:      sudo usermod -aG ginnel-admin ${SUDO_USER:-USER}   (change everything)
                         sudo usermod -aG ginnel ${SUDO_USER:-USER}         (look only)
TEXT
}

remove() {
    if has_systemd && [ -e "$unit" ]; then systemctl disable --now --quiet ginnel || true; fi
    rm -f "$unit" "$bin" "$bash_completion" "$zsh_completion" "$fish_completion"
    if has_systemd; then systemctl daemon-reload; fi
    if [ "$purge" = no ]; then
        say "removed. Keys (/var/lib/ginnel), configuration (/etc/ginnel), user and groups are kept;"
        say "remove them too with: scripts/install.sh --uninstall --purge"
        return
    fi
    rm -rf /var/lib/ginnel /etc/ginnel
    if grep -q '^ginnel:' /etc/passwd; then userdel ginnel; fi
    local group
    for group in ginnel ginnel-admin; do
        if grep -q "^$group:" /etc/group; then groupdel "$group"; fi
    done
    say "removed, with keys, configuration, user and groups"
}

if [ "$uninstall" = yes ]; then
    if [ "$purge" = yes ]; then raise --uninstall --purge; else raise --uninstall; fi
    remove
    exit 0
fi
if [ -z "$binary" ]; then build; fi
[ -x "$binary" ] || die "$binary is not a program"
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
if [ "$start" = no ]; then raise --binary "$binary" --no-start; else raise --binary "$binary"; fi
make_users
install_files
start_service
next_steps
