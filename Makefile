# Everything that is done here, on a fresh Debian machine too: what is missing
# is installed with apt-get. Only Rust itself is presumed (and Go, for the
# etcd-3.x targets and test-clients).

SHELL = /bin/sh
.DEFAULT_GOAL = help
.PHONY: help demo build bench test test-matrix test-etcd test-clients test-k8s image proto-check proto-docs proto-baseline simulate chaos fuzz check deny mistakes mutants deps deps-bench deps-test deps-clients deps-proto deps-image deps-k8s rust go etcd-3.6 etcd-3.7 clean

# The etcd to test against: a path, or a name on PATH.
ETCD ?= etcd
# How many tests, and so etcds, run at once.
TEST_THREADS ?= 4
# The tests that depend on the version of etcd.
ETCD_TESTS ?= --test scenarios --test upstream

# How often each figure is measured.
RUNS ?= 5

# How long to fuzz, how long chaos lasts, and its seed; empty: a new one, which is printed.
fuzz: MINUTES ?= 7
chaos: MINUTES ?= 2
SEED ?=

# What the tour's session is typed with.
GRPCURL = v1.9.4

export ETCD TEST_THREADS RUNS

help: ## list the targets
	@sed -n 's/^\([a-z0-9.-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: deps ## watch it break and resume, in about 25 s; ETCD=/path/to/etcd chooses the server
	@$(if $(filter etcd,$(ETCD)),scripts/need.sh etcd:etcd-server)
	cargo build --locked --bin watchmark --example demo
	@cargo run --locked --quiet --example demo

build: deps ## build the release binary
	cargo build --locked --release

bench: deps-bench ## what it costs beside a direct client, in one table; ONLY='live ...' for some, RUNS=5
	@scripts/bench.sh $(ONLY)

test: deps-test ## run every test; ETCD=/path/to/etcd chooses the server
	scripts/test.sh

test-matrix: deps-test etcd-3.6 etcd-3.7 ## the tests that need etcd, on Debian's and the newest 3.6 and 3.7
	$(MAKE) test-etcd ETCD=etcd
	$(MAKE) test-etcd ETCD=.etcd/3.6/etcd
	$(MAKE) test-etcd ETCD=.etcd/3.7/etcd

test-etcd: deps-test ## only the tests that depend on the version of etcd
	scripts/test.sh $(ETCD_TESTS)

test-clients: deps-clients ## the consumers of examples/ in five languages, and the sessions of README and the tour, on the real thing
	scripts/clients.sh
	cargo fmt --check --manifest-path examples/rust/Cargo.toml
	GOBIN=$(CURDIR)/target/tools go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL)
	TEST_FLAGS=--include-ignored scripts/test.sh --test clients

proto-check: deps-proto ## the protos: style, what would break clients or stored data, and proto/README.md is theirs
	scripts/proto.sh check

proto-docs: deps-proto ## write proto/README.md anew
	scripts/proto.sh docs

proto-baseline: deps-proto ## at a release: what later versions must stay compatible with
	scripts/proto.sh baseline

simulate: deps ## live through SEEDS worlds with faults, from SEED on; SEED=n alone replays one
	@SEEDS='$(if $(SEED),$(SEEDS),$(or $(SEEDS),10000))' SEED='$(SEED)' \
		cargo test --locked --test simulate -- --nocapture --test-threads=1

chaos: deps-test ## faults of every kind at once for MINUTES=n; SEED=s repeats their order
	CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) TEST_FLAGS=--nocapture \
		scripts/test.sh --test chaos chaos_breaks_no_promise

fuzz: deps ## fuzz what is decoded and the state machine, for MINUTES=7 in all
	@command -v cargo-fuzz >/dev/null || { \
		echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }
	scripts/fuzz.sh $(MINUTES)

check: deps ## formatting, clippy and docs, warnings denied; and the mistakes still apply
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	scripts/mistakes.sh --check

deny: rust ## licences, versions and advisories of what comes with us, against deny.toml
	@scripts/deny.sh

mistakes: deps-test ## make each classic mistake in a copy, and show the test that catches it; ONLY='name ...' for some
	@scripts/mistakes.sh $(ONLY)

mutants: deps ## break the machine and the status table in every small way; FILE='src/resume/batch.rs ...' for some
	@scripts/mutants.sh $(FILE)

image: deps deps-image ## build the container image, without a registry; ARCHIVE=file: also as an OCI archive
	@k8s/image.sh $(ARCHIVE)

test-k8s: deps deps-image deps-k8s etcd-3.6 ## test the image, the manifests, the alerts, and the demo as a real pod
	@k8s/tests/run.sh

etcd-3.6: ## build the newest etcd 3.6 into .etcd/3.6 (needs Go)
	@scripts/etcd.sh 3.6

etcd-3.7: ## build the newest etcd 3.7 into .etcd/3.7 (needs Go)
	@scripts/etcd.sh 3.7

rust:
	@command -v cargo >/dev/null || { \
		echo 'cargo is not on PATH: install Rust first (rustup, or see rust-version in Cargo.toml)' >&2; \
		exit 1; }

deps: rust
	@scripts/need.sh cc:build-essential protoc:protobuf-compiler \
		/usr/include/google/protobuf/descriptor.proto:libprotobuf-dev

# setpriv: no process outlives the run.
deps-bench: deps
	@$(if $(filter etcd,$(ETCD)),scripts/need.sh etcd:etcd-server)
	@scripts/need.sh setpriv:util-linux

# mkfs.ext4, losetup: simulated power cuts. setpriv: no process outlives a test.
# Prometheus' own parser, in Python, reads our metrics; a browser our page.
deps-test: deps
	@scripts/need.sh etcd:etcd-server etcdctl:etcd-client openssl:openssl \
		setpriv:util-linux mkfs.ext4:e2fsprogs losetup:mount mount:mount \
		chromium:chromium /usr/bin/python3:python3 \
		/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py:python3-prometheus-client

deps-image:
	@scripts/need.sh buildah:buildah /usr/share/ca-certificates/mozilla:ca-certificates

# promtool is in Prometheus' package. runc: crun wants one version of cgroups.
deps-k8s: go
	@scripts/need.sh etcdctl:etcd-client promtool:prometheus openssl:openssl podman:podman runc:runc \
		catatonit:catatonit iptables:iptables /usr/bin/python3:python3 \
		/usr/lib/python3.11/ensurepip:python3-venv

# buf comes from npm, as a binary.
deps-proto: deps go
	@scripts/need.sh node:nodejs npm:npm

# Python's venv needs a package of its own on Debian, and has no command.
deps-clients: deps-test go
	@python3 -c 'import ensurepip' 2>/dev/null || scripts/need.sh /usr/lib/python3/venv:python3-venv
	@scripts/need.sh javac:default-jdk-headless mvn:maven node:nodejs npm:npm

go:
	@command -v go >/dev/null || { \
		echo 'go is not on PATH: install Go 1.26 or later first (https://go.dev/dl; Debian 12 has 1.19)' >&2; \
		exit 1; }

clean: ## remove what was built, but for .etcd
	cargo clean
