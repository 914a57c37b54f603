# The whole interface: make help | demo | test | lint | bench | docs
#
# Each step below leaves a file that says that it was done, so that a second run only does what changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

bin := .venv/bin
agent := src/atoll/_agent/atoll-agent
python_sources := $(shell find src -name '*.py')
agent_sources := $(shell find agent -type f -not -path '*/target/*')

.PHONY: help
help: ## List these targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: demo
demo: demo-packages .venv/runtime-installed .venv/compiled $(agent) ## Install what is missing, build, and run a Debian container in a VM of its own
	@scripts/demo

.PHONY: test
test: test-packages .venv/test-installed .venv/compiled $(agent) lint test-images ## Install what is missing, lint, and run every test
	cd agent && ../scripts/cargo test --locked --quiet
	$(bin)/pytest

.PHONY: lint
lint: test-packages .venv/test-installed ## Check formatting, types, the dependency direction, dead code, scripts and links
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/vulture
	shellcheck --severity=warning $$(grep -lrE "^#!.*(bash|/sh)" scripts bench .ci)
	cd agent && ../scripts/cargo fmt --check
	cd agent && ../scripts/cargo clippy --locked --all-targets --quiet -- --deny warnings
	$(bin)/python scripts/check_links.py

.PHONY: bench
bench: demo-packages .venv/runtime-installed .venv/compiled $(agent) ## Measure starts, memory and the command, and print the figures
	bench/boot
	bench/cli
	bench/create
	bench/start
	bench/memory

.PHONY: docs
docs: .venv/runtime-installed ## Check that every link in the Markdown pages leads somewhere
	$(bin)/python scripts/check_links.py

.PHONY: demo-packages test-packages
demo-packages:
	@scripts/install-packages demo
test-packages:
	@scripts/install-packages test

.venv/runtime-installed: requirements/runtime.txt pyproject.toml scripts/make-venv
	@scripts/make-venv runtime
	@touch $@

.venv/test-installed: requirements/test.txt requirements/runtime.txt pyproject.toml scripts/make-venv
	@scripts/make-venv test
	@touch $@ .venv/runtime-installed

# Where the environment forbids Python to write bytecode, every command would compile all that it imports (15 ms).
.venv/compiled: $(python_sources) | .venv/runtime-installed
	@.venv/bin/python -m compileall -q src/atoll
	@touch $@

$(agent): $(agent_sources) scripts/build-agent
	@scripts/build-agent

# What the integration tests run, fetched before the first of them starts its clock.
.PHONY: test-images
test-images: build/debian-bookworm.tar build/postgresql-bookworm.tar build/kernel-cache
build/debian-bookworm.tar:
	@scripts/make-debian-image $@
build/postgresql-bookworm.tar:
	@scripts/make-debian-image $@ postgresql
build/kernel-cache:
	@scripts/unpack-kernel linux-image-cloud-amd64 $@
