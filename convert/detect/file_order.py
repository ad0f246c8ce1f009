"""Records the names and the order of a file's tensors in its dialect, to write them back."""

from collections.abc import Collection
from dataclasses import replace

from jaxgpt.config import ModelConfig

from ..renaming.renamed import Renamed
from ..rows.dialect import Dialect
from ..rows.move import sizes_of
from ..rows.order import in_module_order


def as_in_file(
    dialect: Dialect, config: ModelConfig, names: Collection[str], renamed: Renamed | None
) -> Dialect:
    """`dialect` with the file's own names for renamed tensors, and with the file's order where
    that differs from the order of the class."""
    sizes = sizes_of(config)
    present = {*in_module_order(list(dialect.tensors), sizes)}
    order = [name for name in names if name in present]
    if renamed:
        own = {new: old for old, new in renamed.names.items()}
        dialect, order = renamed.in_file(dialect, sizes), [own[name] for name in order]
    usual = in_module_order(list(dialect.tensors), sizes)
    return dialect if order == usual else replace(dialect, order=tuple(order))
