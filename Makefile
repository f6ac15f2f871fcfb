# Two commands: `make demo` shows what it is, `make test` proves it. Both set up all they need below .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 4

.PHONY: demo test lab install lint unit bench clean

demo: install ## execute the quickstart notebook and show each cell's output
	@$(BIN)/python scripts/demo.py

test: install lint ## all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile || { \
	  echo "Again, one after the other, what failed beside the others"; \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none; }

lab: install ## open the quickstart in JupyterLab
	@$(BIN)/jupyter lab notebooks/quickstart.ipynb

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

unit: install ## the fast ring
	@$(BIN)/python -m pytest -n $(JOBS) tests/unit

bench: install ## all benchmarks, about five minutes; writes benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build
