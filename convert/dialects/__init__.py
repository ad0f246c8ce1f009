"""The registry of dialects: the DIALECTS and PAIRS of every module of this package, by name."""

import importlib
import pkgutil
from typing import Any

from jaxgpt.errors import UserError, instead_of

from ..rows.dialect import Dialect
from ..rows.pair import AnyDialect, Pair


def find_all(kind: str = "DIALECTS") -> dict[str, Any]:
    """All that the modules of this package list in a tuple called `kind`, by name."""
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    ]
    declared = [each for module in modules for each in getattr(module, kind, ())]
    return {each.name: each for each in sorted(declared, key=lambda each: each.name)}


DIALECTS: dict[str, Dialect] = find_all()
PAIRS: dict[str, Pair] = find_all("PAIRS")  # those of encoder-decoders


def named(name: str) -> AnyDialect:
    registry: dict[str, AnyDialect] = {**DIALECTS, **PAIRS}
    if name not in registry:
        raise UserError(f"There is no dialect {name}. {instead_of(name, registry)}")
    return registry[name]
