# make lab    opens JupyterLab on the first notebook       make test   runs the tests
# Both make .venv when it is missing. Other targets: test-all (the long tests), tour, bench, clean.
# Options: PYTHON=/path/to/python3.12   CUDA=1 (torch with CUDA, on Linux)   LABARGS=--no-browser   TESTARGS="-k codes"

SHELL := /bin/sh
PY := .venv/bin/python
export PYTHON CUDA

# The stamps are named by content: a fresh clone, a touched file or another branch's lock is judged by what it says,
# not by its date. The folder counts too, since an environment cannot be moved.
hash = $(shell { pwd; cat $(1); } | cksum | cut -d' ' -f1)
STAMP := .venv/locked-$(call hash,requirements.lock)
# An environment made with CUDA=1 serves later commands without it.
LOCKED := $(if $(CUDA),$(STAMP)-cuda,$(firstword $(wildcard $(STAMP)-cuda) $(STAMP)))
READY := .venv/ready-$(call hash,pyproject.toml)

# In a container one is often root, and Jupyter wants to be told that this is meant.
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
NOTEBOOK = $(firstword $(sort $(wildcard notebooks/*.ipynb)))

.PHONY: lab test test-all tour bench clean

lab: $(READY)
	$(PY) -m jupyterlab --ServerApp.root_dir=. $(AS_ROOT) $(NOTEBOOK) $(LABARGS)

test: $(READY)
	@.ci/chromium
	HF_HUB_OFFLINE=1 $(PY) -m pytest --cov=saekit $(TESTARGS)

test-all: $(READY)
	@.ci/chromium
	HF_HUB_OFFLINE=1 $(PY) -m pytest --cov=saekit -m "" $(TESTARGS)

tour: $(READY)
	HF_HUB_OFFLINE=1 $(PY) -m tests.tour

bench: $(READY)
	HF_HUB_OFFLINE=1 $(PY) bench/run.py $(BENCHARGS)

clean:
	rm -rf .venv gallery *.egg-info .pytest_cache .ruff_cache .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +

$(LOCKED):
	@.ci/venv .venv
	@touch $@

$(READY): $(LOCKED)
	@$(PY) -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-build-isolation -e .
	@touch $@
