"""Imports and builds a foreign torch class, and loads a checkpoint into it.

This runs its code, and so only that of a class which the user or a dialect names.
"""

import ast
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from jaxgpt.errors import UserError, in_a_row

from ..files import checkpoints
from .constructor_args import WAY_OUT, Answers, described, parameters
from .float64 import blamed, in_float64

# Per parameter: float64 in torch, in a copy, here and on the device; and twice as it was read.
BYTES = 40
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Theirs:
    """A torch module with the weights of a file."""

    module: torch.nn.Module
    about: str  # its name and arguments, for the user
    answers: Answers  # its constructor arguments


def hindrance(named: str, parameters: int) -> str:
    """The reason why the class `named` of a dialect cannot be run; "" if it can."""
    library = named.partition(":")[0]
    if not named:
        return "--torch module:Class would run your own beside the model."
    if importlib.util.find_spec(library) is None:
        return f"Installing {library} would run its class beside the model."
    needed = BYTES * parameters
    available = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if hasattr(os, "sysconf")
        else needed
    )
    if needed > available:
        gigabytes = (
            f"some {needed / 2**30:.0f} GB of memory, of which there are {available / 2**30:.0f}"
        )
        return f"To run its class and the model in float64 takes {gigabytes}."
    return ""


def folders(named: str) -> list[str]:
    """Folders from which the user's class `named` and its imports are loaded."""
    place = Path(named.rpartition(":")[0])
    return [str(place.parent)] * (place.suffix == ".py") + [str(Path.cwd())]


def build(
    named: str,
    answers: Answers,
    source: checkpoints.Checkpoint,
    weights: Collection[str],
    home: Sequence[str] = (),
) -> Theirs:
    """Build the model `named` and load the tensors of `source` into it.

    `named` is module:Name or path/to/file.py:Name, of a class or of a function that returns a
    model; `weights` are the tensors of the file except masks; modules are looked for in the
    folders `home` first.
    """
    place, _, name = named.rpartition(":")
    if not place or not name:
        raise UserError(f"--torch takes module:Class or path/to/file.py:Class, but got {named!r}.")
    with _at_home(home), in_float64():
        with blamed(f"Importing {place}"):
            target, namespace = _found(place, name)
        module = _built(target, namespace, answers)
        if not isinstance(module, torch.nn.Module):
            raise UserError(f"{named} gives a {type(module).__name__}, and no torch.nn.Module.")
        module = module.to("cpu", torch.float64).eval()
        words = (
            ", ".join(f"{word} = {value!r}" for word, value in answers.told.items())
            or "no arguments"
        )
        about = f"{named}, built with {words}" if home else named
        _fill(module, about, source, weights)
    return Theirs(module, about, answers)


@contextlib.contextmanager
def _at_home(home: Sequence[str]) -> Iterator[None]:
    """Run the block as a script in `home`, with those folders on sys.path and no arguments."""
    path, argv = sys.path, sys.argv
    sys.path, sys.argv = [*home, *path], argv[:1]
    try:
        yield
    finally:
        sys.path, sys.argv = path, argv


def _found(place: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The object `name` of the module `place`, and the namespace in which it was defined."""
    module = _imported(place, name.partition(".")[0])
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            classes = [key for key, value in vars(module).items() if isinstance(value, type)]
            raise UserError(
                f"{place} has no {name}; its classes are {in_a_row(classes, ', ') or 'none'}."
            )
        target = getattr(target, part)
    origin = getattr(target, "__module__", module.__name__)
    return target, vars(module if origin == module.__name__ else sys.modules.get(origin, module))


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
    """Import the file `path`, but run only definitions after that of `name`.

    Scripts train there.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    last = max(
        (at for at, node in enumerate(tree.body) if _name(node) == name), default=len(tree.body)
    )
    rest = [_if_it_can(node) for node in tree.body[last + 1 :] if isinstance(node, DEFINITIONS)]
    tree.body = [*tree.body[: last + 1], *rest]
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(called)
    sys.modules[called] = module  # dataclasses look up their own module there
    try:
        exec(
            compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True),
            vars(module),
        )
    finally:
        del sys.modules[called]
        if before is not None:
            sys.modules[called] = before
    return module


def _if_it_can(node: ast.stmt) -> ast.stmt:
    """Wrap `node` to ignore a NameError: it may use a name that was never defined."""
    passed = ast.ExceptHandler(ast.Name("NameError", ast.Load()), None, [ast.Pass()])
    return ast.Try([node], [passed], [], [])


def _name(node: ast.stmt) -> str:
    return getattr(node, "name", "")


def _built(target: Any, namespace: dict[str, Any], answers: Answers) -> Any:
    if isinstance(target, torch.nn.Module):
        return target
    if not callable(target):
        raise UserError(
            f"--torch names a {type(target).__name__}, which is no class and no function."
        )
    asked = {parameter.name for parameter in parameters(target)}
    for word, value in answers.given.items():
        if word in namespace and word not in asked:
            namespace[word] = answers.told[word] = value
    if isinstance(namespace.get("device"), (str, torch.device)):
        namespace["device"] = type(namespace["device"])("cpu")
    with blamed(f"Building {described(target)}", WAY_OUT):
        model = answers.build(target, namespace)
    if unused := sorted(answers.given.keys() - answers.told.keys()):
        raise UserError(
            f"--torch-arg {in_a_row(unused, ', ')}: {described(target)} asks for no such thing."
        )
    return model


def _fill(
    module: torch.nn.Module, about: str, source: checkpoints.Checkpoint, weights: Collection[str]
) -> None:
    """Load the weights of `source` strictly, except masks, which not every version stores."""
    state = module.state_dict()
    own = dict(module.named_parameters(remove_duplicate=False))
    start = _start(state, source, weights)
    names = {name if name in state else start + name: name for name in source.tensors}
    loaded = {state[name].data_ptr() for name in names if name in state}
    alike = {name: old for name, old in names.items() if name in state}
    shapes = {
        name: (source.tensors[old].shape, tuple(state[name].shape)) for name, old in alike.items()
    }
    problems = [
        f"{names[name]} is {theirs} in the file and {ours} in the class"
        for name, (theirs, ours) in shapes.items()
        if theirs != ours and names[name] in weights
    ]
    problems += [
        f"it has no place for {old}"
        for name, old in names.items()
        if old in weights and name not in state
    ]
    problems += [
        f"its {name} is not in the file"
        for name in own
        if name in state and name not in names and state[name].data_ptr() not in loaded
    ]
    if problems:
        raise UserError(
            f"{source.path} does not load into {about}: {in_a_row(problems)}. {WAY_OUT}"
        )
    same = {name: source.tensors[old] for name, old in alike.items() if len({*shapes[name]}) == 1}
    with blamed(f"Loading {source.path} into {about}"):
        module.load_state_dict(
            {n: checkpoints.to_tensor(tensor.read()).double() for n, tensor in same.items()},
            strict=False,
        )


def _start(state: Collection[str], source: checkpoints.Checkpoint, weights: Collection[str]) -> str:
    """Prefix that maps file names to module names; either model may be nested in the other."""
    cuts = [name[: at + 1] for name in state for at, letter in enumerate(name) if letter == "."]
    prefix = source.prefix
    cuts += [prefix[at + 1 :] for at, letter in enumerate(prefix) if letter == "."] + [prefix]
    return max(
        sorted({"", *cuts}, key=len), key=lambda cut: sum(cut + name in state for name in weights)
    )
