# What one does with a checkout. `make help` lists it; the only thing needed beforehand is Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?=
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	--annotation-style line

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-cluster test test-fast judges check format lock bench bench-quick torture torture-quick \
	torture-cluster torture-cluster-quick simulate simulate-quick simulate-nodes power-loss power-loss-quick fuzz fuzz-quick \
	screenshots wheel sbom clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## the environment in .venv, with everything pinned by hash

# Redone only when the requirements or the project's metadata change. The candidates are run, not just looked up: a
# version manager's shim may be on the PATH without a Python behind it.
$(STAMP): requirements/dev.txt pyproject.toml requirements/runtime.in
	@set -e; python=; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
		if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "tocsin needs Python 3.11 or newer with its venv module, and none was found." >&2; \
		echo "Install one (Debian, Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$python" --version); once, about a minute."; \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## the product at work: a server, an Apple and a Google on this machine, and phones that ring
	@$(BIN)/tocsin demo

demo-cluster: $(STAMP)  ## a whole cluster: PostgreSQL with a standby, NATS, four nodes; two of all that are killed
	@$(BIN)/python -m tests.cluster.demo $(ARGS)

# Files of tests are shared between the cores: the tests of one file stay together, with the servers that they start.
TEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: $(STAMP)  ## every test
	$(TEST)

# What is left out starts servers or commands, waits for time-outs, draws many random histories, or fetches packages.
# Some wait more than they work: three at once keep two cores busy.
EVERYDAY := tests/unit tests/contract tests/sqlite tests/api tests/providers tests/third_provider
test-fast: $(STAMP)  ## the tests for everyday work, in under two minutes: the line, on the embedded store
	$(TEST) -n 3 $(EVERYDAY) -m "not slow"

judges: $(STAMP)  ## clients and servers that others wrote, against ours; says what is skipped and why
	$(BIN)/python -m pytest tests/judges -rs

check: $(STAMP)  ## lint, format, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(STAMP)  ## put the code into the form that `make check` wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmarks, in full
	$(BIN)/python -m benchmarks --full

bench-quick: $(STAMP)  ## the benchmarks, short enough for a look
	$(BIN)/python -m benchmarks --quick

torture: $(STAMP)  ## crashes, full disks and broken links, for a long time
	$(BIN)/python -m tests.torture --long

torture-quick: $(STAMP)  ## the same, for a short time
	$(BIN)/python -m tests.torture --quick

torture-cluster: $(STAMP)  ## a cluster under load while nodes, PostgreSQL and NATS are killed, stopped and cut off
	$(BIN)/python -m tests.cluster.torture --full

torture-cluster-quick: $(STAMP)  ## the same, for a minute
	$(BIN)/python -m tests.cluster.torture --quick

SEEDS ?= 10000
FIRST ?= 1
JOBS ?= 1
simulate: $(STAMP)  ## the line in virtual time: SEEDS seeds from FIRST on, in JOBS processes, less than a second of CPU each
	@$(BIN)/python -m tests.simulator --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

simulate-quick: $(STAMP)  ## the same for 45 seconds, with other seeds each time
	@$(BIN)/python -m tests.simulator --quick

simulate-nodes: $(STAMP)  ## the same with several nodes on one database: SEEDS seeds from FIRST on
	@$(BIN)/python -m tests.simulator --nodes --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

power-loss: $(STAMP)  ## more than 100,000 states in which a power cut could leave the disk, each opened and checked
	$(BIN)/python -m tests.power_loss

power-loss-quick: $(STAMP)  ## the same for some of these states, in less than a minute
	$(BIN)/python -m tests.power_loss --quick

INPUTS ?= 1000000
fuzz: $(STAMP)  ## INPUTS inputs, led by coverage, for everything that reads what comes from outside
	@$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

fuzz-quick: $(STAMP)  ## the same for two seconds each
	@$(BIN)/python -m tests.fuzz --quick

wheel: $(STAMP)  ## the wheels of the last commit in dist/: the same bytes wherever they are built
	@$(BIN)/python -m tools.wheel

sbom: $(STAMP)  ## the list of all that tocsin needs to run (CycloneDX), in dist/
	@$(BIN)/python -m tools.sbom

screenshots: $(STAMP)  ## pictures of every page of the console, into docs/images (needs chromium; three minutes)
	$(BIN)/python -m tests.browser.screenshots

lock:  ## pin the requirements anew (needs uv); the smaller lists follow the larger one
	cd requirements && rm -f dev.txt test.txt runtime.txt && $(PIN) -o dev.txt dev.in && \
		$(PIN) -c dev.txt -o test.txt test.in && $(PIN) -c dev.txt -o runtime.txt runtime.in

clean:  ## remove the environment and what tools leave behind
	rm -rf $(VENV) .judges .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist src/*.egg-info
