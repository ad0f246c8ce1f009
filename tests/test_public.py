"""The public names show wherever a person looks for them, and cost nothing until they are used."""

import ast
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import convert
import jaxgpt

PACKAGES = {
    jaxgpt: [
        "GPT",
        "ModelConfig",
        "Seq2Seq",
        "UserError",
        "convert",
        "generate",
        "load",
        "load_tokenizer",
        "translate",
    ],
    convert: ["Loaded", "assert_same", "inspect", "probe", "to_flax", "to_torch"],
}


def require_torch(package: ModuleType) -> None:
    """Skip where the names of `package` cannot all be loaded."""
    if package is convert:
        pytest.importorskip("torch", reason="torch is not installed")


def source_of(package: ModuleType) -> ast.Module:
    assert package.__file__
    with open(package.__file__) as file:
        return ast.parse(file.read())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_names_show_in_dir_and_help_and_to_editors(package: ModuleType) -> None:
    require_torch(package)
    names = PACKAGES[package]
    assert sorted(name for name in dir(package) if not name.startswith("__")) == names
    page = pydoc.plain(pydoc.render_doc(package))
    described = page[page.index("DESCRIPTION") : page.index("PACKAGE CONTENTS")]
    for name in names:
        assert re.search(rf"^ {{8}}{name} +\w.{{20}}", described, re.MULTILINE), name
    assert f"import {package.__name__}\n" in described  # the example
    (typed,) = (node for node in source_of(package).body if isinstance(node, ast.If))
    seen = [node.names[0].asname for node in typed.body if isinstance(node, ast.ImportFrom)]
    assert sorted(map(str, seen)) == sorted(names)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_each_name_is_there(package: ModuleType) -> None:
    require_torch(package)
    for name in PACKAGES[package]:
        found = getattr(package, name)
        assert callable(found) or isinstance(found, ModuleType)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_importing_the_packages_loads_nothing_heavy() -> None:
    code = (
        "import sys, jaxgpt, convert; dir(jaxgpt), dir(convert); "
        "print({'jax', 'flax', 'numpy', 'torch', 'tyro', 'rich'} & {*sys.modules})"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert outcome.stdout == "set()\n"


def test_the_bridge_in_python_loads_no_command_line_library(primes_file: Path) -> None:
    require_torch(convert)
    code = (
        "import sys, convert; loaded = convert.to_flax(sys.argv[1]); "
        "convert.to_torch(loaded.params, loaded.config, loaded.dialect); "
        "print(sorted({'tyro', 'convert.__main__', 'convert.commands'} & {*sys.modules}))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code, str(primes_file)], capture_output=True, text=True, check=True
    )
    assert outcome.stdout == "[]\n"
