# Everything starts here: `make demo` trains, `make test` tests; both install what they need into .venv first.
.PHONY: setup demo test test-slow test-fresh gpu-check format
.DEFAULT_GOAL := demo

PYTEST = .venv/bin/python -m pytest

setup: .venv/installed

.venv/installed: pyproject.toml launch/install.sh launch/install.py dist_rec/core/versions.py
	@launch/install.sh

demo: setup
	@launch/demo.sh

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow --durations 20

# Both commands of the README on minimal Debian systems; needs root and debootstrap.
test-fresh:
	@tests/fresh/run.sh

# On a machine whose Python has the packages already, no .venv is made.
gpu-check:
	@launch/gpu_check.sh

format: setup
	.venv/bin/ruff check --fix dist_rec tests benchmarks
	.venv/bin/ruff format dist_rec tests benchmarks
