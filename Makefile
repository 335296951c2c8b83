# The commands of this project. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
FUZZ_SECONDS ?= 60

.PHONY: help setup guest check test demo soak bench fuzz sbom

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## install what building and testing need (Debian 12)
	@scripts/setup.sh

guest: setup ## build the test guest in target/guest-image
	@scripts/make-guest.sh

check: setup ## formatting, lints, architecture rules, documentation, supply chain
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo run --quiet --locked -p xtask -- check
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	scripts/advisories.sh

test: guest ## all tests, those with real QEMU guests included
	cargo nextest run --workspace --locked
	cargo test --workspace --doc --locked --quiet

demo: guest ## two hosts on this machine play the whole story
	cargo build --release --locked -p lifeboat
	scripts/demo.sh

soak: guest ## the long versions of the crash tests: power cuts, faults, random histories
	cargo nextest run --workspace --locked --run-ignored only --test-threads 4 -E 'test(soak_)'

bench: guest ## measure against the budgets into docs/benchmarks.md; BENCH_FULL=1 measures longer
	cargo build --release --locked -p lifeboat -p lifeboat-bench
	target/release/lifeboat-bench docs/benchmarks.md

fuzz: setup ## each fuzz target for FUZZ_SECONDS (default 60); needs cargo-fuzz and a nightly toolchain
	@cargo fuzz --version >/dev/null || { echo "cargo-fuzz is missing; run: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@set -e; targets=$$(cargo +nightly fuzz list); for target in $$targets; do \
		mkdir -p target/fuzz-corpus/$$target; \
		cargo +nightly fuzz run $$target target/fuzz-corpus/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

sbom: setup ## what the product is made of, as CycloneDX JSON in target/sbom; needs cargo-cyclonedx
	@scripts/sbom.sh
