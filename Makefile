# What a user runs. Everything a target needs beyond Rust and Debian it installs itself.
CARGO ?= cargo
VENV  := .venv

.PHONY: run build test test-rust test-portable test-clients lint fmt audit bench bench-peers bench-peers-install bench-upload faults faults-long fuzz clients clean

## run: the gateway on its embedded backend, with credentials made on the first start
run:
	$(CARGO) run --release -- serve --settings settings/development.yaml --development

## build: the release binary, target/release/mizuchi
build:
	$(CARGO) build --release

## test: everything: the Rust tests, then real clients against the release binary
test: test-rust test-portable test-clients

# Tests wait more than they compute: for timeouts, for faults. Twice as many as processors run at a time.
export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

test-rust:
	$(CARGO) test --workspace

## test-portable: the same engine as on a kernel without splice(2)
test-portable:
	$(CARGO) test --workspace --features portable -- --skip backend_matrix --skip overload

test-clients: build clients
	$(VENV)/bin/python -m pytest -q -n auto tests/clients
	$(VENV)/bin/python -m pytest -q -n auto tests/durability

## bench: the short form of bench-peers (small bodies, latencies), and what each way to authenticate costs
bench:
	$(CARGO) build --release
	$(CARGO) run --release -p mizuchi-bench -- peers --only small,latency --rounds 3
	$(CARGO) bench --bench auth
	$(CARGO) bench --bench payload

## bench-peers: CPU, latency and memory beside HAProxy, nginx, s3s-proxy, Pingora and bare loops; the tables
## and plots of docs/performance.md. About 25 minutes. PEERS="--only large,small --rounds 3", or "--quick"
PEERS ?=
bench-peers:
	$(CARGO) build --release
	$(CARGO) run --release -p mizuchi-bench -- peers --document docs/performance.md $(PEERS)

## bench-peers-install: the peers: HAProxy and nginx from Debian (and cmake, for Pingora) unless they are
## there; s3s-proxy and a Pingora proxy to target/peers
S3S_PROXY := 0.14.1
bench-peers-install:
	@missing=; for program in haproxy nginx cmake; do \
	  PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	  test -z "$$missing" || apt-get install -y --no-install-recommends $$missing || { \
	  echo "make bench-peers-install: as root run: apt-get install$$missing" >&2; exit 1; }
	$(CARGO) install s3s-proxy --version $(S3S_PROXY) --locked --root target/peers
	$(CARGO) install --path benches/pingora --locked --root target/peers --target-dir target/peers-build

## bench-upload: `mizuchi upload` beside aws-cli and rclone: docs/batch.md. UPLOAD="2000 512 3": files, MiB, rounds
UPLOAD ?=
bench-upload: build clients
	benches/upload/compare.sh $(UPLOAD)

## faults: the fault tests as CI runs them: a few minutes
faults:
	$(CARGO) test --test integration -- --nocapture $(FAULTS)

## faults-long: the same with the rounds of docs/reliability.md, FUZZ_SECONDS of each fuzz target, and the
## spool's disk killed, cut off and filled: for that it must be root, with loop devices and ptrace(2)
faults-long: fuzz build clients
	MIZUCHI_LONG=1 $(CARGO) test --test integration -- --nocapture $(FAULTS)
	MIZUCHI_LONG=1 $(CARGO) test -p mizuchi-actors --lib spool::tests::crash -- --nocapture
	MIZUCHI_LONG=1 $(VENV)/bin/python -m pytest -q -s tests/durability

FAULTS := backend_ faults fuzz jwks overload races replay scale splits spool_faults streaming write_back

## fuzz: each target for FUZZ_SECONDS (3600) with libFuzzer; needs cargo-fuzz, and no nightly Rust
FUZZ_SECONDS ?= 3600
FUZZ_TARGETS := head chunked aws_chunked authorization presigned xml settings response upload_id post_form archive
# No sanitizer: the workspace forbids unsafe code, and only a sanitizer needs a nightly compiler.
# What is found goes to fuzz/found and fuzz/artifacts; fuzz/README.md says how to keep it.
fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
	  echo "make fuzz: cargo-fuzz is not installed. Run: cargo install cargo-fuzz" >&2; exit 1; }
	set -e; for target in $(FUZZ_TARGETS); do mkdir -p fuzz/found/$$target; \
	  $(CARGO) fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -print_final_stats=1; done

## clients: boto3, aws-cli, moto in a venv; the JavaScript SDK; rclone, curl, nginx, HAProxy from Debian
clients: $(VENV)/.installed

$(VENV)/.installed: tests/clients/install tests/clients/requirements.txt tests/clients/js/package-lock.json
	tests/clients/install
	touch $@

## lint: formatting, clippy, documentation
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

## audit: RustSec advisories (needs cargo-audit); AUDIT_DB=DIR for a local copy of the database
audit:
	cargo audit $(if $(AUDIT_DB),--db $(AUDIT_DB) --no-fetch --stale)

fmt:
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
	rm -rf $(VENV)
