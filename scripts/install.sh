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

called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/prepare.sh
arguments=("$@")
prefix=/usr/local binary='' start=yes uninstall=no purge=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix)
            prefix=${2:-}
            [ -n "$prefix" ] || die "--prefix needs a folder"
            shift 2
            ;;
        --binary)
            [ -n "${2:-}" ] || die "--binary needs a file"
            binary=$(cd "$called_from" && realpath -m -- "$2")
            arguments+=(--binary "$binary")
            shift 2
            ;;
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

unit=/etc/systemd/system/ginnel.service
bin=$prefix/bin/ginnel
bash_completion=$prefix/share/bash-completion/completions/ginnel
zsh_completion=$prefix/share/zsh/site-functions/_ginnel
fish_completion=$prefix/share/fish/vendor_completions.d/ginnel.fish

# Builds as the user who called, who has the Rust toolchain, also where that was `sudo install.sh`;
# sets $binary.
build() {
    if [ -z "${GINNEL_BUILDER:-}" ] && [ "${SUDO_USER:-root}" != root ]; then
        export GINNEL_BUILDER=$SUDO_USER
        HOME=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        export HOME
    fi
    install_rust
    say "Building ginnel (the first time takes some minutes: every dependency is compiled)"
    builder cargo build --release --locked || die "The build failed; the compiler's words are above."
    binary=${CARGO_TARGET_DIR:-target}/release/ginnel
}

has_systemd() { [ -d /run/systemd/system ]; }

# $1 = group
make_group() {
    if ! grep -q "^$1:" /etc/group; then groupadd --system "$1"; echo "made group $1"; fi
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
    sed "s#/usr/local/bin/ginnel#$bin#" systemd/ginnel.service >"$unit"
    chmod 0644 "$unit"
    echo "installed $bin, $unit and completions for bash, zsh and fish"
}

make_users() {
    make_group ginnel
    make_group ginnel-admin
    if ! grep -q '^ginnel:' /etc/passwd; then
        useradd --system --gid ginnel --no-create-home --home-dir /var/lib/ginnel \
            --shell /usr/sbin/nologin --comment 'ginnel agent' ginnel
        echo "made user ginnel"
    fi
}

start_service() {
    if ! has_systemd; then
        echo "there is no systemd here; run the agent yourself: sudo $bin agent"
        return
    fi
    systemctl daemon-reload
    if [ "$start" = no ]; then
        echo "not started; do that with: sudo systemctl enable --now ginnel"
        return
    fi
    systemctl enable --quiet ginnel
    # Also when it runs already: this may be an upgrade.
    systemctl restart ginnel || die "the agent did not start; see: journalctl -u ginnel"
    echo "the agent is running"
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
        echo "removed. Keys (/var/lib/ginnel), configuration (/etc/ginnel), user and groups are kept;"
        echo "remove them too with: scripts/install.sh --uninstall --purge"
        return
    fi
    rm -rf /var/lib/ginnel /etc/ginnel
    if grep -q '^ginnel:' /etc/passwd; then userdel ginnel; fi
    local group
    for group in ginnel ginnel-admin; do
        if grep -q "^$group:" /etc/group; then groupdel "$group"; fi
    done
    echo "removed, with keys, configuration, user and groups"
}

become_root "${arguments[@]}"
if [ "$uninstall" = yes ]; then
    remove
    exit 0
fi
if [ -z "$binary" ]; then build; fi
[ -x "$binary" ] || die "$binary is not a program"
say "Installing below $prefix"
make_users
install_files
start_service
next_steps
