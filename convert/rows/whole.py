"""Moves whole models, decoders or encoder-decoders, along the rows of their dialects.

`move` does it for one side; both sides of an encoder-decoder may have a row of the same tensor.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.seq2seq_config import AnyConfig

from ..streams import Stream
from . import move, parameters, regroup
from .kinds import part_of
from .labels import Place
from .move import Read
from .order import in_file_order
from .pair import AnyDialect, Pair, sides
from .resolve import express as express_side


@dataclass(frozen=True)
class Weight:
    """A tensor of a file that holds parameters, and the parameters that it holds."""

    torch: str
    flax: str  # a path, which may have places spread over several tensors
    part: str  # the label axis of the part of it in this tensor, "" for all
    place: Place
    shape: tuple[int, ...]  # of the tensor


def to_flax(
    dialect: AnyDialect,
    config: AnyConfig,
    read: Read,
    dtype: np.dtype | None = None,
    names: Iterable[str] = (),
) -> Tree:
    """Flax parameters from torch tensors; the arguments are those of `parameters.to_flax`."""
    names = list(names)
    flat: dict[str, np.ndarray] = {}
    for side in sides(dialect, config):
        tree = parameters.to_flax(side.dialect, side.config, read, dtype, names)
        flat |= {side.prefix + path: array for path, array in flatten(tree).items()}
    return unflatten(flat)


def deferred(
    dialect: AnyDialect,
    config: AnyConfig,
    read: Read,
    dtypes: Mapping[str, np.dtype],
    dtype: np.dtype | None = None,
) -> Tree:
    """The parameters of `to_flax`, each to be made when it is written."""
    return unflatten(
        {
            side.prefix + path: array
            for side in sides(dialect, config)
            for path, array in parameters.deferred(
                side.dialect, side.config, read, dtypes, dtype
            ).items()
        }
    )


def to_torch(dialect: AnyDialect, config: AnyConfig, params: Tree) -> dict[str, np.ndarray]:
    """Torch tensors by name, buffers included, in the order of the file or of the class."""
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    dtypes = {path: array.dtype for path, array in arrays.items()}
    return stream(dialect, config, dtypes, arrays.__getitem__).arrays()


def stream(
    dialect: AnyDialect, config: AnyConfig, dtypes: Mapping[str, np.dtype], read: Read
) -> Stream:
    """Torch tensors, as `move.stream` makes them; those of both sides are made for one."""
    streams: list[Stream] = []
    for side in sides(dialect, config):

        def read_own(path: str, prefix: str = side.prefix) -> np.ndarray:
            return read(prefix + path)

        own = {path: dtypes[side.prefix + path] for path in side.own(set(dtypes))}
        streams.append(move.stream(side.dialect, side.config, own, read_own))
    joint = _joined(*streams) if len(streams) > 1 else streams[0]
    ordered = _ordered(dialect, list(joint.tensors))
    return replace(joint, tensors={name: joint.tensors[name] for name in ordered})


def _joined(encoder: Stream, decoder: Stream) -> Stream:
    """The tensors of both sides; one that serves both must have the same values on both."""
    twins = {**encoder.twins}
    in_both: dict[str, str] = {}  # of tensors that the decoder makes -> the same of the encoder
    for first, names in decoder.sharing().items():
        there = [name for name in names if name in encoder.tensors]
        made = encoder.twins.get(there[0], there[0]) if there else first
        if there:
            in_both[first] = made
        twins |= {name: made for name in names if name not in encoder.tensors and name != made}

    def all_made() -> Iterator[tuple[str, np.ndarray]]:
        kept: dict[str, np.ndarray] = {}
        for name, array in encoder.made():
            if name in in_both.values():
                kept[name] = array
            yield name, array
        for name, array in decoder.made():
            if name not in in_both:
                yield name, array
            elif kept[in_both[name]].tobytes() != array.tobytes():
                raise UserError(
                    f"{in_both[name]} serves both sides of this class, but the encoder and the "
                    "decoder have different values of it. Files of this class cannot hold the "
                    "model."
                )

    return Stream({**encoder.tensors, **decoder.tensors}, twins, all_made)


def _ordered(dialect: AnyDialect, names: list[str]) -> list[str]:
    """`names` in the order of the file that the settled `dialect` is of, or else of its class."""
    if not isinstance(dialect, Pair):
        return names
    if sorted(dialect.order) == sorted(names):
        return list(dialect.order)
    modules = dialect.modules

    def place(name: str) -> int:
        inside = (i for i, module in enumerate(modules) if name.startswith(f"{module}."))
        return next(inside, len(modules))

    return sorted(names, key=place)


def order_of(dialect: AnyDialect, config: AnyConfig) -> list[str]:
    """All names of the settled `dialect` in the order of its file, or else of its class."""
    names = dict.fromkeys(
        name
        for side in sides(dialect, config)
        for name in in_file_order(side.dialect, move.sizes_of(side.config))
    )
    return _ordered(dialect, list(names))


def express(dialect: AnyDialect, config: AnyConfig, paths: Iterable[str]) -> AnyDialect:
    """The dialect as its class writes the model of `config`, with the parameters at `paths`."""
    paths = set(paths)
    expressed = [
        express_side(side.dialect, side.config, side.own(paths)) for side in sides(dialect, config)
    ]
    if isinstance(dialect, Pair):
        return replace(dialect, encoder=expressed[0], decoder=expressed[1])
    return expressed[0]


def weights(dialect: AnyDialect, config: AnyConfig) -> Iterator[Weight]:
    """Yield the tensors of the settled `dialect` that hold parameters, side by side."""
    for side in sides(dialect, config):
        sizes = move.sizes_of(side.config)
        for flax, torch in side.dialect.views:
            for place in torch.places(sizes):
                shape = torch.shape(sizes, place)
                part = part_of(torch.dims)
                yield Weight(torch.at(place), side.prefix + flax.name, part, place, shape)


def names(dialect: AnyDialect, config: AnyConfig) -> set[str]:
    """The names of the tensors that hold parameters, without buffers."""
    return {weight.torch for weight in weights(dialect, config)}


def repeated(dialect: AnyDialect, config: AnyConfig) -> list[str]:
    """The tensors of which one value stands for several of the model, as patterns of names.

    Such are matrices that all heads share, and norms with one number. The class trains them as one,
    and the model each of its values on its own.
    """
    views = (views for side in sides(dialect, config) for views in side.dialect.views)
    return [torch.name for flax, torch in views if regroup.repeats(torch, flax)]


def paths(dialect: AnyDialect, config: AnyConfig) -> set[str]:
    """The paths of the parameters that the settled `dialect` has."""
    return {
        side.prefix + path
        for side in sides(dialect, config)
        for path in move.flax_paths(side.dialect, move.sizes_of(side.config))
    }


def filled(dialect: AnyDialect, config: AnyConfig, paths: set[str]) -> list[str]:
    """The Flax paths of biases that the class has and the model lacks, written as zeros."""
    return [
        side.prefix + path
        for side in sides(dialect, config)
        for path in move.filled(side.dialect, side.config, side.own(paths))
    ]


def require_expressible(dialect: AnyDialect, config: AnyConfig, paths: set[str]) -> None:
    """Require that files of `dialect` have a place for every parameter and choice of the model."""
    for side in sides(dialect, config):
        move.require_expressible(side.dialect, side.config, side.own(paths))
