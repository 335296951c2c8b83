#!/bin/bash
# Writes what each program of the product is made of, as CycloneDX 1.5 JSON, to target/sbom: every crate that is linked, with
# version, licence and checksum as the lock file has it. C code inside of crates (SQLite, zstd, AWS-LC) is not listed by itself; it
# comes with the crates libsqlite3-sys, zstd-sys and aws-lc-sys.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.5.9
out=target/sbom
if ! cargo cyclonedx --version >/dev/null 2>&1; then
    echo "sbom: cargo-cyclonedx is missing; run: cargo install cargo-cyclonedx --locked --version $version" >&2
    exit 1
fi
# The lock file decides what is built, so it must be there and be the one that is listed.
cargo metadata --locked --format-version 1 >/dev/null
rm -rf "$out"
mkdir -p "$out"
# It writes beside each manifest and knows no other place.
trap 'find crates xtask -maxdepth 2 -name "*.cdx.json" -delete' EXIT
cargo cyclonedx --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu --describe binaries \
    --manifest-path crates/lifeboat/Cargo.toml
mv crates/lifeboat/*.cdx.json "$out"/
# Where it was made is nobody's matter.
sed -i "s|file://$PWD|file:///lifeboat|g" "$out"/*.json
ls "$out"/*.json
