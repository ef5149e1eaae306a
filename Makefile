# What a user runs. Everything a target needs beyond Rust and Debian it installs itself.
CARGO ?= cargo
VENV  := .venv

.PHONY: run build test test-rust test-clients lint fmt audit bench faults-long clients clean

## run: the gateway on its embedded backend, with credentials made on the first start
run:
	$(CARGO) run --release -- serve --settings settings/development.yaml --development

## build: the release binary, target/release/mizuchi
build:
	$(CARGO) build --release

## test: everything: the Rust tests, then real clients against the release binary
test: test-rust test-clients

test-rust:
	$(CARGO) test --workspace

test-clients: build clients
	$(VENV)/bin/python -m pytest -q tests/clients

## bench: CPU per GB of splice against copy, and latencies, in one run
bench:
	$(CARGO) bench --bench side_by_side

## faults-long: the fault tests with ten times the rounds and 10,000 aborted clients
faults-long:
	MIZUCHI_LONG=1 $(CARGO) test --test integration -- --nocapture faults overload streaming

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
