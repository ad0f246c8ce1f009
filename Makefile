# Everything here needs Python 3.11 to 3.13, and nothing else. DEMO has more settings for the training of the demo,
# TORTURE the options of tests/torture.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= torch,dev,docs,lm-eval-hf
TESTS ?= tests
DEMO ?=
TORTURE ?= --seconds 1800
BIN = $(VENV)/bin
READY = $(VENV)/.ready
LIGHT = $(VENV)/.light
INSTALL = $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow accelerator torture lint docs clean

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

slow: $(READY)
	$(BIN)/python -m pytest -m slow

# On a GPU or a TPU all that only it can show, in less than ten minutes; elsewhere a test of the script.
accelerator: $(READY)
	$(BIN)/python -m tests.accelerator

# Damages files, kills commands, disturbs processes, and puts commands in difficult situations. Prints tables, and for
# each failure the words that make it again.
torture: $(READY)
	$(BIN)/python -m tests.torture $(TORTURE)

define AFTER_DEMO

Look at
  runs/demo/run/loss.png         the loss while it trained
  runs/demo/attention.png        where each letter of a text looks, in every head of every layer
  runs/demo/weights.safetensors  the weights as torch has them

Try next, after . $(BIN)/activate
  jaxgpt sample runs/demo/run --prompt "The " --temperature 0.5
  jaxgpt train quickstart --data.path YOUR_TEXT.txt --run.dir runs/mine
  jaxgpt-convert inspect YOUR_CHECKPOINT.safetensors
  docs/first_steps.ipynb         a torch checkpoint of yours: convert it, prove it, train it, write it back
endef
export AFTER_DEMO

# From a text to weights for torch. torch itself, which can bring gigabytes of CUDA, is used only where it is installed.
demo: $(LIGHT)
	rm -rf runs/demo
	$(BIN)/jaxgpt prepare python-docs --out runs/demo/data
	$(BIN)/jaxgpt train quickstart --data.path runs/demo/data --run.dir runs/demo/run $(DEMO)
	$(BIN)/jaxgpt eval runs/demo/run
	$(BIN)/jaxgpt sample runs/demo/run --prompt "The " --tokens 300 --stats
	$(BIN)/jaxgpt look runs/demo/run --text "The return value is" --out runs/demo/attention.png
	$(BIN)/jaxgpt-convert to-torch runs/demo/run runs/demo/weights.safetensors --dialect gpt
	@if $(BIN)/python -c "import torch" 2>/dev/null; then \
	  set -x; $(BIN)/jaxgpt-convert verify runs/demo/weights.safetensors runs/demo/run --train-steps 3; \
	else \
	  echo "verify was left out, because torch is not in $(VENV). README.md says how to install it without CUDA."; \
	fi
	@echo "$$AFTER_DEMO"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in build/docs. A warning is an error, and so is a page that fetches something from another host.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY)
	$(BIN)/mkdocs build
	! grep -rlE '<(script|link|img)[^>]+(src|href)="?(https?:)?//' build/docs --include='*.html'

$(READY): pyproject.toml constraints.txt
	$(INSTALL) -e ".[$(EXTRAS)]"
	touch $@

$(LIGHT): pyproject.toml constraints.txt
	$(INSTALL) -e ".[plot]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo build
