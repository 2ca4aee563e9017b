# Everything a developer, a packager or CI does here. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CARGO ?= cargo
PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
CNIBINDIR ?= /opt/cni/bin
DESTDIR ?=
PROFILE ?= release
BUILT := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
FUZZ_SECONDS ?= 60
UNITS := tapestry.service tapestry-helper.service tapestry-helper.socket

# Whole-daemon tests that need namespaces; all others run as anybody, anywhere.
NETNS_TESTS := netns gateway runtimes
PLAIN_TESTS := $(filter-out $(NETNS_TESTS),$(basename $(notdir $(wildcard tests/*.rs))) \
  $(notdir $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs))))

.PHONY: help demo demo-cluster test check lint bench counts attachments versus fuzz install uninstall clean setup-build setup-demo setup-test packaging-check doc

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

demo: setup-build ## two nodes, two pods, a ping and some hundred MB over TCP between them
	$(CARGO) run --release --quiet --example two-node -- $(DEMO_ARGS)

demo-cluster: setup-demo ## three nodes that share an etcd, pods on each by the CNI plugin, and what becomes of them when etcd and a daemon die
	$(CARGO) build --release --quiet --bins
	$(CARGO) run --release --quiet --example cluster -- $(DEMO_ARGS)

test: setup-test ## every test there is; a missing peer is skipped loudly (with CI=true it fails)
	$(CARGO) test --workspace --all-targets
	$(CARGO) test --workspace --doc
	$(CARGO) run --release --quiet --package tapestry-counts
	./tests/systemd/run

check: setup-build ## the quick loop: format, clippy, and the tests that need no root
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) test --workspace --exclude tapestry --quiet
	$(CARGO) test --package tapestry --lib --bins $(PLAIN_TESTS:%=--test %) --quiet

lint: setup-build packaging-check ## format, clippy, documentation, shell scripts, the unit file, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run tests/setup tests/systemd/run tests/systemd/proof packaging/verify; \
	else echo "lint: shellcheck is not installed, scripts are not checked"; fi
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "lint: cargo-deny is not installed, dependencies are not checked"; fi

packaging-check: ## the systemd units verify and score 1.5 (the daemon) and 3.0 (the helper) or better, the example config is valid
	./packaging/verify

doc: ## API documentation of all crates
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: setup-build ## criterion benches (BENCH_ARGS="-- --test" runs each once)
	$(CARGO) bench --workspace $(BENCH_ARGS)

counts: setup-test ## instructions per frame of the main paths, against their ceilings (COUNTS_ARGS="look-up …")
	$(CARGO) run --release --quiet --package tapestry-counts -- $(COUNTS_ARGS)

attachments: setup-test ## how long ADD takes, and what other pods notice of it; docs/performance.md
	$(CARGO) bench --bench attachments

versus: setup-test ## Tapestry beside the kernel, Open vSwitch and veth (VERSUS_ARGS="--quick", "--help"); docs/performance.md
	$(CARGO) bench --bench versus -- $(VERSUS_ARGS)

fuzz: setup-build ## each fuzz target for FUZZ_SECONDS (needs cargo-fuzz, a nightly toolchain and g++)
	@command -v cargo-fuzz >/dev/null || { echo "fuzz: cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@for target in $$($(CARGO) +nightly fuzz list); do \
	  mkdir -p fuzz/target/corpus/$$target; \
	  $(CARGO) +nightly fuzz run --features libfuzzer "$$target" fuzz/target/corpus/$$target fuzz/corpus/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048; done

install: ## the daemon, its units, account, sysctl file and example config, under DESTDIR
	$(CARGO) build --profile $(PROFILE) --bins
	install -Dm755 $(BUILT)/tapestry $(DESTDIR)$(PREFIX)/bin/tapestry
	install -Dm755 $(BUILT)/tapestry-cni $(DESTDIR)$(CNIBINDIR)/tapestry-cni
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
	  sed 's#/usr/bin/tapestry#$(PREFIX)/bin/tapestry#; s#/etc/tapestry#$(SYSCONFDIR)/tapestry#' \
	    packaging/$$unit > $(DESTDIR)$(UNITDIR)/$$unit; \
	  chmod 644 $(DESTDIR)$(UNITDIR)/$$unit; done
	install -Dm644 packaging/tapestry.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tapestry.conf
	install -Dm644 packaging/99-tapestry.conf $(DESTDIR)$(PREFIX)/lib/sysctl.d/99-tapestry.conf
	for file in tapestry.toml 99-tapestry-pods.conf networkmanager/tapestry.conf networkd/tapestry.conf \
	  networkd/50-tapestry.network networkd/50-tapestry.link; do \
	  install -Dm644 packaging/$$file $(DESTDIR)$(PREFIX)/share/doc/tapestry/$$file; done
	for doc in *.md docs/*.md LICENSE-*; do \
	  install -Dm644 "$$doc" $(DESTDIR)$(PREFIX)/share/doc/tapestry/"$$doc"; done
	[ -e $(DESTDIR)$(SYSCONFDIR)/tapestry/tapestry.toml ] || \
	  install -Dm644 packaging/tapestry.toml $(DESTDIR)$(SYSCONFDIR)/tapestry/tapestry.toml
	@[ -n "$(DESTDIR)" ] || ! command -v systemd-sysusers >/dev/null || systemd-sysusers tapestry.conf
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl daemon-reload
	@[ -n "$(DESTDIR)" ] || echo "Edit $(SYSCONFDIR)/tapestry/tapestry.toml, then: systemctl enable --now tapestry"

uninstall: ## what install put there, except /etc/tapestry
	rm -f $(DESTDIR)$(PREFIX)/bin/tapestry $(DESTDIR)$(CNIBINDIR)/tapestry-cni $(UNITS:%=$(DESTDIR)$(UNITDIR)/%) \
	  $(DESTDIR)$(PREFIX)/lib/sysusers.d/tapestry.conf $(DESTDIR)$(PREFIX)/lib/sysctl.d/99-tapestry.conf
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/tapestry

clean: ## build products
	$(CARGO) clean

setup-build:
	@./tests/setup build

setup-demo:
	@./tests/setup demo

setup-test:
	@./tests/setup test
