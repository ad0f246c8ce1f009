"""The public names are visible to `dir`, `help` and editors, and cost nothing until they are used."""

import ast
import functools
import inspect
import os
import pydoc
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import convert
import jaxgpt
from tests.helpers import ROOT

PROGRAM = ROOT / "tests" / "programs" / "library_user.py"
PACKAGES = {
    jaxgpt: [
        "GPT",
        "ModelConfig",
        "Seq2Seq",
        "UserError",
        "assemble",
        "compiled_step",
        "convert",
        "generate",
        "load",
        "load_tokenizer",
        "look",
        "params_of",
        "save",
        "score",
        "to_int8",
        "translate",
    ],
    convert: ["Loaded", "assert_same", "inspect", "probe", "to_flax", "to_torch", "verify"],
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
    assert dir(package) == names
    page = pydoc.plain(pydoc.render_doc(package))
    described = page[page.index("DESCRIPTION") : page.index("PACKAGE CONTENTS")]
    for name in names:
        assert re.search(rf"^ {{8}}{name} +\w.{{20}}", described, re.MULTILINE), name
    assert f"import {package.__name__}\n" in described  # the example
    classes, functions = page[page.index("\nCLASSES") :].split("\nFUNCTIONS")
    shown = re.findall(r"^ {4}(\w+)\(", functions, re.MULTILINE)
    shown += re.findall(r"^ {4}class (\w+)\(", classes, re.MULTILINE)
    assert sorted(shown) == [name for name in names if name != "convert"]
    (typed,) = (node for node in source_of(package).body if isinstance(node, ast.If))
    seen = [node.names[0].asname for node in typed.body if isinstance(node, ast.ImportFrom)]
    assert sorted(map(str, seen)) == sorted(names)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_each_public_name_exists(package: ModuleType) -> None:
    require_torch(package)
    for name in PACKAGES[package]:
        found = getattr(package, name)
        assert callable(found) or isinstance(found, ModuleType)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def public_things(package: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public functions and classes of `package`, and the public methods of the classes."""
    for name in PACKAGES[package]:
        thing = getattr(package, name)
        if isinstance(thing, ModuleType):
            continue
        yield name, thing
        if inspect.isclass(thing) and thing.__module__.split(".")[0] in ("jaxgpt", "convert"):
            own = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            for key, value in own.items():
                if inspect.isfunction(value):
                    yield f"{name}.{key}", value
                elif isinstance(value, (property, functools.cached_property)):
                    yield f"{name}.{key}", getattr(value, "fget", None) or value.func


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_explained_and_typed(package: ModuleType) -> None:
    """A docstring names the result in a sentence; every parameter and result has a type."""
    require_torch(package)
    late = {"torch": sys.modules.get("torch")}  # which is imported for types alone
    for name, thing in public_things(package):
        text = inspect.getdoc(thing) or ""
        first = " ".join(text.split("\n\n")[0].split())
        assert len(first.split()) >= 4, name
        assert first.endswith((".", ":")), (name, first)
        assert first.split()[0] not in ("Of", "What", "As", "And", "Which", "This"), (name, first)
        function = thing.__init__ if inspect.isclass(thing) else thing
        if not inspect.isfunction(inspect.unwrap(function)):
            continue  # an error has the arguments of its base
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True, localns=late)
        parameters = inspect.signature(inspect.unwrap(function)).parameters
        annotated = {key for key, one in parameters.items() if one.annotation is not one.empty}
        assert parameters.keys() - {"self"} == annotated, name
        if not inspect.isclass(thing):
            assert hints["return"] is not type(None) or RETURNS_NOTHING.search(first), (name, first)
            assert hints["return"] is not Any, name


RETURNS_NOTHING = re.compile(r"^(Write|Raise) ")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_packages_say_that_they_are_typed(package: ModuleType) -> None:
    assert package.__file__
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_a_users_program_passes_mypy_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    cache = str(ROOT / ".mypy_cache" / "strict")  # beside the cache of `make lint`
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}"]
    out, err, code = api.run([*options, str(PROGRAM)])
    assert code == 0, out + err


def test_a_users_program_runs(primes_file: Path, tmp_path: Path) -> None:
    require_torch(convert)
    outcome = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(primes_file)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "(1, 2) (1, 3, 11)" in outcome.stdout
    assert "(1, 2) (2, 1, 2, 3, 4)" in outcome.stdout
    assert "unproven None" in outcome.stdout
    assert "is not a directory" in outcome.stdout


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
