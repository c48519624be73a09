# Every target sets up what it needs; a second run reuses it.
SHELL := /bin/sh
CONFIG ?= configs/cpu.yaml
VERSION ?= 1
MODELS ?= servable/metric_learn
INSTALL := sh configs/environments/install.sh
EXPORT := .venv/export/bin/python -m export
ENGINE := .venv/engine/bin/python
SERVER := .venv/server/bin/python
CLIENT := .venv/client/bin/python
WIRES := .venv/wires/bin/python

.PHONY: help demo test test-long test-pythons check proto docs lock export serve bench engine-env server-env client-env export-env wires-env bench-env release-env release

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

engine-env server-env client-env export-env wires-env bench-env release-env:
	@$(INSTALL) $(@:-env=)

export: export-env engine-env server-env  ## CKPT=file [VERSION=n] [MODELS=directory]: checkpoint -> MindIR, verified
	@test -n "$(CKPT)" || { echo "usage: make export CKPT=file [VERSION=n]" >&2; exit 2; }
	$(EXPORT) convert --checkpoint "$(CKPT)" --version $(VERSION) --directory $(MODELS)
	$(EXPORT) verify --version $(VERSION) --directory $(MODELS)

demo: export-env engine-env server-env client-env  ## the main job, start to finish, on CPU
	@sh configs/environments/demo.sh

serve: engine-env server-env  ## [CONFIG=configs/cpu.yaml] [MODELS=directory]: start the server
	$(SERVER) -m servable.serving_server --config $(CONFIG) --set model.directory=$(MODELS)

lock:  ## compile the lock files from their *.in files
	@sh configs/environments/lock.sh

proto: client-env  ## client/proto/*.proto -> the descriptor set and the types of the wire
	$(CLIENT) client/proto/generate.py

docs: client-env  ## client/docs/options.md and errors.md, from the source
	$(CLIENT) client/docs/generate.py

CLIENT_TESTS := tests/unit/client tests/integration/client tests/e2e tests/ascend
check: client-env engine-env server-env export-env  ## format, lint, types, generated files
	$(CLIENT) client/proto/generate.py --check
	$(CLIENT) client/docs/generate.py --check
	.venv/client/bin/ruff format --check .
	.venv/client/bin/ruff check .
	.venv/client/bin/mypy --python-version 3.12 client/src $(CLIENT_TESTS)  # NumPy's own types need 3.12
	$(SERVER) -m mypy servable tests/unit/servable tests/integration/servable
	$(SERVER) -m mypy --python-executable $(ENGINE) servable/engine servable/metric_learn
	$(SERVER) -m mypy --python-executable .venv/export/bin/python --follow-imports silent export tests/unit/export

# unit: beside the code, in the environment that runs it. integration: the real client against an in-process fake, and
# the gateway against a fake MindSpore Serving. e2e: the real server, from outside, so in the client's environment.
# e2e/wires: the same, by other people's clients, which have an environment of their own.
IN_ENGINE := tests/unit/servable/engine tests/unit/servable/metric_learn
# Two files at a time, where nothing is timed and no server has models to run.
PARALLEL := -n 2 --dist loadfile
# COVER,packages,floor[,--cov-append]: how much of them these tests run, as one line, and a failure below the floor, which is a point under
# what was measured: raise it, never lower it. `.venv/client/bin/coverage report -m` then shows the lines of the last tier.
test: COVER = --cov-report= $(1:%=--cov=%) --cov-fail-under=$(2) $(3)
test: TIER := not long
test-long: TIER := long
test-long: NONE_IS_FINE := || [ $$? = 5 ]  # pytest's exit code for a folder without long tests
test test-long: client-env engine-env server-env export-env wires-env
	$(CLIENT) -m pytest -q -m "$(TIER)" $(PARALLEL) $(call COVER,metric_learn_client,88) tests/unit/client tests/integration/client $(NONE_IS_FINE)
	$(ENGINE) -m pytest -q -m "$(TIER)" $(PARALLEL) $(call COVER,metric_learn_client.preprocess servable.engine servable.metric_learn,81) tests/unit/client/preprocess $(IN_ENGINE) $(NONE_IS_FINE)
	$(SERVER) -m pytest -q -m "$(TIER)" $(PARALLEL) $(call COVER,servable,83,--cov-append) tests/unit/servable $(IN_ENGINE:%=--ignore=%) tests/integration/servable $(NONE_IS_FINE)
	GLOG_v=3 .venv/export/bin/python -m pytest -q -m "$(TIER)" tests/unit/export $(NONE_IS_FINE)
	$(CLIENT) -m pytest -q -m "$(TIER)" --ignore tests/e2e/wires tests/e2e tests/ascend
	$(WIRES) -m pytest -q -m "$(TIER)" tests/e2e/wires $(NONE_IS_FINE)
# The server on each Python that it may run on, with its lock; nothing that only the engine or the network needs.
PYTHONS ?= 3.10 3.11 3.12 3.13
test-pythons: engine-env $(PYTHONS:%=test-python-%)  ## [PYTHONS="3.10 3.13"]: the server's own tests on other Pythons
test-python-%:
	@$(INSTALL) server-$*
	.venv/server-$*/bin/python -m pytest -q -m "not long" $(PARALLEL) tests/unit/servable $(IN_ENGINE:%=--ignore=%) tests/integration/servable
test-long: test-pythons
test:  ## every test that a change must pass
test-long:  ## chaos, soak, scale and version-matrix runs

bench: client-env engine-env server-env export-env bench-env  ## [BENCH=short]: speed against the bare network and other servers
	$(CLIENT) -m tests.benchmarks.suite $(if $(filter short,$(BENCH)),--short)

release: release-env  ## VERSION=x.y.z or DRY_RUN=1: sdist, wheel, SBOMs, digests and a tag of what is committed
	.venv/release/bin/python client/release/release.py $(if $(DRY_RUN),--dry-run) $(if $(filter file,$(origin VERSION)),,"$(VERSION)")
