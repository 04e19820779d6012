# make serve   runs the service on http://127.0.0.1:8000     make test    runs all tests
# make serve ARGS="--port 8080"   with options of `pulse-trio serve`
# make check   before each commit, in a minute or two        make lint    lint, types, import rules
# make lock    writes the lock files anew
# make sbom, make audit   what the service is made of, and what is known against it; make dist   wheel and sdist
# make container   builds and tries the image
# make test-exits   the tests of how the process ends, on the system's own Python
# make bench   our server and its peers under load (docs/benchmarks.md); make bench-quick: under ten minutes
# make promises   what our server and its peers keep when something fails
# Only Python 3.11 or newer, make and the package registry are assumed.

VENV := .venv
# Test processes at a time: most tests wait for a server or a database. A test that hangs or crashes takes its process
# with it; the limit is there so that xdist never leaves out the tests that follow.
JOBS ?= 4
XDIST := -n $(JOBS) --dist worksteal --max-worker-restart 10000
BIN := $(VENV)/bin
BENCH := .venv-bench
GENERATED := .venv-generated
DEBIAN := .venv-debian
NPM := .venv-npm
DEBIAN_PYTHON ?= /usr/bin/python3
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
NO_PYTHON := { echo "Python 3.11 or newer is needed; none was found on the PATH." >&2; exit 1; }
INSTALL = test -n "$(PYTHON)" || $(NO_PYTHON); $(PYTHON) tools/install.py
LOCK = uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade

.PHONY: serve check test test-npm types test-cluster fuzz fuzz-cluster fuzz-javascript-client fuzz-python-client \
	test-generated fairness frame-fuzz fuzz-rest test-long test-exits simulate conformance bench bench-quick promises lint \
	lock sbom notice audit dist container clean \
	lint-ruff lint-async lint-words lint-types lint-imports

serve: $(VENV)/serve.stamp
	@exec $(BIN)/pulse-trio serve $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(XDIST) $(PYTEST_ARGS)

# Patch releases of Python differ in how exceptions end a process: Debian 12 has 3.11.2, older than what most developers
# run. Its environment is apart from the one that all else runs in.
test-exits: $(DEBIAN)/test.stamp
	$(DEBIAN)/bin/python -m pytest $(XDIST) -m process_end tests/unit/test_lifespan.py tests/e2e \
		tests/faults $(PYTEST_ARGS)

# Many runs of the simulated service, each from one number; a run that fails says how to see it again.
SEEDS ?= 2000
START ?= $(shell date +%s)
simulate: $(VENV)/test.stamp
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)

# Several stores on one PostgreSQL, as several processes would be, with delays between their statements.
ROUNDS ?= 20
fuzz: $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz --rounds $(ROUNDS)

# Each operation and frame at its largest, floods of passwords and searches, and unread answers, beside a canary. For a
# quiet machine: it compares times. About ten minutes.
fairness: $(VENV)/test.stamp
	$(BIN)/python -m tests.fairness $(FAIRNESS_ARGS)

# Everything that bytes on the port may be, while two others chat; a server and a database of its own.
FUZZ_SECONDS ?= 600
frame-fuzz: $(VENV)/test.stamp
	$(BIN)/python -m tests.frame_fuzz --seconds $(FUZZ_SECONDS)

# Schemathesis on the REST operations, while two others chat.
fuzz-rest: $(VENV)/test.stamp
	PULSE_TEST_REST_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest -o faulthandler_timeout=0 -s \
		tests/e2e/test_openapi.py -k for_long

# Everything that takes long, one after the other, each fuzz for MINUTES; all of it runs, whatever fails. The order is
# that of the time: the shortest first. For a quiet machine, because of `fairness`.
LONG := test-generated test-npm fairness frame-fuzz fuzz-rest fuzz-cluster fuzz-javascript-client fuzz-python-client
test-long:
	@failed=; for target in $(LONG); do \
		echo "make $$target"; \
		$(MAKE) --no-print-directory $$target MINUTES=$(MINUTES) FUZZ_SECONDS=$$(($(MINUTES) * 60)) \
			|| failed="$$failed $$target"; \
	done; \
	test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

