# `make demo` and `make test` are all that a fresh machine needs; they make .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
OUT := demo-out

.PHONY: install demo test lint bench check-full compressors clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# A comparison that finds a difference exits with 1, which is a result, not a failure.
demo: install
	@mkdir -p $(OUT)
	@echo; echo '$$ cpusim asm examples/divide.s -o $(OUT)/divide.bin'
	@$(BIN)/cpusim asm examples/divide.s -o $(OUT)/divide.bin --force
	@echo; echo '$$ cpusim run $(OUT)/divide.bin'
	@$(BIN)/cpusim run $(OUT)/divide.bin
	@echo; echo '$$ cpusim compare $(OUT)/divide.bin'
	@$(BIN)/cpusim compare $(OUT)/divide.bin || test $$? -eq 1
	@echo; echo '$$ cpusim compare --programs 200'
	@$(BIN)/cpusim compare --programs 200 || test $$? -eq 1
	@echo; echo '$$ bgpt generate --modality image -n 4 -o $(OUT)/pictures'
	@$(BIN)/bgpt generate --modality image -n 4 -o $(OUT)/pictures --force

# Files stay whole, as their tests share what takes long to make.
test: install lint
	$(BIN)/pytest --numprocesses auto --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measures this machine; the figures go to benchmarks/results/*.json. Keep it idle meanwhile.
bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/cpu_speed.py
	$(BIN)/python benchmarks/model_speed.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/training_step.py

# The shipped checkpoint on every distribution and every case, as diagnostician of faulty machines,
# and its verification beside cached rollout. Takes hours; the figures go to
# benchmarks/results/*.json.
check-full: install
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/conformance.py
	$(BIN)/python benchmarks/diagnosis.py
	$(BIN)/python benchmarks/verification.py

# The checkpoints of media beside compressors that know the same files. Takes hours.
compressors: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for modality in text image audio music; do \
	  $(BIN)/python benchmarks/compressors.py $$modality || exit; done

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
