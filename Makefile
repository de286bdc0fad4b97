# `make demo` and `make test` set up what they need, then run. PYTHON names the interpreter to use.
PYTHON ?= python3
SNAKEMAKE = .venv/bin/snakemake --profile profiles/local

.PHONY: setup demo test lint profile clean-demo

setup: .venv/complete

# The mark is written last, so an installation that was cut short is taken up again.
.venv/complete: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cryoseg needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv, which takes some minutes"
	.venv/bin/python -m pip install --quiet ".[test]"
	touch $@

demo: setup
	@echo "how the trainings get on: tail -F logs/lamella/train_model.log logs/semantic/train_model.log"
	$(SNAKEMAKE) --configfile config/demo.yaml -- demo
	@cut -f 1-3,5,9-13 demo/predictions/*/evaluation/demo_*_evaluation.tsv
	@grep -hE 'measure|dice' demo/predictions/semantic/evaluation/summary.tsv
	@echo "Look at:"; ls overview.html demo/predictions/*/pictures/*.png demo/models/*/pictures/*.png

# Three at a time on two cores, as those on a cluster mostly wait; threads that wait give way, as all
# that is run at once has more of them than there are cores.
test: setup
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest -n 3 --no-loadscope-reorder

# So that `snakemake --profile slurm` works from anywhere. A link: edit profiles/slurm here.
PROFILES = $(or $(XDG_CONFIG_HOME),$(HOME)/.config)/snakemake

profile:
	mkdir -p "$(PROFILES)"
	@if [ -e "$(PROFILES)/slurm" ] && [ ! -L "$(PROFILES)/slurm" ]; then \
	    echo "$(PROFILES)/slurm is there already and is not a link; move it away first"; exit 1; fi
	ln -sfn "$(CURDIR)/profiles/slurm" "$(PROFILES)/slurm"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile rules
	.venv/bin/snakemake --lint --configfile config/demo.yaml

clean-demo:
	rm -rf demo overview.html overview.tsv provenance/overview.* checks/demo_scaled* \
	    checks/provenance/demo_scaled* plan.tsv verify.tsv logs/demo* benchmarks/demo*
