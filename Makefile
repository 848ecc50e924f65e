# `make` lists the targets. PYTHON=... chooses the interpreter of a new .venv.

# python3.11 is what requirements.txt was made with. The redirection makes old
# versions of make use a shell, where `command` exists.
PYTHON ?= $(firstword $(shell command -v python3.11 2>/dev/null) python3)
VENV := .venv
INSTALLED := $(VENV)/installed
DEV_INSTALLED := $(VENV)/dev_installed
DOCS_VENV := .venv_docs
BENCH_INSTALLED := $(VENV)/bench_installed
# What pip does on one core, on all of them. Some packages carry files for other versions
# of Python, which do not compile and are not needed.
COMPILE = $(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true
FACE_API := @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 \
  @tensorflow/tfjs-backend-wasm@4.22.0

export KERAS_BACKEND ?= tensorflow
# 3, because at 2 TensorFlow calls it an error that a machine has no GPU. Errors
# that matter reach Python as exceptions.
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export PYTHONUNBUFFERED ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo web test_fast test test_long lint docs bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z_]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

venv: $(INSTALLED) ## Make .venv with what running, training and serving need

# The stamp is written last, so an installation that was interrupted starts over,
# and --clear leaves nothing of it.
$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "Python 3.11 or newer is needed; $(PYTHON) is %d.%d. Name one that is: make PYTHON=python3.11" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	  "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing requirements.txt into $(VENV): about 0.8 GB to download, 2.5 GB on disk; two to five minutes ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --no-compile --requirement requirements.txt
	@$(COMPILE)
	@touch $@

demo: venv ## Draw faces, train, evaluate, export, predict: demo_output/
	@$(VENV)/bin/python examples/demo.py --output=demo_output

web: ## Build the page of web/ and serve it on http://localhost:4173
	@command -v node >/dev/null && command -v npm >/dev/null || { echo >&2 \
	  "make web needs node 18.19 or newer and npm. On Debian and Ubuntu: apt install nodejs npm"; exit 1; }
	@cd web && npm ci --no-audit --no-fund && npm run build && npm run serve

# What the tests need goes on top: who scores a photograph does without.
$(DEV_INSTALLED): $(INSTALLED) requirements-dev.txt
	@echo "Adding requirements-dev.txt to $(VENV): the tests' packages, JAX, Ray; a minute or two ..."
	@$(VENV)/bin/python -m pip install --quiet --no-compile --no-deps \
	  --requirement requirements-dev.txt
	@$(COMPILE)
	@touch $@

test_fast: $(DEV_INSTALLED) ## Run the unit tests that take no time
	@$(VENV)/bin/python -m pytest tests/unit --numprocesses=logical --dist=worksteal \
	  -m "not slow and not real_data and not web and not long and not bench"

test: $(DEV_INSTALLED) ## Run the tests (those on real images and in the browser: see .ci/run)
	@$(VENV)/bin/python -m pytest --numprocesses=logical --dist=worksteal

# A file to a worker: what a module's fixture makes in minutes is made once.
test_long: $(DEV_INSTALLED) ## Run the tests that take a minute and more: many processes, whole runs
	@$(VENV)/bin/python -m pytest -m long --numprocesses=logical --dist=loadfile \
	  $$(grep -rl --include='*.py' 'mark\.long\b' tests)

lint: $(DEV_INSTALLED) ## Check style, formatting and types
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

# An environment of its own: some forty megabytes, and nothing of TensorFlow.
$(DOCS_VENV)/installed: requirements-docs.txt
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --requirement requirements-docs.txt
	@touch $@

docs: $(DOCS_VENV)/installed ## Build the documentation as a site: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --quiet
	@echo "site/index.html"

$(BENCH_INSTALLED): $(DEV_INSTALLED) requirements-bench.txt
	@echo "Installing requirements-bench.txt into $(VENV): PyTorch and other peers, about 6 GB on disk ..."
	@$(VENV)/bin/python -m pip install --quiet --requirement requirements-bench.txt
	@touch $@

bench: $(BENCH_INSTALLED) ## Measure against PyTorch, ONNX Runtime and others: bench_output/
	@$(VENV)/bin/python -m pytest -m bench --numprocesses=logical
	@mkdir -p bench_output
	@echo "== input_pipeline" && $(VENV)/bin/python benchmarks/input_pipeline.py \
	  --flagfile=configs/utkface_resnet18.flags --json=bench_output/input_pipeline.json
	@for name in photographs decoding runtimes three_networks training_step; do \
	  echo "== $$name" && $(VENV)/bin/python benchmarks/$$name.py \
	    --json=bench_output/$$name.json || exit 1; done
	@echo "== training_memory" && $(VENV)/bin/python benchmarks/training_memory.py \
	  --against=pytorch,one_task --json=bench_output/training_memory.json
	@echo "== scaling" && $(VENV)/bin/python benchmarks/scaling.py --output=bench_output
	@if command -v npm >/dev/null; then echo "== face_api" && \
	  npm install --silent --prefix bench_output/face_api $(FACE_API) && \
	  $(VENV)/bin/python benchmarks/face_api.py --packages=bench_output/face_api \
	    --json=bench_output/face_api.json; \
	else echo "face_api is left out: it needs node and npm"; fi

clean: ## Remove outputs and caches; .venv stays
	@rm -rf demo_output bench_output build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	@rm -rf web/dist web/public/wasm
	@find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
