# The whole interface: make help | demo | test | lint | bench | docs
#
# Each step below leaves a file that says that it was done, so that a second run only does what changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

bin := .venv/bin
programs := src/atoll/_agent/atoll-agent src/atoll/_share/atoll-share
python_sources := $(shell find src -name '*.py')
program_sources := $(shell find agent share Cargo.toml Cargo.lock .cargo -type f -not -path '*/target/*') scripts/build-programs

.PHONY: help
help: ## List these targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: demo
demo: demo-packages .venv/runtime-installed .venv/compiled $(programs) ## Install what is missing, build, and run a Debian container in a VM of its own
	@scripts/demo

# Downloads wait for others, compilers for each other: several things at once, and what each has to say at its end.
# The environment is whole before `lint` looks at it.
.PHONY: test
test: test-packages ## Install what is missing, lint, and run every test
	@$(MAKE) --no-print-directory --jobs 3 --output-sync .venv/test-installed $(programs) test-images
	@$(MAKE) --no-print-directory --jobs 2 --output-sync .venv/compiled lint test-programs
	@# Much of the time a test waits for a guest: two at once, each worker with an engine of its own.
	$(bin)/pytest --numprocesses 2 --dist worksteal

.PHONY: test-programs
test-programs:
	scripts/cargo test --workspace --locked --quiet

.PHONY: lint
lint: test-packages .venv/test-installed ## Check formatting, types, the dependency direction, dead code, scripts and links
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/vulture
	shellcheck --severity=warning $$(grep -lrE "^#!.*(bash|/sh)" scripts bench .ci)
	scripts/cargo fmt --all --check
	scripts/cargo clippy --workspace --locked --all-targets --quiet -- --deny warnings
	$(bin)/python scripts/check_links.py

.PHONY: bench
bench: demo-packages .venv/runtime-installed .venv/compiled $(programs) ## Measure starts, memory, the command and pulls, and print the figures
	bench/boot
	bench/cli
	bench/create
	bench/start
	bench/memory
	bench/network
	bench/pull
	bench/network

.PHONY: docs
docs: docs/networking.svg .venv/runtime-installed ## Draw the pictures and check that every link in the Markdown pages leads somewhere
	$(bin)/python scripts/check_links.py

docs/networking.svg: docs/networking.dot
	@scripts/install-packages docs
	dot -Tsvg $< -o $@

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

$(programs) &: $(program_sources)
	@scripts/build-programs

# What the integration tests run, fetched before the first of them starts its clock.
.PHONY: test-images
test-images: build/debian-bookworm.tar build/nginx-bookworm.tar build/postgresql-bookworm.tar build/kernel-cache
build/debian-bookworm.tar:
	@scripts/make-debian-image $@
build/nginx-bookworm.tar:
	@scripts/make-debian-image $@ nginx-light
build/postgresql-bookworm.tar:
	@scripts/make-debian-image $@ postgresql
build/kernel-cache:
	@scripts/unpack-kernel linux-image-cloud-amd64 $@
