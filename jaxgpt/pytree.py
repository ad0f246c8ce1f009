"""Nested dicts of arrays by path: flatten, unflatten, compare. Independent of models and files."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.errors import UserError

# Nested; every leaf is an array, an abstract one (shape and dtype), or a Deferred one.
Tree = dict[str, Any]


@dataclass(frozen=True)
class Deferred:
    """An array that is made when it is written, and not kept."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}"""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}/")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def require_same(expected: Mapping[str, Any], got: Mapping[str, Any], what: str) -> None:
    """Require that `got` has the paths and shapes of `expected`; name all differences at once."""
    want, have = flatten(expected), flatten(got)
    problems = [f"{path} is missing" for path in want if path not in have]
    problems += [f"{path} is not expected" for path in have if path not in want]
    problems += [
        f"{path} is {tuple(have[path].shape)}, expected {tuple(want[path].shape)}"
        for path in want
        if path in have and tuple(have[path].shape) != tuple(want[path].shape)
    ]
    if problems:
        raise UserError(f"{what} does not fit the model: {'; '.join(problems)}.")
