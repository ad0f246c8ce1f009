# make test and make demo need Python 3.11 or later, and nothing else.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= torch,dev
TESTS ?= tests
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test slow lint clean

test: $(READY)
	$(BIN)/python -m pytest -n 2 $(TESTS)

slow: $(READY)
	$(BIN)/python -m pytest -m slow

demo: $(READY)
	rm -rf demo
	$(BIN)/jaxgpt prepare python-docs --out demo/data
	$(BIN)/jaxgpt train configs/quickstart.toml --data.path demo/data --run.dir demo/run
	$(BIN)/jaxgpt eval demo/run
	$(BIN)/jaxgpt sample demo/run --prompt "The " --tokens 300 --stats
	$(BIN)/jaxgpt-convert to-torch demo/run demo/weights.pt --dialect gpt
	$(BIN)/jaxgpt-convert verify demo/weights.pt demo/run --train-steps 3

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) demo
