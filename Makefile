# SPDX-License-Identifier: Apache-2.0
# The only entry point a developer needs. Each target sets up what it needs; a second run does nothing twice.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ENV := . ./env.sh;
ARGS ?=
export PYTHON

# The small models of tests and demo gain nothing from more threads; on a busy machine they lose much.
demo test check: export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test check check-code check-architecture format build bench safety fuzz-bags lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: ## Python, packages, ROS prefix and messages; PYTHON=/path/to/python3.12 if it is not found
	@scripts/setup.sh

demo: setup ## Record a simulated arm, replay it through the nodes, report: out/demo/report.html
	@$(ENV) sigma demo $(ARGS)

test: setup ## Run the tests; ARGS="-k supervisor -x"
	@$(ENV) python -m pytest $(ARGS)

check: check-code check-architecture ## Lint, format, types, import direction

check-code: setup
	@$(ENV) ruff check . && ruff format --check . && mypy

check-architecture: setup
	@$(ENV) python -m pytest -q test/test_architecture.py

format: setup ## Format the code and fix what can be fixed
	@$(ENV) ruff format . && ruff check --fix .

build: ## Build the messages anew with colcon, and a wheel into out/dist
	@scripts/setup.sh --rebuild
	@$(ENV) uv build -q --wheel --no-build-isolation --out-dir out/dist . && ls out/dist

bench: setup ## Measure speed; results in bench/out
	@$(ENV) for bench in bench/bench_*.py; do echo "== $$bench"; python "$$bench" $(ARGS); done

safety: setup ## Attack the supervisor for 100,000 ticks, judged by an independent oracle: out/safety
	@$(ENV) python tools/campaign.py --ticks 100000 --out out/safety $(ARGS)

fuzz-bags: setup ## Replay 2,000 damaged bags: no crash, no hang, no silently wrong result: out/fuzz-bags
	@$(ENV) python tools/fuzz_bags.py --bags 2000 --out out/fuzz-bags $(ARGS)

lock: setup ## Pin requirements/*.in again in requirements/lock.txt
	@$(ENV) uv pip compile -q requirements/*.in --python-version 3.12 --no-header --no-annotate \
	  --no-emit-index-url -o requirements/lock.txt

clean: ## Remove what was made here, but not .venv
	@rm -rf .ros out build install log bench/out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
