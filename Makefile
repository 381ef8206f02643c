# SPDX-License-Identifier: Apache-2.0
# The only entry point a developer needs. Each target sets up what it needs; a second run does nothing twice.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ENV := . ./env.sh;
ARGS ?=
export PYTHON

# The small models of tests and demo gain nothing from more threads; on a busy machine they lose much.
demo test test-fast check train-demo study bed docs-pictures: export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-fast check check-code check-architecture format build dist bench train-demo study bed safety soak mutants fuzz-bags fuzz-readers real-files docs docs-pictures lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: ## Python, packages, ROS prefix and messages; PYTHON=/path/to/python3.12, TORCH_INDEX=URL of torch for CPUs alone
	@scripts/setup.sh

demo: setup ## Record a simulated arm, replay it through the nodes, report: out/demo/report.html
	@$(ENV) sigma demo $(ARGS)

test: setup ## Run the tests, those without ROS two at a time; ARGS="-k supervisor -x"
	@$(ENV) python -m pytest -n 2 --dist loadfile -m "not ros" $(ARGS) && first=0 || first=$$?; \
	  python -m pytest -m ros $(ARGS) && second=0 || second=$$?; \
	  for code in $$first $$second; do [ $$code = 0 ] || [ $$code = 5 ] || exit $$code; done  # 5: none was chosen

test-fast: setup ## The tests without ROS processes, OpenGL and slow ones: about 90 s
	@$(ENV) python -m pytest -q -n 2 --dist loadfile -m "not slow and not ros and not gl" $(ARGS)

check: check-code check-architecture ## Lint, format, types, import direction

check-code: setup
	@$(ENV) ruff check . && ruff format --check . && mypy

check-architecture: setup
	@$(ENV) python -m pytest -q test/test_architecture.py

format: setup ## Format the code and fix what can be fixed
	@$(ENV) ruff format . && ruff check --fix .

build: ## Build the messages anew with colcon
	@scripts/setup.sh --rebuild

dist: setup ## Wheel and sdist in out/dist, checked, and installed in an empty environment of each Python, 3.12 and 3.13
	@$(ENV) scripts/dist.sh

bench: setup ## Measure speed; results in bench/out
	@$(ENV) for bench in bench/bench_*.py; do echo "== $$bench"; python "$$bench" $(ARGS); done

train-demo: setup ## Record, preprocess, train 20 steps, evaluate on a held-out episode: out/train
	@$(ENV) set -x; rm -rf out/train; \
	  sigma record --sim --setup target --episodes 2 --seed 7 --jpeg 90 --out out/train/recordings && \
	  python -m training.preprocess --bags out/train/recordings --image-size 112 --hold-out-every 2 --out out/train/shards && \
	  python -m training.train --base_model_id mini --dataset_dir out/train/shards --output_dir out/train/run \
	    --batch_size 4 --gradient_accumulation_steps 1 --max_steps 20 --phase_step 16 --allow_untrained $(ARGS) && \
	  python -m training.evaluate --checkpoint out/train/run/checkpoint --dataset_dir out/train/shards \
	    --out out/train/evaluation --train_episodes 0 --allow_untrained

study: setup ## What each part of Sigma is worth; resumable: out/study (make study ARGS="--dataset_dir ...")
	@$(ENV) python -m training.study --out out/study $(ARGS)

bed: setup ## Test bed: tasks that need memory and text, arms, interventions; resumable, a night: out/bed
	@$(ENV) python -m training.bed --out out/bed $(ARGS)

safety: setup ## Attack the supervisor: 100,000 ticks, then every fault on its process; an independent oracle judges
	@$(ENV) python -m safety.campaign --ticks 100000 --out out/safety
	@$(ENV) python -m safety.collision.campaign --ticks 10000
	@$(ENV) SIGMA_PROMISE_DEPTH=6 python -m pytest -q test/supervisor/test_promises.py
	@$(ENV) python -m safety.fault_campaign --out out/safety $(ARGS)

soak: setup ## Two hours with a fault every half minute: out/soak; a night: ARGS="--hours 8"
	@$(ENV) python -m safety.fault_campaign --hours 2 --out out/soak $(ARGS)

mutants: setup ## Mutation testing of the supervisor's core, a sample: out/mutants; all: ARGS="--each 0"
	@$(ENV) uv pip install -q cosmic-ray==8.7.0 && python -m safety.mutants --out out/mutants $(ARGS)

fuzz-bags: setup ## Replay 2,000 damaged bags: no crash, no hang, no silently wrong result: out/fuzz-bags
	@$(ENV) python safety/fuzz/fuzz_bags.py --bags 2000 --out out/fuzz-bags $(ARGS)

fuzz-readers: setup ## A fuzzer guided by coverage over all readers of foreign files, 30 minutes of CPU: out/fuzz-readers
	@$(ENV) python safety/fuzz/fuzz_readers.py --minutes 30 --out out/fuzz-readers $(ARGS)

real-files: setup ## Recordings and data sets of others through every verb: make real-files ARGS="FOLDER..."
	@$(ENV) python -W ignore -m safety.fuzz.real_files $(ARGS)

docs: setup ## The documentation as a site, checked strictly: out/site/index.html
	@$(ENV) uv pip install -q -r requirements/docs.in -c requirements/lock.txt && NO_MKDOCS_2_WARNING=1 mkdocs build -q

docs-pictures: setup ## Every picture of the docs anew, from the shipped model; needs Chromium
	@$(ENV) python scripts/docs_pictures.py

lock: setup ## Pin requirements/*.in again in requirements/lock.txt
	@$(ENV) uv pip compile -q requirements/*.in --python-version 3.12 --no-header --no-annotate \
	  --no-emit-index-url -o requirements/lock.txt

clean: ## Remove what was made here, but not .venv
	@rm -rf .ros out build install log bench/out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
