# `make demo` and `make test` are all one needs; each installs what it uses into .venv first.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_FLAGS ?= --durations=250 --durations-min=1
# The demo: the main job on the digits that come with scikit-learn; no network, under two minutes on two cores.
DEMO_FLAGS ?= --dataset digits --sizes 64,256,10 --density 0.1 --batch-size 16 --num-seeds 16 \
	--out checkpoints/demo --overwrite
# The documents of docs/results; need MNIST (JAXNET_DATA_DIR). Killed and started again, they continue.
RESULTS_FLAGS ?= --dataset mnist --num-seeds 16 --resume
REASONING_FLAGS ?= --num-seeds 12 --width 64 --layers 4 --lr 2e-3 --samples 65536 --steps 8000 --last-steps 500 \
	--shuffled-steps 1000 --look 32 --suites all --nodes 8
WIRED_METHODS := static,static-correlated,static-local,rigl,rigl-local,chts,chts-local,sparse-momentum,$\
	sparse-momentum-local
METHODS_FLAGS ?= --methods sparse-start --resume
CLIFF_FLAGS ?= --datasets cliff,mnist --num-seeds 16 --kernel csr --resume
# Those of CIFAR-10. --peers: also the best epoch on the test images, as the published levels are chosen.
CIFAR10_DENSITIES ?= 0.005,0.01,0.02
CIFAR10_METHODS ?= static,set,rigl,chts,chts-local
CIFAR10_MLP_FLAGS ?= --peers
CIFAR10_FIVE_FLAGS ?= $(CIFAR10_MLP_FLAGS) --densities 0.05 --rates 0.001 --weight-decay 0.05 \
	--out checkpoints/cifar10_mlp_5_percent
CIFAR10_WIDE_METHODS ?= static,set,rigl,chts,chts-local
CIFAR10_WIDE_FLAGS ?= --sizes 3072,3072,3072,3072,10 --allocation dense-output \
	--densities 0.011073 --num-seeds 1 --weight-decay 0.05
# As the published levels are found: trained on all training images, the epoch chosen on the test images.
CIFAR10_AS_PUBLISHED := $(CIFAR10_MLP_FLAGS) --protocol seed --init sparse-fan-in --out checkpoints/cifar10_mlp_published

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)
RUN_STAMP := $(VENV)/.jaxnet-run
DEV_STAMP := $(VENV)/.jaxnet-dev
BENCH_STAMP := $(VENV)/.jaxnet-bench
GPU_STAMP := $(VENV)/.jaxnet-gpu
DOCS_STAMP := $(VENV)/.jaxnet-docs
WHEEL_STAMP := $(VENV)/.jaxnet-wheel
TRACR_STAMP := $(VENV)/.jaxnet-tracr
# A change in any of these means installing again (Python sources are used in place).
INSTALL_INPUTS := pyproject.toml constraints.txt $(wildcard setup.py MANIFEST.in) \
	$(shell find jaxnet -name '*.cc' -o -name '*.h')

.PHONY: help demo test test-slow test-gpu check lint types imports format setup docs wheel bench bench-gpu asan \
	results results-cifar10 pictures clean distclean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:  ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(RUN_STAMP)  ## Train scaffolds and patches on the digits; results go to checkpoints/demo
	$(PY) -m experiments.patched_density $(DEMO_FLAGS)

# Most tests are compiled in half the time, by other generators of code than users have; the slow ones are compiled
# with all optimisations (tests/conftest.py).
test: check  ## Style, types, import directions, then the tests
	$(PYTEST)

test-slow: $(DEV_STAMP)  ## The tests marked slow
	JAX_DISABLE_MOST_OPTIMIZATIONS=false $(PYTEST) -m slow

test-gpu: $(DEV_STAMP) $(GPU_STAMP)  ## The tests on this machine's GPU, and those that need one (needs CUDA 12)
	JAXNET_TEST_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false $(PYTEST) -m "not slow and not cpu"

check: lint types imports  ## Style, types and import directions only

lint: $(DEV_STAMP)
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(DEV_STAMP)
	$(PY) -m mypy

imports: $(DEV_STAMP)
	$(VENV)/bin/lint-imports --no-logo

format: $(DEV_STAMP)  ## Rewrite the sources in the project's style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

setup: $(DEV_STAMP)  ## Install everything for development into .venv

docs: $(DOCS_STAMP)  ## The documentation site, in docs/_build; runs the examples, needs no network
	rm -rf docs/_build docs/_api
	$(PY) -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build
	$(PY) docs/check_site.py docs/_build
	@echo "open docs/_build/index.html"

