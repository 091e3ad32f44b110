# make bench: a first result in minutes. make full: every attack vector. make test: everything that is tested. See README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
STORE  ?= genward-store

.PHONY: setup browser bench full erasure standard test check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV) (about 2 GB) …' >&2
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,lab,speech]'
	@touch $@

# The report is tested in a real browser.
browser:
	@if ! { command -v chromium && command -v chromedriver; } >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium and chromium-driver for the tests of the report …" >&2; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	  else \
	    echo "The report is tested in Chromium: install the packages chromium and chromium-driver (apt-get install chromium chromium-driver), then try again." >&2; exit 1; \
	  fi; \
	fi

bench: setup
	$(BIN)/genward run m-erasure --preset quick --store $(STORE)
	@$(BIN)/genward report --store $(STORE)
	@$(BIN)/genward claims --store $(STORE)

# Every attack vector, learned embeddings among them: over an hour. make full PRESET=full: every eraser, a day and more.
PRESET ?= standard
full: setup
	$(BIN)/genward run m-erasure --preset $(PRESET) --store $(STORE)
	@$(BIN)/genward report --store $(STORE)
	@$(BIN)/genward claims --store $(STORE)

erasure: setup
	$(BIN)/genward run erasure --preset quick --store $(STORE)
	@$(BIN)/genward report --store $(STORE)
	@$(BIN)/genward claims --store $(STORE)

standard: setup
	$(BIN)/genward run erasure --preset standard --store $(STORE)
	@$(BIN)/genward report --store $(STORE)
	@$(BIN)/genward claims --store $(STORE)

# One thread a process: two OpenMP programs side by side slow each other down many times over.
test: setup browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q --slow -m slow

check: setup
	$(BIN)/ruff format --check src tests timing examples
	$(BIN)/ruff check src tests timing examples
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

clean:
	rm -rf $(VENV) $(STORE) build dist .mypy_cache .pytest_cache .ruff_cache
