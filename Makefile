# `make` lists the targets. Variables: PYTHON (to make the environment with), ARGS (for pytest, serve, bench),
# REQUIRE (servers whose tests must not be skipped).
PYTHON ?= python3
REQUIRE ?=
ARGS ?=
ALL_SERVERS := minio,mc,postgres,pgbouncer,versity,nginx,caddy,node,chromium,nats,rabbitmq,redis,kafka,clamd,ffmpeg,faketime

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest $(if $(REQUIRE),--require $(REQUIRE)) $(ARGS)
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup run test check ci bench fmt lint types layers quick fast integration clients fault soak servers spec wheel lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name does; do \
		printf '  make %-12s %s\n' "$$name" "$$does"; done

setup: $(VENV)/.development ## make the environment for development in .venv

run: $(VENV)/.runtime ## run the gateway on SQLite and a local directory; nothing else is needed
	$(BIN)/tusgate serve $(ARGS)

test: $(VENV)/.development ## run all tests; those whose server is missing here are skipped, see `make servers`
	@$(MAKE) --no-print-directory tests/clients/node_modules || echo 'without npm packages: their tests are skipped'
	$(PYTEST)

check: lint types layers quick ## before every push: lint, types, layers and the fastest tests

ci: ## all that continuous integration runs: fetches every server, skips nothing
	$(MAKE) setup servers tests/clients/node_modules
	$(MAKE) lint types layers wheel
	$(MAKE) test REQUIRE=$(ALL_SERVERS) ARGS='--numprocesses 2 --dist worksteal $(ARGS)'

bench: $(VENV)/.development ## measure throughput, CPU and memory against direct uploads
	$(BIN)/python -m bench $(ARGS)

fmt: $(VENV)/.development ## format the code and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(VENV)/.development ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.development ## check types
	$(BIN)/mypy

layers: $(VENV)/.development ## check that dependencies point the right way
	$(BIN)/lint-imports

quick: $(VENV)/.development ## the fastest tests: rules, and the service on doubles with a virtual clock
	$(PYTEST) --numprocesses 2 --dist worksteal -m 'not servers and not clients and not slow' tests/unit

fast: $(VENV)/.development ## all tests that need no server: also contracts on SQLite and a directory, the wire, the model
	$(PYTEST) --numprocesses 2 --dist worksteal -m 'not servers and not clients and not slow' \
		tests/unit tests/contract tests/wire tests/model

integration: $(VENV)/.development ## tests on real stores, databases, proxies and brokers; none is skipped
	$(PYTEST) --require minio,mc,postgres,pgbouncer,versity,nginx,caddy,nats,rabbitmq,redis,kafka,clamd,ffmpeg,faketime \
		-m servers tests/integration tests/contract tests/deploy

clients: $(VENV)/.development tests/clients/node_modules ## real upload clients: tus-js-client, tuspy, aiotus, curl, Chromium
	$(PYTEST) --require minio,postgres,node,chromium tests/clients tests/browser

fault: $(VENV)/.development ## broken links, killed processes, stores that lie, hostile clients
	$(PYTEST) --require minio,postgres,pgbouncer,nginx tests/fault tests/abuse tests/model

soak: $(VENV)/.development ## twenty minutes of random faults on two replicas (TUSGATE_TEST_SOAK: seconds)
	TUSGATE_TEST_SOAK=$${TUSGATE_TEST_SOAK:-1200} $(PYTEST) -s --require minio,postgres tests/fault/test_soak.py

servers: $(VENV)/.development ## fetch the servers that tests use: builds MinIO, Versity and NATS (minutes, once), apt-get as root
	$(BIN)/python -m tests.servers.acquire minio mc versity postgres pgbouncer nginx caddy chromium node nats rabbitmq redis kafka clamd ffmpeg faketime

spec: $(VENV)/.development ## list the protocol requirements and the cases of failure that no test names
	$(BIN)/python -m tests.spec

wheel: $(VENV)/.development ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lock: $(VENV)/.development ## choose new versions for the lock files
	$(PIP_INSTALL) uv
	$(COMPILE) --upgrade --output-file requirements.lock
	$(COMPILE) --upgrade --all-extras --constraint requirements.lock --output-file requirements-extras.lock
	$(COMPILE) --upgrade --all-extras --group lint --group test --constraint requirements-extras.lock --output-file requirements-dev.lock
	cd tests/clients && npm install --package-lock-only --no-audit --no-fund

clean: ## remove what the other targets made, but not the servers in the cache
	rm -rf $(VENV) dist tests/clients/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'tusgate needs Python 3.11 or newer: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y python3-venv; } || \
		{ echo 'Python lacks its venv module: install the package python3-venv'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.development: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	$(PIP_INSTALL) --no-deps --editable .
	@touch $@

tests/clients/node_modules: tests/clients/package-lock.json | $(VENV)/.development
	$(BIN)/python -m tests.servers.node install tests/clients
	@touch $@
