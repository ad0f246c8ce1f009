"""Imports a foreign class, and runs only those parts of its file that the class needs.

As this runs code, only classes that the user or a dialect names are imported.
"""

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxgpt.errors import UserError, instead_of

DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom)


def folders(named: str) -> list[str]:
    """The folders from which the user's class `named` and its imports are loaded."""
    place = Path(named.rpartition(":")[0])
    return [str(place.parent), str(Path.cwd())] if place.suffix == ".py" else [str(Path.cwd())]


@contextlib.contextmanager
def at_home(home: Sequence[str]) -> Iterator[None]:
    """Run the block like a script in `home`, with the folders on sys.path and no arguments."""
    path, argv = sys.path, sys.argv
    sys.path, sys.argv = [*home, *path], argv[:1]
    try:
        yield
    finally:
        sys.path, sys.argv = path, argv


def find(place: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The object `name` of the module `place`, and the namespace in which it was defined."""
    module = _imported(place, name.partition(".")[0])
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            models = _models(module)
            known = instead_of(name, models) if models else "It has no torch.nn.Module."
            raise UserError(f"{place} has no {name}. {known}")
        target = getattr(target, part)
    origin = getattr(target, "__module__", module.__name__)
    return target, vars(module if origin == module.__name__ else sys.modules.get(origin, module))


def _models(module: ModuleType) -> list[str]:
    """The names of the torch classes in `module`."""
    import torch

    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, torch.nn.Module)
    ]


def _imported(place: str, name: str) -> ModuleType:
    path = Path(place)
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"{path} does not exist.")
        return _executed(
            path.stem, path, importlib.util.spec_from_file_location(path.stem, path), name
        )
    if place in sys.modules:
        return sys.modules[place]
    spec = None
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(place)
    if spec is None:
        raise UserError(
            f"There is no module {place}, neither here nor installed. A file is named by its path: "
            "model.py:GPT."
        )
    path = Path(spec.origin or "")
    if path.suffix == ".py" and name in map(_name, ast.parse(path.read_bytes()).body):
        return _executed(place, path, spec, name)
    return importlib.import_module(place)


def _executed(called: str, path: Path, spec: Any, name: str) -> ModuleType:
    """Import the file `path`, but after the definition of `name` run only other definitions.

    The statements that are left out are those with which a script trains.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    last = max(
        (at for at, node in enumerate(tree.body) if _name(node) == name), default=len(tree.body)
    )
    before, after = tree.body[: last + 1], tree.body[last + 1 :]
    _require_unchanged(path, name, before, after)
    tree.body = [*before, *(_if_it_can(node) for node in after if isinstance(node, DEFINITIONS))]
    module, previous = importlib.util.module_from_spec(spec), sys.modules.get(called)
    sys.modules[called] = module  # dataclasses look up their module there
    try:
        exec(
            compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True),
            vars(module),
        )
    finally:
        del sys.modules[called]
        if previous is not None:
            sys.modules[called] = previous
    return module


def _require_unchanged(
    path: Path, name: str, before: Sequence[ast.stmt], after: Sequence[ast.stmt]
) -> None:
    """Require that nothing which does not run changes what the class `name` computes.

    A change would be a new value of a global that a definition reads, or of an attribute of a
    class.
    """
    inside = [node for node in before if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    outside = [node for node in before if node not in inside]  # these contain global names
    read = {name for node in inside for name in _names(node, ast.Load)} - {"device"}
    bound = {_name(node) for node in inside}
    bound |= {name for node in outside for name in _names(node, ast.Store)}
    bound |= {
        (alias.asname or alias.name).partition(".")[0]
        for node in before
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    for statement in after:
        for node in [] if isinstance(statement, DEFINITIONS) else ast.walk(statement):
            target = _changed(node)
            root = target.partition(".")[0]
            if root in bound and (root in read or root != target):
                raise UserError(
                    f"{path} changes {target} on line {statement.lineno}, after {name}, and "
                    "nothing but definitions is run there: the class would not be the one of your "
                    f"script. Move that line above {name}, or name a function that returns the "
                    "model."
                )


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, context)
    }


def _changed(node: ast.AST) -> str:
    """The name to which `node` binds a value, such as `SCALE` or `GPT.forward`; "" if none."""
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
        return ast.unparse(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr" and node.args:
        return f"{ast.unparse(node.args[0])}."
    return ""


def _if_it_can(node: ast.stmt) -> ast.stmt:
    """Wrap `node` to ignore a NameError: it may use a name that was never defined."""
    passed = ast.ExceptHandler(ast.Name("NameError", ast.Load()), None, [ast.Pass()])
    return ast.Try([node], [passed], [], [])


def _name(node: ast.stmt) -> str:
    return getattr(node, "name", "")
