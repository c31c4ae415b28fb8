# The README's two commands are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PY := .venv/bin/python
TOOLS := $(CURDIR)/build/tools
ORT_VERSION := 1.31.1
# ONNX Runtime sends telemetry unless told not to before it loads.
export ORT_DISABLE_TELEMETRY := 1

LOCKS := requirements/serve.lock requirements/export.lock requirements/dev.lock
VENV := .venv/.stamp
GO_TOOLS := build/tools/.stamp
PROTO_DEPS := build/proto-deps/.stamp
LIBORT := bin/libonnxruntime.so.$(ORT_VERSION)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- setting up ------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(VENV) $(GO_TOOLS) ## install the pinned Python packages into .venv and the Go tools into build/tools

$(VENV): $(LOCKS) python/pyproject.toml exporters/pyproject.toml conformance/pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(LOCKS))
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e python -e exporters -e conformance
	touch $@

$(GO_TOOLS): go/tools/go.mod go/tools/go.sum
	mkdir -p $(TOOLS)
	cd go/tools && GOBIN=$(TOOLS) go install tool
	touch $@

.PHONY: lock
lock: $(VENV) ## resolve requirements/*.in anew into the lock files
	cd requirements && for f in serve export dev; do ../.venv/bin/pip-compile --quiet --strip-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe -o $$f.lock $$f.in; done

# --- contract --------------------------------------------------------------------------------------------------------

# google/api and google/rpc come from a package, so that they need not be copied into this repository.
$(PROTO_DEPS): $(VENV)
	rm -rf build/proto-deps && mkdir -p build/proto-deps/google
	from=$$($(PY) -c 'import google.rpc; print(list(google.rpc.__path__)[0])')/.. && \
	for f in api/annotations api/http rpc/status rpc/error_details; do \
	  install -D -m 644 "$$from/$$f.proto" "build/proto-deps/google/$$f.proto"; done
	touch $@

.PHONY: generate
generate: $(VENV) $(GO_TOOLS) $(PROTO_DEPS) ## regenerate the Go and Python stubs from proto/
	.venv/bin/buf format -w proto
	PATH="$(TOOLS):$$PATH" .venv/bin/buf generate

# --- servers ---------------------------------------------------------------------------------------------------------

.PHONY: build
build: bin/inference-server $(LIBORT) ## build bin/inference-server, with libonnxruntime beside it

bin/inference-server: FORCE
	cd go && go build -trimpath -o ../bin/inference-server ./cmd/inference-server

$(LIBORT): $(VENV)
	mkdir -p bin
	cp "$$($(PY) -c 'import importlib.util,pathlib; print(pathlib.Path(importlib.util.find_spec("onnxruntime").origin).parent)')/capi/libonnxruntime.so.$(ORT_VERSION)" $@

.PHONY: FORCE
FORCE:
