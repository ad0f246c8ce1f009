"""Reads a recorded run: which matrices multiply what, and where norms are used."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from jaxgpt.errors import UserError

from ..names.tensor_names import NUMBER, folded, is_mask
from .norm import measured, same
from .trace import LOOKUPS, Seen, Use

Read = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Matrix:
    """A matrix of a block: its folded name, and what it multiplies."""

    name: str
    shape: tuple[int, ...]
    at: int
    x: torch.Tensor
    transposed: bool  # (in, out), unlike torch's Linear, which has (out, in)
    bias: str  # its folded name, or ""

    @property
    def out(self) -> int:
        return self.shape[-1 if self.transposed else 0]


class Reader:
    """Reads the roles from a recorded run; `shapes` and `read` are of the tensors of the file."""

    def __init__(self, seen: Seen, shapes: Mapping[str, tuple[int, ...]], read: Read):
        self.seen, self.shapes, self.read = seen, dict(shapes), read
        table, lists, odd = folded(self.shapes, "layer", lambda block: len(block) > 2)
        if odd or len(lists) != 1:
            raise UserError("its tensors show no single list of blocks, all with the same tensors")
        self.stem, self.blocks = next((stem, len(blocks)) for stem, blocks in lists.items())
        _, heads, _ = folded(table, "head", lambda h: len(h) == 3 and len({*h.values()}) == 1)
        self.head_stems = tuple(heads)

    def folded(self, name: str) -> str:
        """`name` with {layer} and {head} in place of numbers."""
        if name.startswith(self.stem):
            name = self.stem + re.sub(r"^\d+", "{layer}", name[len(self.stem) :])
        for stem in self.head_stems:
            if name.startswith(stem):
                name = stem + re.sub(NUMBER, "{head}.", name[len(stem) :], count=1)
        return name

    def value(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.read(name), np.float64))

    def blocks_name(self, name: str) -> bool:
        return name.startswith(self.stem)

    def of_layer(self, name: str, layer: int) -> bool:
        return name.startswith(f"{self.stem}{layer}.")

    def token(self) -> str:
        """The table in which the ids themselves are looked up."""
        for use in self.seen.uses:
            looked_up = [x.flatten() for x in use.inputs if not x.is_floating_point()]
            orders = (
                self.seen.ids.flatten(),
                self.seen.ids.T.flatten(),
            )  # the class may want (T, B)
            if use.op in LOOKUPS and any(torch.equal(x, ids) for x in looked_up for ids in orders):
                return min(use.names, key=list(self.shapes).index)
        raise UserError("it looks its ids up in no table of the file")

    def matrices(self) -> list[Matrix]:
        """The matrices of block 0, in the order of their first use."""
        names = dict.fromkeys(
            name for use in self.seen.uses if use.op != "add" for name in sorted(use.names)
        )
        found: dict[str, Matrix] = {}
        for name in names:
            if self.of_layer(name, 0) and len(self.shapes[name]) == 2 and not is_mask(name, (0,)):
                each = self.matrix(name)
                if each and each.name not in found:
                    found[each.name] = each
        return sorted(found.values(), key=lambda each: each.at)

    def matrix(self, name: str) -> Matrix | None:
        """The matrix `name`, if it is multiplied with something."""
        products = self.seen.products(name)
        if not products:
            return None
        outs, ins = self.shapes[name]
        value = self.value(name)
        for width, transposed in ((ins, False), (outs, True)):
            x = self.seen.input_of(name, width)
            if x is None:
                continue
            y = x @ (value if transposed else value.T)
            bias = self._bias(products[-1], name, y)
            if bias is not None:
                shape = self.shapes[name]
                return Matrix(self.folded(name), shape, products[0].at, x, transposed, bias)
        return None

    def _bias(self, use: Use, name: str, y: torch.Tensor) -> str | None:
        """The bias of the product `use`, which is `y` without it; None if it is another product."""
        width, others = y.shape[-1], sorted(use.names - {name})
        for other in others:
            if self.shapes[other] == (width,) and _same_numbers(use.output, y + self.value(other)):
                return self.folded(other)
        if use.output.numel() != y.numel():  # of a part of the matrix
            return ""
        if others or not _same_numbers(use.output, y):
            return None
        for later in self.seen.uses:
            if later.op.startswith("add") and len(later.names) == 1 and later.at > use.at:
                (other,) = later.names
                is_bias = self.shapes[other] == (width,) and later.inputs
                if is_bias and _same_numbers(later.inputs[0], y):
                    return self.folded(other)
        return self._bias_by_name(name, width)

    def _bias_by_name(self, name: str, width: int) -> str:
        """The bias with the name of its matrix, which may be added to more than their product."""
        bias = f"{name.removesuffix('.weight')}.bias"
        adds = any(use.op.startswith("add") and bias in use.names for use in self.seen.uses)
        return self.folded(bias) if adds and self.shapes[bias] == (width,) else ""

    def norms(self) -> list[tuple[int, str, str, torch.Tensor]]:
        """(when, scale, bias or "", output) of each norm with weights, in the order of use."""
        events: list[tuple[int, str, str, torch.Tensor]] = []
        uses = self.seen.uses
        for i, use in enumerate(uses):
            names = sorted(use.names, key=list(self.shapes).index)
            vectors = [name for name in names if len(self.shapes[name]) == 1]
            if not vectors or len(vectors) != len(names) or not use.inputs:
                continue
            if use.op.startswith("mul"):
                bias, output = "", use.output
                for later in uses[i + 1 : i + 3]:
                    if _adds_to(use.output, later):
                        bias, output = min(later.names), later.output
                events.append((use.at, vectors[0], bias, output))
            elif "norm" in use.op:
                events.append((use.at, *self._scale_and_bias(use, vectors), use.output))
        return events

    def _scale_and_bias(self, use: Use, names: list[str]) -> tuple[str, str]:
        if len(names) == 1:
            return names[0], ""
        values = [self.value(name) for name in names]
        one = measured(use.inputs[0], use.output, (values[0], values[1]), True)
        return (names[0], names[1]) if one else (names[1], names[0])


def _same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same numbers, whether batch or time comes first."""
    if one.numel() != other.numel():
        return False
    width = other.shape[-1]
    if one.ndim and one.shape[-1] == width:
        one, other = one.reshape(-1, width), other.reshape(-1, width)
    return same(one.flatten().sort().values, other.flatten().sort().values)


def _adds_to(value: torch.Tensor, use: Use) -> bool:
    """Whether `use` adds a single weight to `value`."""
    adds = use.op.startswith("add") and len(use.names) == 1 and bool(use.inputs)
    return adds and _same_numbers(use.inputs[0], value)
