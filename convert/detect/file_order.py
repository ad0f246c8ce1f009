"""The order of the tensors in a file, which its dialect keeps for the way back."""

from collections.abc import Collection
from dataclasses import replace

from jaxgpt.config import ModelConfig

from ..rows.dialect import Dialect
from ..rows.move import sizes_of
from ..rows.order import in_module_order


def as_in_file(dialect: Dialect, config: ModelConfig, names: Collection[str]) -> Dialect:
    """`dialect` with the order of the names in `names`, if it is another than that of the class."""
    usual = in_module_order(list(dialect.tensors), sizes_of(config))
    present = {*usual}
    order = [name for name in names if name in present]
    return dialect if order == usual else replace(dialect, order=tuple(order))
