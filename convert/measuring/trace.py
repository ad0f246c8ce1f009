"""The forward of a foreign module as a list of operations, each with the weights that it uses.

A weight is followed through views, casts and sums of weights alone, so that it does not matter
whether a class has modules, bare parameters, or builds new matrices in its forward.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..foreign.float64 import in_float64

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution")
LOOKUPS = ("embedding", "index", "index_select", "gather")
# (ids, what they attend to or None) -> logits.
Run = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
FEW = 8  # rows that show how a class is called
TWINS = 2  # the first rows of a batch are the same text, which tells batch and time apart


@dataclass(frozen=True)
class Use:
    """An operation on weights and other values."""

    op: str
    names: frozenset[str]  # the weights
    inputs: tuple[torch.Tensor, ...]  # the other values
    output: torch.Tensor
    at: int  # its number among all operations


class Trace(TorchDispatchMode):
    """Records the uses of the weights of `module`, named by `names` (module's name -> ours)."""

    def __init__(self, module: torch.nn.Module, names: Mapping[str, str], width: int):
        super().__init__()
        self.uses: list[Use] = []
        self.values: list[tuple[int, torch.Tensor]] = []  # those of `width` features, with `at`
        self._width, self._at = width, 0
        self._sources: dict[int, frozenset[str]] = {}
        self._alive: list[torch.Tensor] = []  # keeps values alive, so that no address is reused
        for name, value in module.state_dict(keep_vars=True).items():
            if name in names and (key := _storage(value)):
                self._sources[key] = self._sources.get(key, frozenset()) | {names[name]}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._at += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        names = [self._sources.get(_storage(tensor)) for tensor in tensors]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        union = frozenset().union(*filter(None, names))
        if tensors and all(names):
            for output in outputs:
                self._sources.setdefault(_storage(output), union)
                self._alive.append(output)
            return result
        if union and outputs:
            others = zip(tensors, names, strict=True)
            inputs = tuple(_copy(tensor) for tensor, own in others if not own)
            op = func.overloadpacket.__name__
            self.uses.append(Use(op, union, inputs, _copy(outputs[0]), self._at))
        for output in outputs[:1]:
            if output.is_floating_point() and output.numel() and not output.numel() % self._width:
                self.values.append((self._at, output.detach()))
        return result


@dataclass(frozen=True)
class Seen:
    """The recorded run of a module on `ids` (B, T), whose first rows are equal.

    So are those of `other`, the sources (B, S) or the memory (B, S, D) that it attends to.
    """

    ids: torch.Tensor
    other: torch.Tensor | None
    uses: list[Use]
    values: list[tuple[int, torch.Tensor]]
    logits: torch.Tensor

    @staticmethod
    def of(
        trace: Trace, run: Run, ids: torch.Tensor, width: int, other: torch.Tensor | None = None
    ) -> "Seen":
        """Record by `trace` what `run` computes for `ids` and `other`; streams have `width`."""
        with torch.no_grad(), in_float64():
            # This finds how the class is called, which is no part of the record.
            run(ids[:FEW], None if other is None else other[:FEW])
            with trace:
                logits = run(ids, other)
        values = [
            (at, value)
            for at, value in trace.values
            if value.numel() == ids.numel() * width and value.dtype == torch.float64
        ]
        return Seen(ids, other, trace.uses, values, logits.detach())

    def products(self, name: str) -> list[Use]:
        """The products with the matrix `name`, or with one made of it."""
        return [use for use in self.uses if name in use.names and use.op in PRODUCTS]

    def input_of(self, name: str, width: int) -> torch.Tensor | None:
        """The input of the last product with the matrix `name`, as (B, T, `width`)."""
        return next(self.inputs_of(name, width), None)

    def inputs_of(self, name: str, width: int) -> Iterator[torch.Tensor]:
        """Yield the input of each product with the matrix `name`, the last product first.

        A matrix that all heads share gets the `width` in parts, one for each head; they may come
        before the positions or after them.
        """
        for use in reversed(self.products(name)):
            for value in use.inputs:
                turned = value.mT if value.ndim > 1 else value
                fitting = [rows for rows in (value, turned) if rows.shape[-1] == width]
                whole = value.numel() == self.ids.numel() * width
                if not fitting and whole and width % value.shape[-1] == 0:
                    fitting = [value, self._with_heads_last(value)]
                for rows in fitting:
                    if (ordered := self.in_order(rows, width)) is not None:
                        yield ordered

    def _with_heads_last(self, value: torch.Tensor) -> torch.Tensor:
        """The parts of a batch that come by head, then by position, the other way round."""
        batch, time = self.ids.shape
        return value.reshape(batch, -1, time, value.shape[-1]).transpose(1, 2)

    def in_order(self, value: torch.Tensor, width: int) -> torch.Tensor | None:
        """`value` as (B, T, `width`), whether batch or time came first; None for other shapes."""
        batch, time = self.ids.shape
        if value.numel() != batch * time * width:
            return None
        for rows in (
            value.reshape(batch, time, width),
            value.reshape(time, batch, width).transpose(0, 1),
        ):
            if torch.equal(rows[0], rows[1]) or torch.allclose(rows[0], rows[1], 1e-12, 1e-14):
                return rows
        return None

    def ordered_values(self, width: int, last: int = 2**62) -> list[torch.Tensor]:
        """The recorded values of `width` features up to operation `last`, the latest first."""
        rows = (self.in_order(value, width) for at, value in reversed(self.values) if at <= last)
        return [value for value in rows if value is not None]


def _storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor without storage, such as a sparse one
        return 0


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()
