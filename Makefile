# Every target sets up what it needs; a second run reuses it.
SHELL := /bin/sh
CONFIG ?= configs/cpu.yaml
VERSION ?= 1
INSTALL := sh configs/environments/install.sh
EXPORT := .venv/export/bin/python -m export
SERVER := .venv/server/bin/python
CLIENT := .venv/client/bin/python

.PHONY: help demo test test-long check export serve export-env server-env client-env

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

export-env server-env client-env:
	@$(INSTALL) $(@:-env=)

export: export-env server-env  ## CKPT=file [VERSION=n]: checkpoint -> MindIR, verified
	@test -n "$(CKPT)" || { echo "usage: make export CKPT=file [VERSION=n]" >&2; exit 2; }
	$(EXPORT) convert --checkpoint "$(CKPT)" --version $(VERSION)
	$(EXPORT) verify --version $(VERSION)

demo: export-env server-env client-env  ## the main job, start to finish, on CPU
	@sh configs/environments/demo.sh

serve: server-env  ## [CONFIG=configs/cpu.yaml]: start the server
	$(SERVER) -m servable.serving_server --config $(CONFIG)

check: client-env  ## format, lint, types
	.venv/client/bin/ruff format --check .
	.venv/client/bin/ruff check .
	.venv/client/bin/mypy client/src

test: client-env server-env export-env  ## every test of the normal tier
	$(CLIENT) -m pytest -q -m "not long" tests/unit/client
	$(SERVER) -m pytest -q -m "not long" tests/unit/client/test_preprocess.py tests/unit/servable tests/e2e
	GLOG_v=3 .venv/export/bin/python -m pytest -q -m "not long" tests/unit/export
