# Trireel: each command sets up what it needs, once per change of its requirements. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Python 3.11 or 3.12; without it the first that fits is taken.
PYTHON ?=
export PYTHON

VIDEO ?= export/demo/clip.mp4
MODEL ?= demo_shapes
TESTS ?=
# Where the kills strike: drawn anew and told where SEED is empty; as many sets of moments as SEEDS.
SEED ?=
SEEDS ?= 5
QUICK_TESTS := tests/repository tests/unit tests/contract
WHOLE_TESTS := tests/integration tests/e2e
# Whatever starts a Triton uses a core or two by itself: two files at once, however many cores there are.
BY_FILE := -n 2 --dist loadfile
# Faults are mostly waited for, and each scenario has programs, ports and databases of its own.
SIDE_BY_SIDE := -n 3 --dist worksteal

# Bytecode is left to the first import, which compiles a fraction of it: 62 s instead of 108 on a busy machine.
PIP_INSTALL = bin/python -m pip -qq --disable-pip-version-check --no-input install --progress-bar off --no-compile
HASHED = $(PIP_INSTALL) --require-hashes

# An environment is complete when its stamp is there. Each is made from nothing, so that one that was interrupted,
# or made for other requirements, leaves nothing behind; the stamp goes with the folder.
SERVE_LIBRARIES := .venv/.libraries
SERVE := .venv/.complete
DEV := .venv/.complete-dev
SCALE := .venv/.complete-scale
# GPU=1: the embedded Triton's ONNX Runtime comes with CUDA, and the benchmarks measure there. It stays so until GPU= .
GPU ?= $(if $(wildcard .venv-triton/.complete-gpu),1)
TRITON_PINS := requirements/triton$(if $(GPU),-gpu).txt
TRITON := .venv-triton/.complete$(if $(GPU),-gpu)
EXPORT := .venv-export/.complete

.PHONY: help
help: ## list the commands
	@awk -F ': .*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(SERVE) $(TRITON) ## make the environments that demo and serve need: [GPU=1], GPU= for the CPU again

.PHONY: demo
demo: $(SERVE) $(TRITON) ## run a model over a video and print what it found: [VIDEO=clip.mp4] [MODEL=name]
	.venv/bin/trireel run "$(VIDEO)" --model "$(MODEL)"

.PHONY: serve
serve: $(SERVE) $(TRITON) ## the API on http://127.0.0.1:8080, with a Triton of its own
	.venv/bin/trireel serve

.PHONY: worker
worker: $(SERVE) $(SCALE) $(TRITON) ## take segments for an API elsewhere: TRIREEL_DATABASE_URL, TRIREEL_REDIS_URL
	.venv/bin/trireel worker

.PHONY: model
model: model-arguments $(TRITON) $(EXPORT) ## export, certify and publish: WEIGHTS=yolo11n.pt NAME=yolo11n [FRAMES=folder] [HALF=1]
	.venv-export/bin/python -m export "$(WEIGHTS)" "$(NAME)" $(if $(FRAMES),--frames "$(FRAMES)") $(if $(HALF),--half)

.PHONY: model-arguments
model-arguments:
	@test -n "$(WEIGHTS)" || { echo "make model: WEIGHTS=file.pt is missing" >&2; exit 2; }
	@test -n "$(NAME)" || { echo "make model: NAME=name is missing" >&2; exit 2; }

.PHONY: test
test: $(SERVE) $(DEV) $(TRITON) ## all tests but those of the export: [TESTS=tests/unit]
ifdef TESTS
	.venv/bin/python -m pytest -q $(TESTS)
else
	.venv/bin/python -m pytest -q -n auto $(QUICK_TESTS)
	.venv/bin/python -m pytest -q $(BY_FILE) $(WHOLE_TESTS)
endif

.PHONY: test-unit
test-unit: $(SERVE) $(DEV) ## the unit tests alone, in ten seconds
	.venv/bin/python -m pytest -q -n auto tests/unit

