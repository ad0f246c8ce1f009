"""Single changes to a torch module after which it agrees with a JAX function, to say where to look.

The changes tried are the other form of GELU, transposed square matrices and the usual epsilons of
norms: in one module, in the modules of the same name in all layers, and in all modules.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

import torch

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-7, 1e-3)
WORDS = ("eps", "epsilon", "variance_epsilon")
MOST = 200  # the most changes to try


def repair(module: torch.nn.Module, agrees: Callable[[], bool]) -> str:
    """The first change after which `agrees` holds, as the end of a sentence; "" if none does.

    `module` is changed temporarily for each trial.
    """
    changes = itertools.chain(_gelus(), _transposes(module), _epsilons(module))
    for text, change in itertools.islice(changes, MOST):
        with change:
            if agrees():
                return text
    return ""


def _gelus() -> Iterator[tuple[str, contextlib.AbstractContextManager]]:
    yield "tanh for erf, or erf for tanh, in GELU (jax.nn.gelu has tanh by default)", _other_gelu()


@contextlib.contextmanager
def _other_gelu() -> Iterator[None]:
    functions = torch.nn.functional
    gelu = functions.gelu

    def other(input: torch.Tensor, approximate: str = "none") -> torch.Tensor:
        return gelu(input, approximate="none" if approximate == "tanh" else "tanh")

    functions.gelu = other
    try:
        yield
    finally:
        functions.gelu = gelu


def _transposes(module: torch.nn.Module) -> Iterator[tuple[str, contextlib.AbstractContextManager]]:
    square = {
        name: value
        for name, value in module.named_parameters()
        if value.ndim == 2 and value.shape[0] == value.shape[1]
    }
    for names in _together(square):
        yield f"{' and '.join(names)} transposed", _transposed([square[name] for name in names])


def _epsilons(module: torch.nn.Module) -> Iterator[tuple[str, contextlib.AbstractContextManager]]:
    norms = {
        name: (part, word)
        for name, part in module.named_modules()
        for word in WORDS
        if isinstance(getattr(part, word, None), float)
    }
    for names, value in itertools.product(list(_together(norms)), EPSILONS):
        old = {getattr(part, word) for part, word in (norms[name] for name in names)}
        if old != {value}:
            now = f"{value:g} in place of {' and '.join(f'{each:g}' for each in sorted(old))}"
            parts = [norms[name] for name in names]
            yield f"an epsilon of {now} in {' and '.join(names)}", _with_epsilon(parts, value)


def _together(names: Iterable[str]) -> Iterator[list[str]]:
    """Each of `names` alone, then groups of names that differ only in numbers, then all."""
    names = list(names)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    groups = [*([name] for name in names), *alike.values(), names]
    yield from (list(group) for group in dict.fromkeys(map(tuple, groups)) if group)


@contextlib.contextmanager
def _transposed(matrices: list[torch.nn.Parameter]) -> Iterator[None]:
    def turn() -> None:
        for matrix in matrices:
            matrix.data = matrix.data.T

    turn()
    try:
        yield
    finally:
        turn()


@contextlib.contextmanager
def _with_epsilon(parts: list[tuple[torch.nn.Module, str]], value: float) -> Iterator[None]:
    before = [getattr(part, word) for part, word in parts]
    try:
        for part, word in parts:
            setattr(part, word, value)
        yield
    finally:
        for (part, word), old in zip(parts, before, strict=True):
            setattr(part, word, old)
