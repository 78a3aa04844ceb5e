# Two commands matter: `make demo` and `make test`. Each sets up everything it needs first.

.PHONY: demo test lint format setup bench clean help
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: $(VENV)/.ready  ## set up, then clone a policy on Meta-World and improve it by RL (about 5 minutes)
	$(BIN)/vla-rl demo $(ARGS)

test: $(VENV)/.ready  ## set up, then run every test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/.ready  ## style, types, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.ready  ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready  ## measure rollout throughput on this machine (about 5 minutes)
	$(BIN)/python -m benchmarks.rollout_throughput

setup: $(VENV)/.ready  ## virtual environment, package and GL libraries

$(VENV)/.ready: pyproject.toml .ci/setup
	bash .ci/setup $(VENV)
	touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .uv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
