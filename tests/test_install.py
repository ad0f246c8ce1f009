"""The editable install: what `import jaxgpt` and `import convert` find, wherever Python is started."""

import json
import os
import subprocess
import sys
from pathlib import Path


def where(names: list[str], folder: Path) -> list[str]:
    """The files that `names` import from in a fresh interpreter started in `folder`."""
    code = "import importlib, json, sys; "
    code += "print(json.dumps([importlib.import_module(n).__file__ for n in sys.argv[1:]]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_folder_that_is_named_jaxgpt_hides_nothing(tmp_path: Path) -> None:
    """Such as the clone itself, seen from the folder above it."""
    (tmp_path / "jaxgpt").mkdir()
    (tmp_path / "convert").mkdir()
    found = where(["jaxgpt", "convert"], tmp_path)
    assert [file and Path(file).parts[-2:] for file in found] == [
        ("jaxgpt", "__init__.py"),
        ("convert", "__init__.py"),
    ]
