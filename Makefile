# `make demo` and `make test` set up what they need, then run. PYTHON names the interpreter to use.
PYTHON ?= python3
SNAKEMAKE = .venv/bin/snakemake --profile profiles/local

.PHONY: setup demo test lint clean-demo

setup: .venv/complete

# The mark is written last, so an installation that was cut short is taken up again.
.venv/complete: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cryoseg needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv, which takes some minutes"
	.venv/bin/python -m pip install --quiet ".[test]"
	touch $@

demo: setup
	$(SNAKEMAKE) --configfile config/demo.yaml -- demo
	@cat demo/evaluation/*.tsv
	@echo "Look at:"; ls demo/pictures/*.png demo/models/*/curves.png

test: setup
	.venv/bin/python -m pytest

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile rules
	.venv/bin/snakemake --lint --configfile config/demo.yaml

clean-demo:
	rm -rf demo logs/demo_* benchmarks/demo_*
