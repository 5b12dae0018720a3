# make demo      set up, train DeiT-S to 8-bit integers on the embedded digits, evaluate every image on two runtimes
# make test      set up, lint, tests without the slow ones; ends with the twenty slowest
# make test-all  the same with the slow ones
# make docs      the documentation site into site/, strictly: no dead link, no public name without a docstring
# PYTHON=python3.12 make ... chooses the interpreter of .venv (3.11 or newer)

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# After an interrupted demo: make demo RESUME=ckpt=last
RESUME :=

.PHONY: demo test test-all lint docs

demo: $(INSTALLED)
	$(VENV)/bin/python train.py model=deit_s quant=ivit8 $(RESUME)
	$(VENV)/bin/python evaluate.py ckpt="$$(ls -td outputs/deit_s-ivit8-digits-demo-*/ | head -n 1)"

# Three workers for two cores: some tests wait for SLURM's jobs and for ranks.
test: lint
	$(VENV)/bin/python -m pytest -n 3 --dist loadgroup --durations=20 -m "not slow"

test-all: lint
	$(VENV)/bin/python -m pytest -n 3 --dist loadgroup --durations=20

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build # --quiet would hide what makes it fail

$(VENV)/.docs: $(INSTALLED)
	$(VENV)/bin/pip install -c constraints.txt -e '.[docs]'
	@touch $@

# constraints.txt names plain versions: the index decides between CPU and CUDA wheels of torch.
$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard src/intvit/runtime/native/*.cpp src/intvit/runtime/native/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev]'
	@touch $@
