# make quickstart   build .venv, train a small model on real text, evaluate it, write a sample
# make chat         fetch and import SmolLM2-135M-Instruct, once, and talk with it
# make test         the whole gate: format, lint, types, tests
# make test-laws    every law over every family, and what else `make test` has a sample of
# make test-mesh    every plan of the table with every family (make test has a sample)
# make meshes       measure benchmarks/MESHES.md anew: by how much each plan changes each family's gradient
# make gpu_compiler fetch XLA's compiler for GPUs that are not here, for `plan`: 1.6 GB
# make families     measure the README's table of families anew
# make compression  measure benchmarks/COMPRESSION.md anew: smaller models of the first run
# PYTHON=python3.12 make test   the same on another Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
READY := $(VENV)/ready-$(VERSION)
DEV := $(VENV)/dev-$(VERSION)
ORACLES := $(VENV)/oracles-$(VERSION)
PLAN := $(VENV)/plan-$(VERSION)
GPU := $(VENV)/gpu-$(VERSION)
INTEROP := $(VENV)/interop-$(VERSION)
WORKDIR ?= runs/quickstart
CHAT ?= runs/smollm2

.PHONY: quickstart chat test test-laws test-mesh test-oracles test-plan test-faults golden families meshes compression format venv dev \
  oracles gpu_compiler bench clean

quickstart: $(READY)
	$(BIN)/python -m llm_jax train --config=configs/quickstart.py --workdir=$(WORKDIR)

chat: $(CHAT)/config.json
	@$(BIN)/python -m llm_jax chat --workdir=$(CHAT)

$(CHAT)/config.json: | $(INTEROP)
	$(BIN)/python -m llm_jax import "$$($(BIN)/python -m llm_jax fetch smollm2)" --workdir=$(CHAT)

venv: $(READY)

dev: $(DEV)

oracles: $(ORACLES)

gpu_compiler: $(GPU)

test: $(DEV)
	$(BIN)/ruff format --check llm_jax configs experiments tests benchmarks
	$(BIN)/ruff check llm_jax configs experiments tests benchmarks
	$(BIN)/mypy llm_jax
	$(BIN)/pytest -n 2 --dist=worksteal tests

test-laws: $(DEV)
	LLM_JAX_ALL_LAWS=1 $(BIN)/pytest -n 2 -m "not oracle and not plan and not faults" tests/laws
	$(BIN)/pytest -n 2 -m "exhaustive and not oracle and not plan and not faults" --ignore=tests/laws tests

test-mesh: $(DEV)
	LLM_JAX_ALL_LAWS=1 $(BIN)/pytest -n 2 -m "exhaustive or not exhaustive" \
	  tests/laws/test_meshes.py tests/laws/test_sharded_state.py tests/mesh tests/nn/test_moe.py \
	  tests/laws/test_prefix.py::test_a_plan_changes_no_loss_and_no_gradient_of_prefixes

test-oracles: $(ORACLES)
	$(BIN)/pytest -m oracle tests

test-plan: $(PLAN) $(GPU)
	$(BIN)/pytest -m plan tests/planning

test-faults: $(DEV)
	$(BIN)/pytest -m faults tests

golden: $(ORACLES)
	$(BIN)/python tests/golden/make_decoders.py
	$(BIN)/python tests/golden/make_optimizers.py
	$(BIN)/python tests/golden/make_chats.py
	$(BIN)/python tests/golden/make_dense_decoders.py
	$(BIN)/python tests/golden/make_gemma_decoders.py
	$(BIN)/python tests/golden/make_mamba2.py
	$(BIN)/python tests/golden/make_moe.py
	$(BIN)/python tests/golden/make_moe_decoders.py
	$(BIN)/python tests/golden/make_ropes.py
	$(BIN)/python tests/golden/make_private.py
	$(BIN)/python -m tests.golden.make_quantized

families: $(ORACLES)
	$(BIN)/python -m benchmarks.families --out=README.md

meshes: $(DEV)
	$(BIN)/python -m benchmarks.meshes --out=benchmarks/MESHES.md

compression: $(READY)
	$(BIN)/python -m llm_jax train --config=configs/quickstart.py --workdir=runs/quickstart
	$(BIN)/python -m benchmarks.compression --students=runs --out=benchmarks/COMPRESSION.md

bench: $(ORACLES) $(PLAN)
	$(BIN)/python -m benchmarks.training --torch_python=$(BIN)/python --out=benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.decoding --torch_python=$(BIN)/python --out=benchmarks/DECODING.md
	$(BIN)/python -m benchmarks.compiling > benchmarks/COMPILING.md
	$(BIN)/python -m benchmarks.importing "$$($(BIN)/python -m llm_jax fetch smollm2)" --out=benchmarks/IMPORTING.md
	$(BIN)/python -m benchmarks.encoding > benchmarks/ENCODING.md
	$(BIN)/python -m benchmarks.planning > benchmarks/PLANNING.md
	$(BIN)/python -m benchmarks.planning --compile=configs/pods/llama3_70b.py >> benchmarks/PLANNING.md

format: $(DEV)
	$(BIN)/ruff format llm_jax configs experiments tests benchmarks
	$(BIN)/ruff check --fix llm_jax configs experiments tests benchmarks

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llm_jax needs Python 3.11 or newer, and $(PYTHON) is $(VERSION); try PYTHON=python3.12 make" >&2; exit 2; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(INTEROP): $(READY) requirements-interop.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-interop.txt
	@touch $@

$(DEV): $(READY) requirements-dev.txt requirements-data.txt requirements-interop.txt requirements-generation.txt
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -r requirements-dev.txt -r requirements-data.txt -r requirements-interop.txt -r requirements-generation.txt
	@touch $@

$(PLAN): $(DEV) requirements-plan.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-plan.txt
	@touch $@

$(GPU): $(READY) requirements-plan-gpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/gpu_compiler \
	  -r requirements-plan-gpu.txt
	@touch $@

$(ORACLES): $(DEV) requirements-oracles.txt requirements-reasoning.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-oracles.txt -r requirements-reasoning.txt
	@touch $@

clean:
	rm -rf $(VENV) runs
