# Every target creates what it needs on first use: Python 3.11 with pip is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
SOURCES := pyproject.toml README.md LICENSE $(shell find src -not -name '*.pyc' -not -name __pycache__)
WORKERS ?= 2
ARGS ?=

.PHONY: docs demo test test-all test-gpu test-ecosystem events test-floor test-latest fuzz lint format mutants bench-engine bench-kernels bench-accuracy bench-gpu pictures clean
.DELETE_ON_ERROR:

# Trains four networks on handwritten digits, prints a table, draws the curves.
demo: $(VENV)/.demo
	$(PY) examples/digits.py $(ARGS)

# Tests the built wheel; run inside tests/ with safe paths on, so that src/ cannot be imported.
# One thread for each of the workers: torch threads that wait for a busy core cost 30 times the work.
test: $(VENV)/.dev
	cd tests && OMP_NUM_THREADS=1 ../$(PY) -P -m pytest -c ../pyproject.toml --rootdir .. -q -n $(WORKERS) $(ARGS) .

# The same with the tests marked slow: Inductor for every set, ONNX.
test-all: $(VENV)/.all
	cd tests && OMP_NUM_THREADS=1 ../$(PY) -P -m pytest -c ../pyproject.toml --rootdir .. -q -n $(WORKERS) -m "" $(ARGS) .

# What does not name the CPU, on a GPU.
test-gpu: $(VENV)/.dev
	cd tests && OMP_NUM_THREADS=1 ../$(PY) -P -m pytest -c ../pyproject.toml --rootdir .. -q -n $(WORKERS) \
	  --device cuda $(ARGS) conformance engine events modules

# Other people's optimisers, averages, trainers and kernels, in an environment of its own (2 GB).
test-ecosystem: $(VENV)-ecosystem/.installed
	cd tests && OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 ../$(VENV)-ecosystem/bin/python -P -m pytest \
	  -c ../pyproject.toml --rootdir .. -q $(ARGS) events/ecosystem

# The suite on the oldest torch that pyproject.toml declares and on the newest there is, each in an
# environment of its own, on the CPU: CUDA libraries are not fetched (tests/versions/install.py).
FLOOR := torch==$(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
test-floor: $(VENV)-floor/.torch
test-latest: $(VENV)-latest/.torch
test-floor test-latest:
	cd tests && OMP_NUM_THREADS=1 ../$(VENV)-$(@:test-%=%)/bin/python -P -m pytest -c ../pyproject.toml --rootdir .. -q -n $(WORKERS) $(ARGS) .

# Writes docs/events.md from the tables under tests/events.
events: $(VENV)/.dev
	cd tests && ../$(PY) -m events.page

# New random histories of a constrained network beside the naive one for an hour, then the pairs of rules that occurred.
FUZZ_SECONDS ?= 3600
FUZZ_SEED ?= 0
fuzz: $(VENV)/.dev
	cd tests && OMP_NUM_THREADS=1 FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) \
	  ../$(PY) -P -m pytest -c ../pyproject.toml --rootdir .. -q -s $(ARGS) fuzz

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Changes the code in many small ways and asks the tests to notice each; then takes out one layer of
# freshness at a time and asks for exactly the failures that are on record. About half an hour;
# ARGS="--part 2/4" takes the second quarter of both.
mutants: $(VENV)/.dev
	$(PY) tests/mutants/run.py $(ARGS)
	$(PY) tests/mutants/layers.py $(ARGS)

# What the engine costs beside its limit: about a quarter of an hour on an idle machine.
# ARGS=--quick takes seconds, ARGS=--publish puts the run into docs/benchmarks.md.
bench-engine: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.engine $(ARGS)

# What the maps cost in matrix products of their size, beside other libraries: about ten minutes.
bench-kernels: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.kernels $(ARGS)

# All that wants a GPU: times, hidden waits, CUDA graphs, bf16.
bench-gpu: $(VENV)/.bench
	$(PY) -m benchmarks.gpu $(ARGS)

# How exact each map is beside torch's and geotorch's: a few minutes, on a busy machine as well.
bench-accuracy: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.accuracy $(ARGS)

# Writes docs/sets.md anew from the sets and the rows that test them.
docs: $(VENV)/.dev
	$(PY) docs/make_sets.py > build/sets.md && mv build/sets.md docs/sets.md

# The pictures of docs/how-to-choose.md.
pictures: $(VENV)/.dev
	$(PY) docs/pictures.py

clean:
	rm -rf $(VENV) $(VENV)-* build dist results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.runtime: constraints.txt
	@test -n "$(PYTHON)" || { echo "Set PYTHON to a Python of 3.11 or newer: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch einops hatchling
	@touch $@

build/wheel/.built: $(SOURCES) $(VENV)/.runtime
	rm -rf build/wheel
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	@touch $@

$(VENV)-ecosystem/.installed: build/wheel/.built constraints.txt
	$(PYTHON) -m venv $(VENV)-ecosystem
	$(VENV)-ecosystem/bin/python -m pip install --quiet --constraint constraints.txt \
	  "$$(echo build/wheel/*.whl)[ecosystem]"
	$(VENV)-ecosystem/bin/python -m pip install --quiet --force-reinstall --no-deps build/wheel/*.whl
	@touch $@

$(VENV)-floor/.torch: VERSION = $(FLOOR)
$(VENV)-latest/.torch: VERSION = torch
$(VENV)-floor/.torch $(VENV)-latest/.torch: build/wheel/.built constraints.txt tests/versions/install.py
	$(PYTHON) -m venv --clear $(@D)
	grep -v '^torch==' constraints.txt > $(@D)/constraints.txt
	PIP_CONSTRAINT=$(@D)/constraints.txt $(@D)/bin/python tests/versions/install.py "$(VERSION)"
	PIP_CONSTRAINT=$(@D)/constraints.txt $(@D)/bin/python -m pip install --quiet "$$(echo build/wheel/*.whl)[dev]"
	@touch $@

# The wheel with its extra of that name: .demo what the demo needs, .dev everything but what
# only slow tests need.
$(VENV)/.demo $(VENV)/.bench $(VENV)/.dev $(VENV)/.all: $(VENV)/.%: build/wheel/.built
	$(PIP) install --force-reinstall --no-deps build/wheel/*.whl
	$(PIP) install --constraint constraints.txt "$$(echo build/wheel/*.whl)[$*]"
	@touch $@
