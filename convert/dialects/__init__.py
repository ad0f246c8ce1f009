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


def table() -> str:
    """The Markdown table of all dialects that `docs/bridge.md` shows."""
    rows = [
        "| dialect | class | usual, where nothing says otherwise | heads |",
        "|---|---|---|---|",
    ]
    for dialect in DIALECTS.values():
        usual = (
            f"{dialect.unsaid['norm']}-norm, {dialect.unsaid['activation']}, "
            f"dropout {dialect.unsaid['dropout']}"
        )
        heads = (
            "counted"
            if any("{head}" in "".join(map(str, row.torch.pieces)) for row in dialect.rows)
            else "from a config, or asked for"
        )
        rows.append(f"| `{dialect.name}` | {dialect.about} | {usual} | {heads} |")
    return "\n".join(rows)
