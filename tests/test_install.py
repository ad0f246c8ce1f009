"""The editable install: what `import jaxgpt` and `import convert` find, wherever Python is started."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import PROGRAMS


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


def test_a_convert_py_of_ones_own_does_not_hide_the_bridge(
    primes_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "convert.py").write_text("answer = 42")
    done = subprocess.run(
        [sys.executable, PROGRAMS / "shadowed_convert.py", str(primes_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first = "layer_norm_three.bias"
    assert done.stdout.splitlines() == ["1 True 1", f"gpt {first}", "True"]


def test_the_command_runs_where_convert_is_hidden(primes_file: Path, tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("answer = 42")
    code = "import sys; sys.argv[0] = 'jaxgpt-convert'; "
    code += "from jaxgpt.__main__ import convert_main; convert_main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "inspect", str(primes_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dialect     gpt" in done.stdout


def test_where_nothing_hides_it_both_names_are_one_package() -> None:
    import convert
    from jaxgpt import convert as named

    assert named is convert
