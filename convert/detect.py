"""From tensor names and shapes to a dialect and a ModelConfig, saying of each field how it is known."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from convert.bridge import Fit, fit, parameter_rows
from convert.dialects import DIALECTS
from convert.rows import FIELDS, Dialect
from convert.suspect import in_a_row
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.settings import check


@dataclass(frozen=True)
class Report:
    """Each field of ModelConfig stands in exactly one of the three."""

    read: dict[str, Any]  # tensors show it
    given: dict[str, Any]  # the caller said it
    assumed: dict[str, Any]  # nobody said it: the dialect's usual value

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**self.read, **self.given, **self.assumed)


@dataclass(frozen=True)
class Detected:
    dialect: Dialect
    fit: Fit
    report: Report


def detect(shapes: Mapping[str, tuple[int, ...]], path: object, name: str | None, given: Mapping[str, Any]) -> Detected:
    check(ModelConfig, given, "--set")
    found = _choose(shapes, path, name)
    read = _read_fields(found)
    contradictions = [
        f"{field} = {given[field]} was given, but the tensors show {read[field]}"
        for field in read
        if field in given and given[field] != read[field]
    ]
    if contradictions:
        raise UserError(f"{path}: {'; '.join(contradictions)}. Leave out what the file itself says.")
    said = {field: value for field, value in given.items() if field not in read}
    assumed = {field: value for field, value in found.dialect.unsaid.items() if field not in said}
    return Detected(found.dialect, found, Report(read, said, assumed))


def _choose(shapes: Mapping[str, tuple[int, ...]], path: object, name: str | None) -> Fit:
    if name is not None and name not in DIALECTS:
        raise UserError(f"There is no dialect {name}. There are: {', '.join(DIALECTS)}.")
    fits = [fit(dialect, shapes) for dialect in ([DIALECTS[name]] if name else DIALECTS.values())]
    whole = [found for found in fits if not found.problems]
    if len(whole) == 1:
        return whole[0]
    if whole:
        names = " and ".join(found.dialect.name for found in whole)
        raise UserError(f"{path}: its tensors fit the dialects {names}; choose one with --dialect.")
    nearest = max(fits, key=lambda found: found.claimed)
    wrong = in_a_row(nearest.problems, most=1000)
    raise UserError(
        f"{path}: its {len(shapes)} tensors fit no known dialect. The nearest is {nearest.dialect.name} "
        f"({nearest.dialect.about}), for which {len(nearest.problems)} things are wrong: {wrong}."
    )


def _read_fields(found: Fit) -> dict[str, Any]:
    sizes = {field: found.sizes[axis] for axis, field in FIELDS.items()}
    return sizes | _presence(set(parameter_rows(found.dialect, found.sizes)))


def _presence(paths: Collection[str]) -> dict[str, Any]:
    """What the mere presence of a tensor tells."""
    return {
        "positions": "learned",
        "qkv_bias": "blocks/attn/query/bias" in paths,
        "attention_out": "blocks/attn/out/kernel" in paths,
        "attention_out_bias": "blocks/attn/out/bias" in paths,
        "mlp_bias": "blocks/mlp/up/bias" in paths,
        "head_bias": "head/bias" in paths,
        "norm_bias": "blocks/norm1/bias" in paths,
        "tied": "head/kernel" not in paths,
    }