# An empty environment shows that the wheel works where there is no compiler; it runs elsewhere, so that the checkout is
# not in its way.
WHEEL_ENV := build/wheel-env
wheel: $(WHEEL_STAMP)  ## A wheel with the compiled kernel, in dist; installed and tried in an empty environment
	rm -rf dist build $(WHEEL_ENV)
	$(PY) -m build --wheel --no-isolation --outdir build/plain
	PATH="$(abspath $(VENV)/bin):$$PATH" auditwheel repair --wheel-dir dist build/plain/*.whl
	$(PY) -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt dist/*.whl
	cd $(WHEEL_ENV) && env -i PATH=/nowhere HOME="$$PWD" bin/python -I $(CURDIR)/tests/installed.py
	@rm -rf $(WHEEL_ENV); ls -l dist

BENCHMARKS ?= kernels patched_density seed_sweep large_network seed_scaling growth flax_model sparse_layer windowed_attention guard_checks
bench: $(BENCH_STAMP)  ## Every benchmark (needs MNIST); numbers go to checkpoints/bench
	@mkdir -p checkpoints/bench
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(PY) -m benchmarks.$$name --json checkpoints/bench/$$name.json; \
	done

GPU_FLAGS ?= --csr
bench-gpu: $(GPU_STAMP)  ## Seeds per second on this machine's GPU, by precision (needs MNIST and CUDA 12)
	@mkdir -p checkpoints/bench
	$(PY) -m benchmarks.gpu $(GPU_FLAGS) --json checkpoints/bench/gpu.json

# The library is rebuilt without the sanitizers afterwards, whatever the tests say.
SANITIZE := -fsanitize=address,undefined
asan: $(DEV_STAMP)  ## The kernel's tests with address and undefined-behaviour sanitizers
	CXXFLAGS="$(SANITIZE) -fno-sanitize-recover=undefined" LDFLAGS="$(SANITIZE)" \
		$(PY) setup.py -q build_ext --inplace --force
	@nm -D jaxnet/kernels/_csr*.so | grep -q __asan || { echo "error: the build is not instrumented"; exit 1; }
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) \
		$$(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(PY) -m pytest tests/kernels -m "not slow"; status=$$?; \
		$(PY) setup.py -q build_ext --inplace --force; exit $$status

results: $(TRACR_STAMP)  ## Make docs/results again, at full size on MNIST
	$(PY) -m experiments.patched_density_controls $(RESULTS_FLAGS) --doc docs/results/patched_density.md
	$(PY) -m experiments.seed_hunt_results --dataset mnist --resume --doc docs/results/seed_hunt.md
	$(PY) -m experiments.optimal_bootstrap $(RESULTS_FLAGS) --doc docs/results/bootstrap.md
	$(PY) -m experiments.indefinite_growth_controls $(RESULTS_FLAGS) --doc docs/results/growth.md
	$(PY) -m experiments.cliff_rescue_report $(CLIFF_FLAGS) --doc docs/results/cliff_rescue.md
	$(PY) -m experiments.method_comparison $(METHODS_FLAGS) --doc docs/results/methods.md
	$(PY) -m experiments.method_comparison --resume --methods static,magnitude,lamp,granet,chtss,dense \
		--densities 0.02,0.05 --num-seeds 12 --out checkpoints/methods_dense --doc docs/results/methods_dense.md
	$(PY) -m experiments.method_comparison --resume --methods static,rewind --densities 0.02 --num-seeds 12 \
		--out checkpoints/methods_rewind --doc docs/results/methods_rewind.md
	$(PY) -m experiments.method_comparison --resume --methods $(WIRED_METHODS) --densities 0.02,0.05 --num-seeds 12 \
		--out checkpoints/methods_wired --doc docs/results/methods_wired.md
	$(PY) -m experiments.method_comparison --resume --sizes 784,1568,1568,1568,10 --allocation dense-output \
		--densities 0.01254 --methods set,rigl,chts,extrema-gradient --baseline set --epochs 100 --every 422 \
		--num-seeds 2 --rates 0.0003,0.001,0.003 --trial-epochs 10 --peers --out checkpoints/cannistraci_hebb \
		--doc docs/results/cannistraci_hebb.md
	$(PY) -m experiments.structure_report --dataset mnist --epochs 5 --resume --doc docs/results/structure.md
	$(PY) -m experiments.patchability --dataset mnist --resume --doc docs/results/patchability.md
	$(PY) -m experiments.growth_or_hunt --dataset mnist --resume --doc docs/results/growth_or_hunt.md
	$(PY) -m experiments.exactness_training $(RESULTS_FLAGS) --epochs 5 --doc docs/results/exactness.md
	$(PY) -m experiments.forgetting --dataset mnist --tasks 10 --num-seeds 12 --methods all \
		--resume --doc docs/results/forgetting.md
	$(PY) -m experiments.forgetting --dataset mnist --tasks 10 --methods naive,ewc --dials naive=1,ewc=0.01 --densities 1 \
		--sizes 784,1000,1000,10 --optimizer sgd --lr 0.001 --batch-size 256 --epochs 30 --num-seeds 1 --resume \
		--out checkpoints/forgetting_avalanche --doc docs/results/forgetting_avalanche.md
	$(PY) -m experiments.forgetting --dataset mnist --tasks 10 --methods row-projection --dials 0.95 --densities 1 --no-bias \
		--optimizer sgd --lr 0.01 --batch-size 10 --epochs 5 --num-seeds 2 --resume \
		--out checkpoints/forgetting_gpm --doc docs/results/forgetting_gpm.md
	$(PY) -m experiments.guarded_training --dataset mnist --resume --doc docs/results/guard.md
	$(PY) -m experiments.guarded_training --dataset mnist --drift spike --runs 0 --resume --out checkpoints/guard_spike \
		--doc docs/results/guard_spike.md
	$(PY) -m experiments.guarded_training --dataset mnist --drift label-noise --runs 0 --resume --out checkpoints/guard_noise \
		--doc docs/results/guard_noise.md
	$(PY) -m experiments.headline --resume --doc docs/results/headline.md --export checkpoints/headline
	$(PY) -m experiments.circuits --dataset mnist --densities 0.01,0.02,0.05,0.1,1 --resume --doc docs/results/circuits.md
	$(PY) -m experiments.reasoning_circuits $(REASONING_FLAGS) --resume --doc docs/results/reasoning.md
	$(PY) -m experiments.compress --dataset mnist --facts 500 --samples 2000 --resume --doc docs/results/compress.md
	$(PY) -m experiments.compress --dataset mnist --per row --sizes 784,100,100,10 --epochs 1 --lr 0.001 --facts 500 \
		--samples 2000 --resume --out checkpoints/compress_rows --doc docs/results/compress_rows.md
	$(PY) -m experiments.level_transformer --num-seeds 12 --steps 2000 --resume --doc docs/results/levels.md
	$(PY) -m experiments.claims
	$(PY) -m experiments.article

# Parts, and last of each experiment the whole with its page, which takes over what its parts have trained. Any of it may
# be stopped at any moment (timeout -s INT 3500 make results-cifar10) and started again: it continues. Arms that share
# their first phase are one part. The speed is measured once, on a machine that should be idle: remove its file to measure
# it again.
EACH = $$(echo $(1) | tr , ' ')
COMMA := ,
ONCE = test -f docs/results/$(2).json || { $(PY) -m benchmarks.$(1) --json checkpoints/$(2).json && \
	mv checkpoints/$(2).json docs/results/$(2).json; }
BESIDE_TORCH := large_network --ways csr$(COMMA)torch_masked --augment
results-cifar10: $(BENCH_STAMP)  ## Make the pages of CIFAR-10 in docs/results, at full size (many hours, in parts)
	@$(call ONCE,$(BESIDE_TORCH) --densities 0.01$(COMMA)0.05,cifar10_speed)
	@$(call ONCE,$(BESIDE_TORCH) --hidden 3072$(COMMA)3072$(COMMA)3072 --allocation dense-output \
		--densities 0.011073,cifar10_speed_wide)
	$(PY) -m experiments.seed_hunt --dataset cifar10 --augment crop,flip --sizes 3072,1024,512,10 \
		--allocation erdos-renyi --densities 0.01 --num-seeds 128 --epochs 1 --out checkpoints/cifar10_sweep --resume
	cp checkpoints/cifar10_sweep/summary.json docs/results/cifar10_sweep.json
	@set -e; for d in $(call EACH,$(CIFAR10_DENSITIES)); do for m in $(call EACH,$(CIFAR10_METHODS)); do \
		$(PY) -m experiments.cifar10_mlp $(CIFAR10_MLP_FLAGS) --densities $$d --methods $$m --baseline $$m --resume; \
	done; done
	$(PY) -m experiments.cifar10_mlp $(CIFAR10_MLP_FLAGS) --densities $(CIFAR10_DENSITIES) \
		--methods $(CIFAR10_METHODS) --resume --doc docs/results/cifar10_mlp.md
	@set -e; for m in $(call EACH,$(CIFAR10_METHODS)); do \
		$(PY) -m experiments.cifar10_mlp $(CIFAR10_FIVE_FLAGS) --methods $$m --baseline $$m --resume; \
	done
	$(PY) -m experiments.cifar10_mlp $(CIFAR10_FIVE_FLAGS) --methods $(CIFAR10_METHODS) --resume \
		--doc docs/results/cifar10_mlp_5_percent.md
	@set -e; for m in $(call EACH,$(CIFAR10_WIDE_METHODS)); do \
		$(PY) -m experiments.cifar10_mlp $(CIFAR10_WIDE_FLAGS) $(CIFAR10_AS_PUBLISHED) --methods $$m --baseline $$m --resume; \
	done
	$(PY) -m experiments.cifar10_mlp $(CIFAR10_WIDE_FLAGS) $(CIFAR10_AS_PUBLISHED) --methods $(CIFAR10_WIDE_METHODS) \
		--baseline set --resume --doc docs/results/cifar10_mlp_published.md
	$(PY) -m experiments.cifar10_mlp $(CIFAR10_WIDE_FLAGS) --methods chts-local --baseline chts-local --average 0.999 \
		--out checkpoints/cifar10_mlp_wide --resume --doc docs/results/cifar10_mlp_wide.md
	@set -e; for h in 512 256-128; do \
		$(PY) -m experiments.cifar10_patched --hidden $$h --headline-seeds 0 --resume; \
	done
	$(PY) -m experiments.cifar10_patched --resume --doc docs/results/cifar10_patched.md
	@set -e; for h in 128 512 256-128 512-256; do for d in 0.01 0.02 0.05; do \
		$(PY) -m experiments.cifar10_growth --hidden $$h --densities $$d --resume; \
	done; done
	$(PY) -m experiments.cifar10_growth --resume --doc docs/results/cifar10_growth.md
	@set -e; for a in dense small sparse set rigl pruned dense-base fewer,frozen,patches,channels,growing; do \
		$(PY) -m experiments.cifar10_conv --arms $$a --place-seeds 0 --resume; \
	done
	$(PY) -m experiments.cifar10_conv --place-seeds 0 --resume --doc docs/results/cifar10_conv.md
	$(PY) -m experiments.cifar10_conv --arms none --resume --doc docs/results/cifar10_conv_places.md
	@$(call ONCE,flax_model,cifar10_conv_speed)
	$(PY) -m experiments.cifar10
	$(PY) -m experiments.claims

# Speed on one core, by the processor's time: others on the machine change it less than what passes.
ONE_CORE := taskset -c 0 $(PY)
pictures: $(BENCH_STAMP)  ## The picture of the speed in the README, measured again (needs MNIST and CIFAR-10)
	$(ONE_CORE) -m benchmarks.seed_sweep --batches 64 --epochs 1 --clock processor --json docs/images/speed.json
	$(PY) -m benchmarks.large_network --doc docs/kernels.md
	$(PY) -m benchmarks.pictures

clean:  ## Remove caches and build products; .venv and checkpoints stay
	rm -rf build dist docs/_build docs/_api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find jaxnet experiments benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find jaxnet -name '*.so' -delete
	rm -f $(RUN_STAMP) $(DEV_STAMP) $(BENCH_STAMP) $(GPU_STAMP) $(DOCS_STAMP) $(WHEEL_STAMP) $(TRACR_STAMP)

distclean: clean  ## Remove .venv too
	rm -rf $(VENV)

# jaxlib and setuptools come first so that the extension is built, without isolation, against
# the very jaxlib it will run with.
$(RUN_STAMP): $(PY) $(INSTALL_INPUTS)
	@echo "installing jaxnet into $(VENV) (minutes on the first run)"
	$(PIP_INSTALL) setuptools jaxlib
	$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): $(PY) $(INSTALL_INPUTS)
	@echo "installing jaxnet and the development tools into $(VENV) (minutes on the first run)"
	$(PIP_INSTALL) setuptools jaxlib
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $(RUN_STAMP) $@

$(BENCH_STAMP): $(DEV_STAMP)
	$(PIP_INSTALL) pybind11
	PATH="$(abspath $(VENV)/bin):$$PATH" $(PIP_INSTALL) --no-build-isolation --editable '.[dev,bench]'
	@touch $@

$(GPU_STAMP): $(RUN_STAMP)
	$(PIP_INSTALL) --no-build-isolation --editable '.[cuda12]'
	@touch $@

$(DOCS_STAMP): $(DEV_STAMP)
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev,docs]'
	@touch $@

# the page on reasoning judges scores by transformers with known circuits
$(TRACR_STAMP): $(RUN_STAMP)
	$(PIP_INSTALL) --no-build-isolation --editable '.[tracr]'
	@touch $@

$(WHEEL_STAMP): $(DEV_STAMP)
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev,wheel]'
	@touch $@

$(PY):
	@command -v $(PYTHON) >/dev/null || { \
		echo "jaxnet needs Python 3.11 or newer, and there is no '$(PYTHON)': say which, as in make PYTHON=/path/to/python3.11"; exit 2; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jaxnet needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1): say which, as in make PYTHON=/path/to/python3.11"; exit 2; } >&2
	$(PYTHON) -m venv --clear $(VENV)
