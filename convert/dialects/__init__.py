"""The registry of dialects: the DIALECTS of every module of this package, by name."""

import importlib
import pkgutil

from jaxgpt.errors import UserError, instead_of

from ..rows.dialect import Dialect


def find_all() -> dict[str, Dialect]:
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    ]
    declared = [dialect for module in modules for dialect in module.DIALECTS]
    return {dialect.name: dialect for dialect in sorted(declared, key=lambda dialect: dialect.name)}


DIALECTS = find_all()


def named(name: str) -> Dialect:
    if name not in DIALECTS:
        raise UserError(f"There is no dialect {name}. {instead_of(name, DIALECTS)}")
    return DIALECTS[name]
