# make test and make demo need Python 3.11 or later, and nothing else.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= torch,dev
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test lint clean

test: $(READY)
	$(BIN)/python -m pytest -n 2

demo: $(READY)
	rm -rf demo && mkdir demo
	$(BIN)/python -c "import torch; from convert.reference import GPT; \
	    torch.save(GPT(104, 128, 252, 6, 6).state_dict(), 'demo/weights.pt')"
	$(BIN)/jaxgpt-convert inspect demo/weights.pt
	$(BIN)/jaxgpt-convert to-flax demo/weights.pt demo/model
	$(BIN)/jaxgpt-convert verify demo/weights.pt demo/model
	$(BIN)/jaxgpt-convert to-torch demo/model demo/back.pt --dialect gpt
	$(BIN)/jaxgpt-convert verify demo/back.pt demo/model --train-steps 3

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
