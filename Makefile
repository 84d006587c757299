# Every target that needs something sets it up itself; the second time that takes seconds.

SHELL = /bin/sh
PYTHON_IN_VENV = .venv/bin/python
PYTEST = $(PYTHON_IN_VENV) -m pytest
SCRIPTS = .ci/common .ci/engine .ci/images .ci/lint-pipelines .ci/run .ci/setup .ci/venv .ci/vm .ci/vm-base .ci/guest/heart .ci/guest/load
WITH_IMAGES = . ./.venv/dind.env &&

.PHONY: help demo test test-vm lint bench clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-9s%s\n", $$1, $$2 }' Makefile

demo:  ## Run examples/ on two workers, each with a Docker of its own, and show what is left: nothing
	.ci/setup
	$(WITH_IMAGES) $(PYTHON_IN_VENV) .ci/docker_api.py left $(PYTEST) --dind -n 2 -v examples/

# Some hundred tests run pytest or a script in processes of their own, which would compile the package each time.
unexport PYTHONDONTWRITEBYTECODE

test:  ## Run the suite twice, without xdist and with it, on every engine that this machine can make
	.ci/setup --matrix
	$(WITH_IMAGES) { failed=0; \
		$(PYTEST) --durations=15 -p no:xdist -m "not once" || failed=1; \
		$(PYTEST) --durations=15 -n 2 --dist=worksteal || failed=1; \
		exit $$failed; }

test-vm:  ## Run the heart of the suite in a virtual machine: cgroup v2, systemd, AppArmor
	.ci/setup
	$(WITH_IMAGES) .ci/vm

lint:  ## Check style and types, and the pipelines in examples/
	.ci/venv
	$(PYTHON_IN_VENV) -m ruff check
	$(PYTHON_IN_VENV) -m ruff format --check
	$(PYTHON_IN_VENV) -m mypy --strict pytest_dind tests benchmarks
	@if command -v shellcheck >/dev/null; then set -x; shellcheck -x $(SCRIPTS); \
		else echo 'The shell scripts are not checked: there is no shellcheck here.'; fi
	.ci/lint-pipelines

bench:  ## Compare with the peers: one table, and every measurement in bench.json (ONLY="images clean": other benchmarks)
	.ci/setup
	$(WITH_IMAGES) $(PYTHON_IN_VENV) -m benchmarks $(or $(ONLY),compare) --json bench.json

clean:  ## Remove what the checkout has besides its sources (the cache of trees and images stays)
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
