# Every target gets what it needs by itself; only Rust and Node are expected on the machine.
.DEFAULT_GOAL := help
ROUNDS ?= 100
SEED ?= 1

.PHONY: help tools run test simulate fuzz bench crash cluster fmt lint clean

export TELLER_ANVIL ?= $(CURDIR)/.tools/bin/anvil

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## put anvil at .tools/bin/anvil
	@scripts/tools

run: tools ## a chain, a teller and real payments on this machine, until Ctrl-C
	cargo run --release --bin teller -- dev

test: ## every check, with the Postgres, Redis and anvil it needs
	@scripts/test

SEEDS ?= 100000
simulate: ## the engine against a model chain and faults: SEEDS=100000, FROM=0
	TELLER_SIMULATION_SEEDS=$(SEEDS) TELLER_SIMULATION_FROM=$(or $(FROM),0) cargo test -p teller-settle --lib \
	  simulation::tests::no_seed_breaks_an_invariant -- --exact --nocapture

SECONDS ?= 60
TARGET ?=
fuzz: ## whatever reads bytes from outside, guided by coverage: SECONDS=60 for each target, TARGET= a part of its name
	@SECONDS_EACH=$(SECONDS) FUZZ_TARGET=$(TARGET) scripts/fuzz

bench: tools ## measure a teller on this machine, into loadtest/RESULTS.md
	cargo build --release --bin teller
	cargo run --release -p teller-loadtest -- bench

crash: tools ## kill -9 random processes ROUNDS times under load, then compare ledger, chain and answers
	cargo build --release --bin teller --bin teller-loadtest
	scripts/with-services sh -c 'target=$${CARGO_TARGET_DIR:-target}; "$$target/release/teller-loadtest" crash \
	  --rounds $(ROUNDS) --seed $(SEED) --ledger "$$TELLER_TEST_POSTGRES_URL" --reservations "$$TELLER_TEST_REDIS_URL"'

cluster: tools ## two API and two settler processes under load, and settlers taken away
	cargo build --release --bin teller --bin teller-loadtest
	scripts/with-services sh -c 'target=$${CARGO_TARGET_DIR:-target}; "$$target/release/teller-loadtest" cluster \
	  --ledger "$$TELLER_TEST_POSTGRES_URL" --reservations "$$TELLER_TEST_REDIS_URL"'

fmt: ## format the Rust code
	cargo fmt --all

lint: ## formatting and clippy, without tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

clean: ## remove build output, tools and node packages
	cargo clean
	rm -rf .tools contracts/node_modules e2e/*/node_modules
