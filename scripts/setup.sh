#!/bin/bash
# Installs what building and testing Lifeboat needs on Debian 12: packages, cargo-nextest, cargo-deny, the guest agent's
# package for the test guest, and a Python environment with foreign CIM clients. Looks first and does nothing when everything is there. Not for running Lifeboat in
# production: a host needs qemu-system-x86 and qemu-utils only.
#
# QEMU 10 comes from bookworm-backports by exact version. A blanket "-t bookworm-backports" would also replace
# systemd and udev.
set -euo pipefail
cd "$(dirname "$0")/.."

nextest_version=0.9.143
deny_version=0.20.2
agent_dir=target/guest-packages
python_dir=target/python
python_packages=scripts/python-packages.txt
plain=(
    busybox-static ca-certificates cmake cpio curl e2fsprogs faketime fdisk gcc grub-common grub-pc-bin iproute2 kmod
    libc6-dev libnbd-bin linux-image-cloud-amd64 make mount nftables ovmf pkg-config python3
    python3-venv sblim-wbemcli strace
)
backports=(qemu-system-common qemu-system-data qemu-system-x86 qemu-utils seabios)

fail() { echo "setup: $*" >&2; exit 1; }

# Says nothing when a command succeeds and everything when it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        fail "this failed: $*"
    fi
    rm -f "$log"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 "$@"
}

installed() {
    # For a package it has never heard of, dpkg-query fails after telling about the others.
    { dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "$@" 2>/dev/null || true; } |
        awk '$1 == "installed"'
}

# The packages of our list that are not installed. A QEMU before 10 counts as missing.
missing() {
    local have
    have=$(installed "${plain[@]}" "${backports[@]}")
    local name
    for name in "${plain[@]}" "${backports[@]}"; do
        grep -q " $name " <<<"$have" || echo "$name"
    done
    awk '$2 ~ /^qemu-/ && $3 !~ /^1:[1-9][0-9]/ { print $2 }' <<<"$have"
}

# Makes bookworm-backports known, from the mirror this machine already uses. Only an updated apt can say which.
update_lists() {
    apt update
    local list='$(RELEASE) $(REPO_URI)' mirror
    apt-get indextargets --format "$list" | grep -q '^bookworm-backports ' && return
    mirror=$(apt-get indextargets --format "$list" | awk '$1 == "bookworm" { print $2; exit }')
    [ -n "$mirror" ] || fail "no Debian 12 (bookworm) package source is configured; add one to /etc/apt and run this again"
    echo "setup: adding bookworm-backports from $mirror" >&2
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' \
        "$mirror" /usr/share/keyrings/debian-archive-keyring.gpg |
        as_root tee /etc/apt/sources.list.d/lifeboat-backports.sources >/dev/null
    apt update
}

backports_version() {
    apt-cache madison "$1" | awk '/bookworm-backports/ { print $3; exit }'
}

install_packages() {
    local wanted=() name version
    for name in "$@"; do
        if [[ " ${backports[*]} " == *" $name "* ]]; then
            version=$(backports_version "$name")
            [ -n "$version" ] || fail "bookworm-backports has no $name"
            wanted+=("$name=$version")
        else
            wanted+=("$name")
        fi
    done
    apt install -y --no-install-recommends "${wanted[@]}"
}

# The guest agent goes into the guest, never onto this machine, so its package is fetched and not installed.
fetch_agent() {
    local version work
    version=$(backports_version qemu-guest-agent)
    [ -n "$version" ] || fail "bookworm-backports has no qemu-guest-agent"
    mkdir -p "$agent_dir"
    work=$(mktemp -d "$agent_dir/fetch.XXXXXX")
    (cd "$work" && quietly apt-get download "qemu-guest-agent=$version")
    mv "$work"/*.deb "$agent_dir/qemu-guest-agent.deb"
    rmdir "$work"
}

# The clients that the tests let loose on the management API. The list of what is in there is written last, so a
# half-made environment is made again.
make_python() {
    rm -rf "$python_dir"
    quietly python3 -m venv "$python_dir"
    echo "setup: installing the Python packages of $python_packages" >&2
    local log
    log=$(mktemp)
    if ! "$python_dir/bin/pip" install --disable-pip-version-check --no-deps --only-binary :all: -q -r "$python_packages" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        fail "pip could not install the packages of $python_packages; it needs PyPI, or an index named in pip's own settings (PIP_INDEX_URL)"
    fi
    rm -f "$log"
    cp "$python_packages" "$python_dir/packages.txt"
}

command -v dpkg-query >/dev/null || fail "this script knows Debian 12; on other systems install the packages it lists by hand"
command -v cargo >/dev/null || fail "cargo is missing; install the Rust toolchain with rustup (https://rustup.rs) and run this again"

absent=$(missing)
read -r -d '' -a absent <<<"$absent" || true
if ((${#absent[@]})) || ! [ -s "$agent_dir/qemu-guest-agent.deb" ]; then
    if ((${#absent[@]})); then echo "setup: installing ${absent[*]}" >&2; fi
    update_lists
    if ((${#absent[@]})); then install_packages "${absent[@]}"; fi
    [ -s "$agent_dir/qemu-guest-agent.deb" ] || fetch_agent
fi

cmp -s "$python_packages" "$python_dir/packages.txt" || make_python

if ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: building cargo-nextest $nextest_version" >&2
    quietly cargo install cargo-nextest --locked --version "$nextest_version"
fi
if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $deny_version" ]; then
    echo "setup: building cargo-deny $deny_version" >&2
    quietly cargo install cargo-deny --locked --version "$deny_version"
fi
for tool in fmt clippy; do
    cargo "$tool" --version >/dev/null 2>&1 || fail "cargo $tool is missing; run: rustup component add rustfmt clippy"
done
