# Everything here needs Python 3.11 or later, and nothing else. DEMO has more settings for the training of the demo,
# TORTURE the options of tests/torture.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= torch,dev,docs,lm-eval-hf
TESTS ?= tests
DEMO ?=
TORTURE ?= --seconds 600
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test slow accelerator torture lint docs clean

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

slow: $(READY)
	$(BIN)/python -m pytest -m slow

# On a GPU or a TPU all that only it can show, in less than ten minutes; elsewhere a test of the script.
accelerator: $(READY)
	$(BIN)/python -m tests.accelerator

# Damages every kind of file that is read. Prints a table, and for each failure the words that make it again.
torture: $(READY)
	$(BIN)/python -m tests.torture $(TORTURE)

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/jaxgpt prepare python-docs --out runs/demo/data
	$(BIN)/jaxgpt train configs/quickstart.toml --data.path runs/demo/data --run.dir runs/demo/run $(DEMO)
	$(BIN)/jaxgpt eval runs/demo/run
	$(BIN)/jaxgpt sample runs/demo/run --prompt "The " --tokens 300 --stats
	$(BIN)/jaxgpt-convert to-torch runs/demo/run runs/demo/weights.pt --dialect gpt
	$(BIN)/jaxgpt-convert verify runs/demo/weights.pt runs/demo/run --train-steps 3

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
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo build
