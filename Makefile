# SPDX-License-Identifier: LGPL-2.1-or-later
# Two commands are all a newcomer needs: `make demo` and `make test`. Both set up what they use
# in .venv*/, from the package index pip is configured with; nothing else on the machine changes.

PYTHON ?= python3
DEMO := linux-6.12/kdump
CACHE := testdata/.cache
# The newest Python of this machine that is newer than $(PYTHON), if there is one.
NEWEST := $(shell for v in 3.14 3.13 3.12; do \
	for p in python$$v "$$HOME"/.pyenv/versions/$$v.*/bin/python3; do \
	"$$p" -c '' 2>/dev/null && echo "$$p" && exit; done; done)

# Many images for containers set this; then everything is compiled again by each process.
unexport PYTHONDONTWRITEBYTECODE

# Files of tests are shared out to three processes, because some tests wait for others.
PARALLEL := -n 3 --dist loadfile
# Tests that are repeated for all dumps are run with a sixth of them, and some not at all.
SAMPLE := DRGN_PAGEOWNER_SAMPLE=6
# What other versions of Python and of packages change is seen on a few of the dumps.
FEW = $(SAMPLE) DRGN_PAGEOWNER_FEW_DUMPS="$(1)"
# What other versions do not change (tests marked `once`, random damage) is tested with one set.
OTHERS := $(PARALLEL) --ignore=tests/fuzz

# Hides drgn from the tests that must not need it.
WITHOUT_DRGN := PYTHONPATH=tests/without_drgn$(if $(PYTHONPATH),:$(PYTHONPATH))
SPHINX := .venv/bin/sphinx-build -q -W --keep-going -j 2 -d build/doctrees

# Packages that are installed are compiled when they are first imported, which few of them are.
INSTALL := bin/pip install -q --disable-pip-version-check --no-compile

.PHONY: demo test test-all environments manual quick lint docs man docs-images check \
	check-with-drgn check-without-drgn check-oldest check-newest fuzz bench clean

demo: .venv/installed
	@.venv/bin/python testdata/unpack.py $(DEMO) >/dev/null
	.venv/bin/drgn-pageowner -c $(CACHE)/$(DEMO)/vmcore -s $(CACHE)/$(dir $(DEMO))vmlinux top --by allocator --limit 5
	@echo "Next: .venv/bin/drgn-pageowner -c $(CACHE)/$(DEMO)/vmcore -s $(CACHE)/$(dir $(DEMO))vmlinux info"

# pip mostly waits, and mypy uses one core: these run side by side.
test: .venv/installed
	$(MAKE) -j3 -Otarget lint man environments
	$(MAKE) check-without-drgn check-with-drgn check-oldest check-newest

# All tests on all dumps, and the whole manual.
test-all: .venv/installed
	$(MAKE) -j3 -Otarget lint manual environments
	$(MAKE) check-without-drgn check-with-drgn check-oldest check-newest SAMPLE=

# One after another: both are made from the same doctrees.
manual:
	$(MAKE) docs
	$(MAKE) man

# One after another: building the package writes into its directory.
environments:
	$(MAKE) .venv-oldest/installed $(if $(NEWEST),.venv-newest/installed)

# What needs neither a dump nor drgn, in less than a minute.
quick: lint
	$(WITHOUT_DRGN) .venv/bin/pytest -q -m quick $(PARALLEL)

lint: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# The manual in build/docs/, from docs/, the docstrings and the parser of the command line.
docs: .venv/installed
	$(SPHINX) -b html docs build/docs

# Man pages in build/man/: drgn-pageowner(1) and one for each command.
man: .venv/installed
	$(SPHINX) -b man docs build/man

# The picture in README.md; needs chromium.
docs-images: .venv/installed
	.venv/bin/python docs/images/make.py

check: .venv/installed
	.venv/bin/pytest $(PARALLEL)

# All tests in two parts: those that need neither a dump nor drgn, with drgn hidden, and the others.
check-without-drgn: .venv/installed
	$(WITHOUT_DRGN) .venv/bin/pytest -q -m "quick and not once" $(PARALLEL)

check-with-drgn: .venv/installed
	$(SAMPLE) .venv/bin/pytest -m "not quick or once" $(PARALLEL)

# The oldest versions of everything that pyproject.toml allows.
check-oldest: .venv-oldest/installed
	$(call FEW,linux-6.12/traps linux-6.12-profiling/records) .venv-oldest/bin/pytest -q $(OTHERS)

check-newest:
ifneq ($(NEWEST),)
	$(MAKE) .venv-newest/installed
	$(call FEW,linux-7.2/traps linux-7.2-profiling/owner-off-tags) .venv-newest/bin/pytest -q $(OTHERS)
else
	@echo "no Python newer than $(PYTHON) here: not tested with one"
endif

# Damages the real dumps at random; MINUTES and SEED say how long and how.
fuzz: .venv/installed
	.venv/bin/python tests/fuzz/run.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

bench: .venv/installed
	.venv/bin/python benchmarks/run.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv || { echo "Python's venv is missing: apt install python3-venv" >&2; exit 1; }
	.venv/$(INSTALL) -e '.[dev]'
	@touch $@

.venv-oldest/installed: pyproject.toml .ci/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/$(INSTALL) -r .ci/oldest.txt -e .
	@touch $@

.venv-newest/installed: pyproject.toml
	$(NEWEST) -m venv .venv-newest
	.venv-newest/$(INSTALL) pytest pytest-xdist hypothesis -e '.[report]'
	@touch $@

clean:
	rm -rf build docs/generated .venv .venv-oldest .venv-newest $(CACHE) .mypy_cache .pytest_cache .ruff_cache
