# `make demo` and `make test` need nothing but python3 (3.11 or newer, with venv) and make.
VENV ?= .venv
PYTHON = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: env demo test coverage lint types docs clean

env: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: env
	$(PYTHON) -m c2sti demo --force

# One process a core, one thread each: the suite is many small computations. Numba's compiler takes longer to optimise
# what scanpy and squidpy compile than small data take without.
test: env
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 NUMBA_OPT=0 $(PYTHON) -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# In one process, beside those that tests start; about twice as long.
coverage: env
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 NUMBA_OPT=0 $(PYTHON) -m pytest -p no:xdist --timeout 1200 --cov --cov-report term-missing:skip-covered

lint: env
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: env
	$(PYTHON) -m mypy

docs: env
	$(PYTHON) -m tests.test_words
	C2STI_DOCS_OFFLINE=1 $(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) demo docs/_build docs/generated docs/api/generated