# The Python client on bad networks, in front of services that are killed; then the bugs that it must find.
MINUTES ?= 30
fuzz-python-client: $(VENV)/test.stamp
	$(BIN)/python -m tests.python_fuzz --minutes $(MINUTES)
	PULSE_TEST_PYTHON_FUZZ=1 $(BIN)/python -m pytest tests/python_fuzz

# A client that openapi-python-client makes of /openapi.json, in an environment of its own.
test-generated: $(VENV)/test.stamp $(GENERATED)/test.stamp
	PULSE_TEST_GENERATED=$(GENERATED)/bin $(BIN)/python -m pytest tests/generated

# Four workers and a bus that are killed and stopped while 200 clients chat over them; CHAOS_ARGS="--start SEED --rounds 1"
# repeats a round that failed.
fuzz-cluster: $(VENV)/test.stamp
	$(BIN)/python -m tests.cluster_chaos --minutes $(MINUTES) $(CHAOS_ARGS)
	PULSE_TEST_CLUSTER_CHAOS=1 $(BIN)/python -m pytest tests/cluster_chaos

# What users do with conversations, each server a cluster of two processes with the clients spread over both.
CLUSTERED := $(patsubst %,tests/e2e/test_%.py,features frames http reads resume rest_conversations session tickets \
	unread_answers)
test-cluster: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(XDIST) --workers 2 -m "not one_process" $(CLUSTERED) $(PYTEST_ARGS)

# The JavaScript client on a bad network, with a service that is killed; FUZZ_ARGS="--start SEED --rounds 1"
# repeats a round that failed.
fuzz-javascript-client: $(VENV)/test.stamp
	$(BIN)/python -m tests.javascript_fuzz --minutes $(MINUTES) $(FUZZ_ARGS)

# The JavaScript client as a package, its types, and clients that are generated from the documents of the service: by
# programs of npm (TypeScript, openapi-typescript, the parser of AsyncAPI, ws).
test-npm: $(VENV)/test.stamp $(NPM)/npm.stamp
	PULSE_TEST_NPM=$(NPM) $(BIN)/python -m pytest -q -o faulthandler_timeout=1200 tests/npm $(PYTEST_ARGS)

# The declarations of the JavaScript client for TypeScript, from the comments in its modules.
types: $(VENV)/test.stamp $(NPM)/npm.stamp
	$(BIN)/python -m tests.npm.declarations $(NPM)

# WebSocket conformance with the long groups of cases: large messages and compression. Minutes.
conformance: $(VENV)/test.stamp
	PULSE_TEST_ALL_CONFORMANCE=1 $(BIN)/python -m pytest -o faulthandler_timeout=3600 tests/conformance

# BENCH_ARGS="--only ab --rounds 3" and the like: .venv-bench/bin/python -m benchmarks --help
bench bench-quick: $(BENCH)/bench.stamp $(VENV)/serve.stamp
	@exec $(BENCH)/bin/python -m benchmarks $(if $(findstring quick,$@),--quick) $(BENCH_ARGS)

# Five promises, tried on each server that stores; then on ours with a bug for each, which must be found.
promises: $(BENCH)/bench.stamp $(VENV)/serve.stamp
	$(BENCH)/bin/python -m benchmarks.promises $(PROMISES_ARGS)
	$(BENCH)/bin/python -m benchmarks.promises --planted

lint: lint-ruff lint-async lint-words lint-types lint-imports

lint-ruff: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Off: ASYNC122 is about Trio before 0.27, 124 about views, 9xx want a checkpoint in every function, 300 is asyncio's. In
# tests also: 100, which ruff finds too; 102, a clean-up that is cancelled fails the test as it should; 110, 114 and 128,
# ways of waiting.
ASYNC_OFF := ASYNC122,ASYNC124,ASYNC300,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913
ASYNC_OFF_IN_TESTS := $(ASYNC_OFF),ASYNC100,ASYNC102,ASYNC110,ASYNC114,ASYNC128
ASYNC_RULES := xargs -0 -P 2 -n 16 $(BIN)/python -m tests.support.async_rules
lint-async: $(VENV)/test.stamp
	find pulse_trio -name "*.py" -print0 | $(ASYNC_RULES) --startable-in-context-manager run --disable $(ASYNC_OFF)
	find tests -name "*.py" -print0 | $(ASYNC_RULES) --disable $(ASYNC_OFF_IN_TESTS)