.PHONY: test-export
test-export: $(TRITON) $(EXPORT) ## the tests of the export; installs PyTorch
	.venv-export/bin/python -m pytest -q tests/export

.PHONY: faults
faults: $(SERVE) $(DEV) $(TRITON) ## strike deployments with every fault there is: [SEED=7] [SEEDS=5], half an hour at most
	FAULTS_SEED=$(SEED) FAULTS_SEEDS=$(SEEDS) .venv/bin/python -m pytest -q $(SIDE_BY_SIDE) -m "not alone" tests/faults
	FAULTS_SEED=$(SEED) FAULTS_SEEDS=$(SEEDS) .venv/bin/python -m pytest -q -m alone tests/faults

.PHONY: faults-quick
faults-quick: $(SERVE) $(DEV) $(TRITON) ## the part of it that CI does, in five minutes
	FAULTS_SEED=$(or $(SEED),1) FAULTS_SEEDS=1 FAULTS_STEP=7 .venv/bin/python -m pytest -q $(SIDE_BY_SIDE) -m "not thorough" tests/faults

.PHONY: check
check: $(SERVE) $(DEV) ## lint, types, import contracts, names and sizes
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache --no-logo
	.venv/bin/python -m pytest -q tests/repository/test_names_and_sizes.py

.PHONY: bench
bench: $(SERVE) $(DEV) $(TRITON) $(EXPORT) ## the table of BENCHMARKS.md: [ONLY=name] [GPU=1] [WEIGHTS=yolo11n.pt VIDEO=video.mp4]
	.venv/bin/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(GPU),--gpu) \
		$(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(filter-out default file,$(origin VIDEO)),--video "$(VIDEO)")

.PHONY: bench-guard
bench-guard: $(SERVE) $(DEV) $(TRITON) $(EXPORT) ## its quick rows; fails when a ratio fell by more than 15 %
	.venv/bin/python -m benchmarks --guard

.PHONY: clean
clean: ## remove environments and caches; videos, results and models stay
	rm -rf .venv .venv-triton .venv-export .mypy_cache .ruff_cache .pytest_cache .hypothesis .build
	find benchmarks export orchestrator tests trireel -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE_LIBRARIES): requirements/serve.txt requirements/build.txt
	@echo "Setting up .venv (serving) ..."
	@python=$$(requirements/find_python.sh) && "$$python" -m venv --clear .venv
	@.venv/$(HASHED) -r requirements/serve.txt -r requirements/build.txt
	@touch $@

$(SERVE): $(SERVE_LIBRARIES) pyproject.toml
	@.venv/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(SERVE_LIBRARIES) requirements/dev.txt
	@echo "Setting up .venv (development) ..."
	@.venv/$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

$(SCALE): $(SERVE_LIBRARIES) requirements/scale.txt
	@echo "Setting up .venv (PostgreSQL, Redis, Celery) ..."
	@.venv/$(HASHED) -r requirements/scale.txt
	@touch $@

$(TRITON): $(TRITON_PINS) requirements/pytriton.txt
	@echo "Setting up .venv-triton (the embedded Triton) ..."
	@python=$$(requirements/find_python.sh triton) && "$$python" -m venv --clear .venv-triton
	@.venv-triton/$(HASHED) -r $(TRITON_PINS)
	@.venv-triton/$(HASHED) --no-deps -r requirements/pytriton.txt
	@touch $@

# torch first and with what it depends on, since the right build differs between machines; then the pins, without.
$(EXPORT): requirements/export.txt
	@echo "Setting up .venv-export (PyTorch, Ultralytics) ..."
	@python=$$(requirements/find_python.sh) && "$$python" -m venv --clear .venv-export
	@.venv-export/$(PIP_INSTALL) $$(grep '^torch==' requirements/export.txt)
	@.venv-export/$(PIP_INSTALL) --no-deps -r requirements/export.txt
	@touch $@
