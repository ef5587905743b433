# shellcheck shell=bash
# Sourced by the other scripts: becomes root where that is needed, installs what is missing.
#
# What runs as whom: the scripts are root (namespaces, packages); Cargo runs as the user who called
# (`builder`), so that no file of root's is left in the target folder or in ~/.cargo.

# The oldest toolchain that builds the crate, as Cargo.toml's rust-version says.
rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# Re-runs the calling script as root, in the same environment as far as builds care. The script has
# changed to the repository's folder, where a relative $0 may name nothing: it lives in scripts/.
become_root() {
    [ "$(id -u)" -eq 0 ] && return
    command -v sudo >/dev/null || die "This needs root, and there is no sudo: run it as root."
    local keep=()
    local name
    for name in PATH HOME CARGO_HOME RUSTUP_HOME CARGO_TARGET_DIR CARGO_BUILD_JOBS \
        RUSTUP_TOOLCHAIN CI NO_COLOR TERM; do
        [ -n "${!name:-}" ] && keep+=("$name=${!name}")
    done
    exec sudo env "${keep[@]}" GINNEL_BUILDER="$(id -un)" bash "$PWD/scripts/${0##*/}" "$@"
}

# Runs a command as the user who called the script.
builder() {
    if [ -n "${GINNEL_BUILDER:-}" ]; then
        sudo -u "$GINNEL_BUILDER" env PATH="$PATH" HOME="$HOME" \
            ${CARGO_HOME:+CARGO_HOME="$CARGO_HOME"} ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} \
            ${CARGO_TARGET_DIR:+CARGO_TARGET_DIR="$CARGO_TARGET_DIR"} \
            ${RUSTDOCFLAGS:+RUSTDOCFLAGS="$RUSTDOCFLAGS"} \
            ${GINNEL_NETNS:+GINNEL_NETNS="$GINNEL_NETNS"} "$@"
    else
        "$@"
    fi
}

# Installs the Debian packages whose program is missing: arguments are program=package.
install_missing() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null ||
        die "Missing and not to be had without apt-get: ${missing[*]}. Install them and call again."
    say "Installing ${missing[*]}"
    # Packages of servers would start them: this machine shall run no TURN server and no port mapper.
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=yes
    fi
    local done_well=yes
    { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null; } || done_well=
    [ -n "$made_policy" ] && rm -f "$policy"
    [ -n "$done_well" ] || die "apt-get could not install ${missing[*]}."
}

# A compiler, a linker and a Rust toolchain that is new enough.
install_rust() {
    install_missing cc=build-essential
    export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    # A fresh machine's list of packages may be empty.
    if ! command -v cargo >/dev/null && command -v apt-get >/dev/null &&
        ! apt-cache show rustup >/dev/null 2>&1; then
        apt-get update -qq || true
    fi
    if ! command -v cargo >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        install_missing rustup=rustup
        builder rustup default stable
    fi
    command -v cargo >/dev/null ||
        die "Cargo is missing: install Rust $rust_needed or newer (https://rustup.rs) and call again."
    local have
    have=$(builder rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$rust_needed" "$have" | sort -V | head -1)" = "$rust_needed" ] ||
        die "Rust $have is too old, $rust_needed is needed: \`rustup update stable\`, or https://rustup.rs."
}

# What the lab of tests/netns runs.
install_lab() {
    install_missing ip=iproute2 ss=iproute2 nft=nftables ping=iputils-ping conntrack=conntrack \
        turnserver=coturn miniupnpd=miniupnpd-nftables mount=mount setpriv=util-linux jq=jq \
        script=bsdutils
    [ -c /dev/net/tun ] || {
        mkdir -p /dev/net
        mknod /dev/net/tun c 10 200 2>/dev/null || true
    }
    [ -c /dev/net/tun ] || die "This machine has no /dev/net/tun: load the kernel's tun module."
}

# Builds the lab with the program in it and prints the path of the lab. Arguments go to Cargo.
build_lab() {
    builder cargo test --locked --test netns --no-run --message-format=json-render-diagnostics "$@" |
        jq -r 'select(.reason == "compiler-artifact" and .target.name == "netns") | .executable'
}
