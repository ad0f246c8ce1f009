"""Builds a foreign torch class, and loads a checkpoint into it.

As this runs code, only classes that the user or a dialect names are built.
"""

import importlib.util
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jaxgpt.errors import UserError, in_a_row

from ..files import checkpoints
from .config_objects import described, parameters
from .constructor_args import WAY_OUT, Answers
from .fitted_sizes import confirm, fit
from .float64 import exact_tensor, in_float64, widened
from .forward import blamed
from .imports import at_home, find
from .tables import ROUNDED, sharpen, sinusoids_like

# Bytes per parameter: float64 in torch, in a copy, in numpy and on the device; and twice as read.
BYTES = 40


@dataclass(frozen=True)
class Peer:
    """A torch module with the weights of a file."""

    module: torch.nn.Module
    about: str  # its name and arguments, for the user
    answers: Answers  # its constructor arguments
    names: Mapping[str, str]  # names of the tensors in the file -> those in the module


def hindrance(named: str, parameters: int) -> str:
    """The reason why the class `named` of a dialect cannot be run; "" if it can."""
    library = named.partition(":")[0]
    if not named:
        return "--torch module:Class would run your own beside the model."
    if importlib.util.find_spec(library) is None:
        return f"Installing {library} would run its class beside the model."
    needed = BYTES * parameters
    if not hasattr(os, "sysconf"):
        return ""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        gigabytes = (
            f"some {needed / 2**30:.0f} GB of memory, of which there are {available / 2**30:.0f}"
        )
        return f"To run its class and the model in float64 takes {gigabytes}."
    return ""


def build(
    named: str,
    answers: Answers,
    source: checkpoints.Checkpoint,
    weights: Collection[str],
    home: Sequence[str] = (),
) -> Peer:
    """Build the model `named` and load the tensors of `source` into it.

    `named` is module:Name or path/to/file.py:Name, of a class or of a function that returns a
    model; `weights` are the tensors of the file except masks; modules are looked for in the
    folders `home` first.
    """
    place, _, name = named.rpartition(":")
    if not place or not name:
        raise UserError(f"--torch takes module:Class or path/to/file.py:Class, but got {named!r}.")
    with at_home(home), in_float64():
        with blamed(f"Importing {place}"):
            target, namespace = find(place, name)

        def made() -> Peer:
            module = _built(target, namespace, answers)
            if not isinstance(module, torch.nn.Module):
                raise UserError(f"{named} gives a {type(module).__name__}, and no torch.nn.Module.")
            words = ", ".join(f"{word} = {value!r}" for word, value in answers.told.items())
            about = f"{named}, built with {words or 'no arguments'}" if home else named
            return build_of(module, answers, source, weights, about)

        def wanted(state: Collection[str]) -> dict[str, tuple[int, ...]]:
            names = _names(state, source, weights)
            return {new: source.tensors[old].shape for old, new in names.items()}

        if isinstance(target, torch.nn.Module):
            return made()
        try:
            peer = made()
        except UserError:
            if not fit(answers, lambda trial: trial.build(target, namespace), wanted):
                raise
            peer = made()
        confirm(answers, lambda trial: trial.build(target, namespace))
        return peer


def build_of(
    module: torch.nn.Module,
    answers: Answers,
    source: checkpoints.Checkpoint,
    weights: Collection[str],
    about: str = "",
) -> Peer:
    """Load the tensors of `source` into `module`, which is changed; `about` names it for users."""
    about = about or f"a {type(module).__name__}"
    module = widened(module)
    names, loaded = _fill(module, about, source, weights)
    sharpen(module, loaded)
    return Peer(module, about, answers, names)


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
) -> tuple[dict[str, str], Collection[str]]:
    """Load the weights of `source` strictly, except masks, which not every version stores.

    The result maps names in the file to those in the module, and lists those that were loaded.
    """
    state = module.state_dict()
    names = _names(state, source, weights)
    names |= _renamed(module, names, source, weights)
    problems = [
        *_unlike_shapes(state, names, source, weights),
        *(
            f"it has no place for {old}"
            for old in names
            if old in weights and names[old] not in state
        ),
        *(f"its {name} is not in the file" for name in _unfilled(module, names.values())),
    ]
    if problems:
        raise UserError(
            f"{source.path} does not load into {about}: {in_a_row(problems)}. {WAY_OUT}"
        )
    tensors = {
        new: exact_tensor(checkpoints.to_tensor(source.tensors[old].read()))
        for old, new in names.items()
        if new in state and source.tensors[old].shape == tuple(state[new].shape)
    }
    for name in _own_tables(module, tensors):
        del tensors[name]
    with blamed(f"Loading {source.path} into {about}"):
        torch.nn.Module.load_state_dict(module, tensors, strict=False)
    return names, tensors.keys()


def _own_tables(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Collection[str]:
    """The names of buffers that the class has made itself, in float64, and the file rounded.

    Sinusoids, and other tables as wide as an embedding, are not among them: the model has those of
    the file, unless they are rotary.
    """
    wide = {m.embedding_dim for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    return [
        name
        for name, own in module.named_buffers()
        if name in tensors
        and (own.is_floating_point() or own.is_complex())
        and (own - tensors[name]).abs().max() <= ROUNDED * max(own.shape, default=1)
        and sinusoids_like(own.squeeze().numpy()) is None
        and (own.shape[-1:] != (max(wide, default=0),) or re.search("cos|sin(?!u)", name))
    ]


def _renamed(
    module: torch.nn.Module,
    names: Mapping[str, str],
    source: checkpoints.Checkpoint,
    weights: Collection[str],
) -> dict[str, str]:
    """The one tensor without a place, if it has the shape of the one parameter without a tensor.

    transformers renames such tensors when it opens a folder: the head of GPT-NeoX has another name.
    """
    state = module.state_dict()
    unplaced = [old for old in names if old in weights and names[old] not in state]
    unfilled = list(_unfilled(module, names.values()))
    if len(unplaced) != 1 or len(unfilled) != 1:
        return {}
    same = source.tensors[unplaced[0]].shape == tuple(state[unfilled[0]].shape)
    return {unplaced[0]: unfilled[0]} if same else {}


def _unlike_shapes(
    state: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    source: checkpoints.Checkpoint,
    weights: Collection[str],
) -> Iterator[str]:
    for old, new in names.items():
        if old in weights and new in state:
            theirs, ours = source.tensors[old].shape, tuple(state[new].shape)
            if theirs != ours:
                yield f"{old} is {theirs} in the file and {ours} in the class"


def _unfilled(module: torch.nn.Module, filled: Collection[str]) -> Iterator[str]:
    """Yield the names of parameters that are not among `filled`, nor tied to one that is.

    Parameters that are never trained, such as sinusoids, are made by the class itself.
    """
    state = module.state_dict()
    loaded = {state[name].data_ptr() for name in filled if name in state}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        if name in state and name not in filled and state[name].data_ptr() not in loaded:
            yield name


def _names(
    state: Collection[str], source: checkpoints.Checkpoint, weights: Collection[str]
) -> dict[str, str]:
    """The names of the file's tensors in the module; either model may be nested in the other."""
    cuts = [name[: at + 1] for name in state for at, letter in enumerate(name) if letter == "."]
    prefix = source.prefix
    cuts += [prefix[at + 1 :] for at, letter in enumerate(prefix) if letter == "."] + [prefix]
    start = max(
        sorted({"", *cuts}, key=len), key=lambda cut: sum(cut + name in state for name in weights)
    )
    return {name: name if name in state else start + name for name in source.tensors}
