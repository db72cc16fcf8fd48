# Two commands are all a newcomer needs: `make run` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help run test test-slow lint format bench chaos migrate demo-reset lock clean venv packages packages-dev

PORT ?= 8000
export PORT
# Where it is set, every process would compile all of this anew: a third of the time it takes to start.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
UV := .venv/lock/bin/uv
PIP_INSTALL := $(PY) -m pip install -qq --no-input --disable-pip-version-check --require-hashes
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(LOCK_ARGS)

# $(1): a requirements file. The copy kept inside .venv says what was installed, so an unchanged file costs nothing.
define install
@cmp -s $(1) .venv/installed-$(1) || { \
	echo "Installing packages from $(1) (first time only, about a minute) ..."; \
	$(PIP_INSTALL) -r $(1) && cp $(1) .venv/installed-$(1) && echo "Packages are installed."; }
endef

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: packages ## Start everything on http://127.0.0.1:8000 (PORT=9000 make run for another port); Ctrl-C stops it
	@exec $(PY) -m gateway_site.run

test: packages-dev ## Run the tests (ARGS="-k name" to choose, ARGS="-n0 tests/test_x.py" for one process)
	@$(PY) -m pytest -m "not slow" -n 3 --dist loadfile $(ARGS)

test-slow: packages-dev ## Run the long scenarios
	@$(PY) -m pytest -m slow $(ARGS)

lint: packages-dev ## Check style, types and templates
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/djlint templates --lint --quiet

format: packages-dev ## Rewrite the code in the house format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: packages-dev ## Measure the gateway (ARGS="..." is passed on)
	@$(PY) -m bench $(ARGS)

chaos: packages-dev ## Break a running product in every way and prove its books (ARGS="--scene store" to choose)
	@$(PY) -m tests.chaos $(ARGS)

migrate: packages ## Bring the database of the environment up to date
	@$(PY) manage.py migrate $(ARGS)

demo-reset: packages ## Remove the data of `make run` (.gateway/); refuses while it runs
	@$(PY) -m gateway_site.run --reset

lock: venv ## Compile requirements*.in into pinned files (LOCK_ARGS=--upgrade for newer versions)
	@test -x $(UV) || { $(PY) -m venv .venv/lock && .venv/lock/bin/python -m pip install -qq uv; }
	$(COMPILE) -o requirements.txt requirements.in
	$(COMPILE) -o requirements-dev.txt requirements-dev.in

clean: ## Remove the virtual environment and caches (keeps .gateway/)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment whose Python is gone (an upgraded system) is made anew.
venv:
	@$(PY) -c '' 2>/dev/null || { \
		python=$$(scripts/find-python) && \
		echo "Making .venv with $$python ..." && \
		"$$python" -m venv --clear .venv; }

packages: venv
	$(call install,requirements.txt)

packages-dev: packages
	$(call install,requirements-dev.txt)
