# Everything a developer runs. Needs Python >= 3.11 with its venv module, make, and a package index; nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_VERSION := 26.3

# What `make test` runs, and how many processes run it.
TESTS ?= tests
WORKERS ?= 2
# More arguments for the program behind a target: make run RUN_ARGS="--for 10s", make test TEST_ARGS="-k lease".
RUN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
# Seconds of `make fuzz`, for all its targets together.
FUZZ_TIME ?= 300
IMAGE ?= nats-cron:latest

.PHONY: help run test lint format bench soak fuzz build docker install clean
.DEFAULT_GOAL := help

help: ## Show the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# The stamp goes stale with pyproject.toml, so that a changed dependency is installed by the next target that needs it.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "natscron needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip==$(PIP_VERSION)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[server,uvloop,ws]" --group dev
	@touch $@

install: $(STAMP) ## Set up the virtual environment.

run: $(STAMP) ## Start NATS, a NATS Cron server and a demo job, and show its messages (Ctrl-C ends it).
	$(BIN)/nats-cron dev --demo $(RUN_ARGS)

test: $(STAMP) ## Run all tests but the soak tests.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) -m "not soak" $(TEST_ARGS) $(TESTS)

lint: $(STAMP) ## Check style, types, layers and the Dockerfile.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(STAMP) ## Format the code and mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure; one table of figures. Takes minutes. One alone: BENCH_ARGS=burst
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

soak: $(STAMP) ## Run the tests that take minutes.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m soak $(TEST_ARGS) $(TESTS)

fuzz: $(STAMP) ## Look for input that breaks a reader, guided by coverage, for FUZZ_TIME seconds (Linux on x86-64).
	$(BIN)/python -m tests.fuzz.coverage --seconds $(FUZZ_TIME)

build: $(STAMP) ## Build the sdist and the wheel into dist/.
	$(BIN)/python -m build

docker: $(STAMP) ## Build the image; where no engine runs, check the Dockerfile instead.
	@if docker info >/dev/null 2>&1; then \
		docker build --tag $(IMAGE) .; \
	else \
		echo "No container engine answers here: checking the Dockerfile only."; \
		$(BIN)/hadolint Dockerfile && echo "Dockerfile: no complaint."; \
	fi

clean: ## Remove what the other targets made.
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .fuzz
