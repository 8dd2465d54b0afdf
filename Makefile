# The commands of a contributor. PYTHON=... runs them in another environment than .venv.
PYTHON ?= .venv/bin/python

venv:  ## creates .venv with all tools
	python3 -m venv .venv
	.venv/bin/pip install -q -e '.[tensorflow,test,docs,lint]'

lint:  ## style and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## static types of the package
	$(PYTHON) -m mypy

quick:  ## the core tests, in under two minutes
	$(PYTHON) -m pytest -q -n 2 tests/core

test:  ## all tests
	$(PYTHON) -m pytest -q -n 2

docs:  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build -q --strict

notebook:  ## runs the tutorial from a clean kernel, and keeps its output
	$(PYTHON) -m nbconvert --to notebook --execute --inplace --log-level=ERROR \
	  --ExecutePreprocessor.record_timing=False docs/tutorial.ipynb

.PHONY: venv lint types quick test docs notebook
