"""A foreign module and the tensors of its file, as the measurements of its fields need them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.seq2seq_config import ENCODER, Seq2SeqConfig

from ..rows import move, parameters
from ..rows.dialect import Dialect
from .attention import Heads, Rotation
from .norm import Norm
from .runs import Runs
from .trace import Seen


class Differs(UserError):
    """The class computes something that the model does not, whatever the values of its fields."""

    @classmethod
    def first_in(cls, where: str, why: str, file: object) -> "Differs":
        """The error for a `file` whose class and model differ, first in the stage `where`."""
        return cls(f"{file}: its class and the model DIFFER, first in {where}: {why}.")


class Parted(Exception):
    """A stage of the class computes something that no values of the fields give."""

    part = 0  # how late in the stage the two part; the later, the further they agree

    def __init__(self, where: str, why: str, part: int | None = None):
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why
        self.part = self.part if part is None else part

    @property
    def progress(self) -> tuple[int, int]:
        """How far the class and the model agree."""
        block, _, layer = self.where.replace("encoder ", "").partition(" ")
        stage = 1 + int(layer) if block == "block" else 0 if layer == "embedding" else 10**9
        after = 0 if "encoder" in self.where else 10**6
        return after + stage, self.part


class UnknownScores(Parted):
    """The scores of a block are computed in none of the ways that were tried."""

    part = 2


class OtherHeads(Parted):
    """The attention of a side has another number of heads."""

    def __init__(self, where: str, field: str, heads: int):
        super().__init__(where, f"its attention mixes values in {heads} heads")
        self.field, self.heads = field, heads


class UnknownExit(Parted):
    """The input of the head is neither the output of the last block nor its final norm."""

    part = 2


def furthest_of(one: Parted | None, other: Parted) -> Parted:
    """The one of the two for which the class and the model agree further."""
    return other if one is None or other.progress > one.progress else one


Solve = Callable[[Heads, torch.Tensor, Rotation | None], Iterator[Rotation]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A module with the weights of a file, in the roles that a dialect gives them."""

    runs: Runs
    dialect: Dialect
    config: ModelConfig  # only its sizes and the fields that tensors show are right
    read: Callable[[str], np.ndarray]
    solve: Solve  # the rotations that may give some weights
    decoder: "Subject | None" = None  # that of an encoder
    memory: torch.Tensor | None = None  # what a decoder attends to in texts of two tokens

    @functools.cached_property
    def params(self) -> dict[str, torch.Tensor]:
        """The parameters by their Flax paths; pairs of elements are as in the file."""
        config = self.config
        if not config.position_rows:
            config = dataclasses.replace(config, positions="none")
        flat = flatten(parameters.to_flax(self.dialect, config, self.read))
        return {path: torch.from_numpy(np.array(a, np.float64)) for path, a in flat.items()}

    def param(self, path: str, layer: int | None = None) -> torch.Tensor | None:
        """The parameter at `path`, of a layer where one is named; None if there is none."""
        value = self.params.get(path)
        return value if value is None or layer is None else value[layer]

    def norm_params(self, name: str, layer: int | None = None) -> tuple[Any, Any]:
        """Scale and bias of the norm `name`."""
        return self.param(f"{name}/scale", layer), self.param(f"{name}/bias", layer)

    def has_norm(self, name: str) -> bool:
        """Whether there may be a norm `name`: it has weights, or no norm has."""
        return not self.config.norm_weight or f"{name}/scale" in self.params

    def torch_name(self, path: str, layer: int = 0) -> str | None:
        """A tensor of the file that is part of the parameter at `path`."""
        return next(self.torch_names(path, layer), None)

    def torch_names(self, path: str, layer: int = 0) -> Iterator[str]:
        """Yield the tensors of the file that are part of the parameter at `path`."""
        sizes = move.sizes_of(self.config)
        for flax, torch_view in self.dialect.views:
            if flax.name == path:
                for place in torch_view.places(sizes):
                    if place.get("layer", layer) == layer:
                        yield torch_view.at(place)

    def attention_inputs(self, layer: int, seen: Seen | None = None) -> list[torch.Tensor]:
        """What may be the input of self-attention in `layer`, in texts of two tokens or `seen`."""
        name, seen = self.torch_name("blocks/attn/qkv/kernel", layer), seen or self.pairs_of_tokens
        return list(seen.inputs_of(name, self.config.model_dim)) if name else []

    def cross_inputs(self, layer: int) -> list[torch.Tensor]:
        """The inputs of the matrices of cross-attention in `layer`."""
        names = dict.fromkeys(self.torch_names("blocks/cross_attn/qkv/kernel", layer))
        seen, width = self.pairs_of_tokens, self.config.model_dim
        return [each for name in names for each in seen.inputs_of(name, width)]

    @property
    def pairs_of_tokens(self) -> Seen:
        """The recorded run on texts of two tokens."""
        return self.runs.pairs_of_tokens

    @property
    def ids(self) -> torch.Tensor:
        """The texts of two tokens that this side gets."""
        seen = self.pairs_of_tokens
        return seen.ids if self.decoder is None or seen.other is None else seen.other

    @property
    def table(self) -> torch.Tensor:
        """The token embedding, which may be that of the decoder."""
        path = "token_embedding/embedding"
        if path not in self.params and self.decoder is not None:
            return self.decoder.table
        return self.params[path]

    @property
    def last_block(self) -> str:
        return self.block(self.config.num_blocks - 1)

    @property
    def of_pair(self) -> bool:
        """Whether this is a side of an encoder-decoder."""
        return isinstance(self.runs.config, Seq2SeqConfig)

    @property
    def prefix(self) -> str:
        """The prefix of the names of this side's fields."""
        return "" if self.decoder is None else ENCODER

    @property
    def embedding(self) -> str:
        """The name of the stage before the blocks, for users."""
        return "the embedding" if self.decoder is None else "the encoder embedding"

    def block(self, layer: int) -> str:
        """The name of block `layer`, for users."""
        return f"block {layer}" if self.decoder is None else f"encoder block {layer}"

    def gets(self, path: str, layer: int, width: int) -> torch.Tensor | None:
        """The input of the matrix at `path` in `layer`, for texts of two tokens."""
        return self.observed(self.pairs_of_tokens, f"blocks/{path}/kernel", layer, width)

    def observed(self, seen: Seen, path: str, layer: int, width: int) -> torch.Tensor | None:
        """The input of the matrix at `path` in `layer` in the run `seen`, as (B, T, `width`)."""
        name = self.torch_name(path, layer)
        return seen.input_of(name, width) if name else None

    def linear(self, path: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        """`x` (B, T, ...) times the kernel at `path`, plus its bias if there is one."""
        kernel = self.params[f"{path}/kernel"][layer]
        bias = self.param(f"{path}/bias", layer)
        axes = 2 if path.endswith("attn/out") else 1
        y = torch.tensordot(x, kernel, axes)
        return y if bias is None else y + bias


@dataclasses.dataclass(frozen=True)
class BlockForm:
    """How the parts of a block are joined, the same in all layers."""

    norm: Norm
    placement: str
    residual: str
    sandwich: bool
    qk_norm: str = "none"
    activation: str = "relu"
