# Two commands for a newcomer, each doing its own set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FAMILY ?= llava
export TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/.mmbuild/inductor

# Where files are made fastest, if there is room: a disk takes half of the time of tests that compile nothing.
MEMORY ?= $(shell test -w /dev/shm && test "$$(df -Pk /dev/shm | awk 'END {print $$4}')" -gt 2000000 && echo /dev/shm || echo /tmp)

SECONDS ?= 600
SEED ?= 1

.PHONY: demo test test-all check docs dist bench fuzz clean
demo: $(STAMP)
	@MMBUILD_STORE=$${MMBUILD_STORE:-$(CURDIR)/.mmbuild/store} $(BIN)/python tools/demo.py --family $(FAMILY)

# Types are checked beside the tests: without mypy's cache that takes a minute of one core.
test: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
	$(BIN)/mypy & types=$$!; PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder; tests=$$?; \
		wait $$types && exit $$tests

# With more random shapes and precisions of each family: ten minutes more.
test-all: $(STAMP)
	PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m ''

# Minutes: the tests that compile nothing and take little time.
check: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
	PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/pytest -n 4 --dist loadfile -q -m 'not slow and not extended' --hypothesis-profile quick

# Generated pages, and the site in site/; a link that leads nowhere fails.
docs: $(STAMP)
	$(BIN)/python tools/make_docs.py
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The wheel and the sdist, in dist/.
dist: $(STAMP)
	$(BIN)/python -m hatchling build

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --seconds $(SECONDS) --seed $(SEED)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml
	@echo "installing into $(VENV): about two minutes, mostly downloads"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[torch,dev]'
	@# pip compiles on one core, and what is never imported. Some files are templates.
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests|testing|models|types)/' $(VENV)/lib > /dev/null || true
	@touch $@

clean:
	rm -rf $(VENV) .mmbuild build