lint-words: $(VENV)/test.stamp
	$(BIN)/python -m tests.support.docstrings pulse_trio migrations benchmarks tools tests

lint-types: $(VENV)/test.stamp
	$(BIN)/mypy

lint-imports: $(VENV)/test.stamp
	$(BIN)/lint-imports --no-cache

# Before each commit: all that needs no database, server or browser.
check: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory -j 2 lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q tests/unit
	$(BIN)/python -m pytest -q tests/contract -k memory
	$(BIN)/python -m tests.simulation --seeds 20 --start $(START)

# The lock files name no registry: pip uses the one that the machine is set up for. Needs uv.
lock:
	$(LOCK) --extra client --group build pyproject.toml -o requirements.lock
	$(LOCK) --extra client --group build --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(LOCK) benchmarks/requirements.in -o requirements-bench.lock
	$(LOCK) tests/generated/requirements.in -o tests/generated/requirements.lock
	@# Addresses of people's funding pages would be in these, too.
	for folder in benchmarks/peers/node tests/npm; do \
		(cd $$folder && npm update --package-lock-only --omit-lockfile-registry-resolved && \
		python3 -c 'import json; p = "package-lock.json"; lock = json.load(open(p)); \
			[package.pop("funding", None) for package in lock["packages"].values()]; \
			open(p, "w").write(json.dumps(lock, indent=2) + "\n")') || exit; \
	done

# What the service is made of, as CycloneDX; the licences of that; and what is known against it, by an export of OSV's
# database (AUDIT_DB=all.zip). None of them needs a network.
AUDIT_DB ?=
sbom: $(VENV)/serve.stamp
	@$(BIN)/python -m tools.supply_chain sbom build/pulse-trio.cdx.json && echo build/pulse-trio.cdx.json

notice: $(VENV)/serve.stamp
	@$(BIN)/python -m tools.supply_chain notice

audit: $(VENV)/serve.stamp
	@$(BIN)/python -m tools.supply_chain audit $(AUDIT_DB)

# Wheel and source distribution.
dist: $(VENV)/serve.stamp
	@$(BIN)/python -m hatchling build

# Builds the image of Dockerfile and tries it, with whatever builder is here.
container:
	tools/try_container.sh

clean:
	rm -rf $(VENV) $(BENCH) $(DEBIAN) $(GENERATED) $(NPM)

$(VENV)/serve.stamp: requirements.lock pyproject.toml
	@$(INSTALL) $(VENV) requirements.lock
	@touch $@

$(VENV)/test.stamp: requirements-dev.lock pyproject.toml
	@$(INSTALL) $(VENV) requirements-dev.lock
	@touch $@ $(VENV)/serve.stamp

$(DEBIAN)/test.stamp: requirements-dev.lock pyproject.toml
	@$(DEBIAN_PYTHON) tools/install.py $(DEBIAN) requirements-dev.lock
	@touch $@

# No script of a package runs: none of them needs one.
$(NPM)/npm.stamp: tests/npm/package.json tests/npm/package-lock.json
	@echo "Installing what the tests need from npm (once) ..."
	@mkdir -p $(NPM) && echo '*' > $(NPM)/.gitignore
	@cp tests/npm/package.json tests/npm/package-lock.json $(NPM)
	@cd $(NPM) && npm ci --ignore-scripts --silent --no-audit --no-fund
	@touch $@

# The load generator and the peers share nothing with the service, not even an environment. Servers on Node.js and
# ejabberd are among the peers if they are there (on Debian: apt-get install nodejs npm ejabberd erlang-p1-pgsql).
$(BENCH)/bench.stamp: requirements-bench.lock benchmarks/peers/node/package-lock.json
	@$(INSTALL) --only-lock $(BENCH) requirements-bench.lock
	@mkdir -p $(BENCH)/node && echo '*' > $(BENCH)/.gitignore
	@cp benchmarks/peers/node/package.json benchmarks/peers/node/package-lock.json $(BENCH)/node
	@! command -v npm >/dev/null || (cd $(BENCH)/node && npm ci --silent --no-audit --no-fund)
	@touch $@

$(GENERATED)/test.stamp: tests/generated/requirements.lock
	@$(INSTALL) --only-lock $(GENERATED) tests/generated/requirements.lock
	@touch $@
