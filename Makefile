.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHED := $(VENV)/.benched
SCRATCH ?= .aemodel/bench

.PHONY: help demo test lint typecheck bench bench-features bench-ablation bench-anomaly bench-cards bench-speed clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(INSTALLED)  ## Train on 336,776 real flights, register the encoder, write the feature table
	$(BIN)/python -m flows.demo

test: $(INSTALLED)  ## Run all tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## Check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

typecheck: $(INSTALLED)  ## Check types
	$(BIN)/mypy

bench: bench-features bench-ablation bench-anomaly bench-cards bench-speed  ## Run the benchmarks: make bench DATA=folder

bench-features: $(BENCHED)  ## Feature quality on real tables: make bench-features DATA=folder
	$(BIN)/python -W ignore -m benchmarks.features --data "$(DATA)" --jobs 2

bench-ablation: $(BENCHED)  ## What each part of the recipe is worth: make bench-ablation DATA=folder
	$(BIN)/python -W ignore -m benchmarks.ablation --data "$(DATA)" --jobs 2

bench-anomaly: $(BENCHED)  ## Anomaly detection against its peers: make bench-anomaly DATA=folder
	$(BIN)/python -W ignore -m benchmarks.anomaly --data "$(DATA)" --jobs 2

bench-cards: $(BENCHED)  ## Whether the latent cards' names are true: make bench-cards DATA=folder
	$(BIN)/python -W ignore -m benchmarks.cards --data "$(DATA)" --jobs 2

bench-speed: $(BENCHED)  ## Speed and memory against peers: make bench-speed [PEER_PYTHON=python] [SPEED="--only scoring"]
	$(BIN)/python -W ignore -m benchmarks.speed --scratch "$(SCRATCH)" $(if $(PEER_PYTHON),--peer-python "$(PEER_PYTHON)") $(SPEED)

clean:  ## Remove the environment, caches, and what the demo wrote
	rm -rf $(VENV) .aemodel data features .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; say which: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(BENCHED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@
