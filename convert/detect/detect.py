"""From the tensors of a file to a dialect and a ModelConfig, saying of each field how it is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig, UserError, divisors, in_a_row
from jaxgpt.settings import check

from ..dialects import DIALECTS, named
from ..names.config_words import CLASS, said
from ..names.unsupported import reasons
from ..rows.dialect import EMBEDDING, FIELDS, Dialect, Row
from ..rows.fit import Fit, fit, joint_width, meanings, parameter_rows
from ..rows.resolve import settle
from .by_structure import propose
from .report import NO_TABLE, Report, caveats
from .values import Evidence, weigh

Shapes = Mapping[str, tuple[int, ...]]
Configs = Mapping[str, Mapping[str, Any]]
LONGEST = 2**22  # tokens of context, where no table shows how many
AXES = {field: axis for axis, field in FIELDS.items()}


@dataclass(frozen=True)
class Detected:
    dialect: Dialect  # settled for this file
    fit: Fit
    report: Report


class Stranger(UserError):
    """No dialect explains these tensors."""


class Asked(UserError):
    """Nobody said a field that has no usual value."""

    def __init__(self, field: str, problem: str):
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True)
class Held:
    """What there is to judge by."""

    shapes: Shapes
    read: Callable[[str], np.ndarray]
    path: object
    given: Mapping[str, Any]
    configs: Configs  # what lies beside the tensors, in the file or in its folder, by name


def detect(
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    path: object,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    configs: Configs | None = None,
) -> Detected:
    held = Held(shapes, read, path, given or {}, configs or {})
    check(ModelConfig, held.given, "--set")
    found, evidence, dialect = _named(held, name) if name else _fitting(held)
    if evidence.problems:
        raise UserError(f"{path}: {in_a_row(evidence.problems)}.")
    shown = _shown(found, evidence, dialect)
    stated = said(held.configs, dialect, path, held.given)
    _require_agreement(held, evidence, shown, stated)
    known = {field: value for field, (value, _) in stated.items()} | shown
    fields = {field: value for field, value in held.given.items() if field not in known}
    assumed = {
        field: value for field, value in dialect.unsaid.items() if field not in {**known, **fields}
    }
    _require_all(held, found, {**known, **fields, **assumed})
    report = Report(known, fields, assumed)
    try:
        report.config  # noqa: B018
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    report = replace(
        report, caveats=caveats(report, evidence.dialect.beware, evidence.hints, held.configs)
    )
    return Detected(evidence.dialect, found, report)


def _require_agreement(
    held: Held, evidence: Evidence, shown: Mapping[str, Any], stated: Mapping[str, tuple[Any, str]]
) -> None:
    contradictions = []
    repeated = (
        sum(isinstance(row, Row) and row.flax == EMBEDDING for row in evidence.dialect.rows) > 1
    )
    if held.given.get("final_norm") is False and "final_norm" not in shown:
        contradictions.append(
            "final_norm = False was given, but the file has one; if it is never applied, say unused"
        )
    if held.given.get("positions") == "learned" and "positions" not in shown:
        contradictions.append("positions = learned was given, but the file has no table of them")
    for field, value in held.given.items():
        known = [("the tensors show", shown[field])] if field in shown else []
        known += [(f"{stated[field][1]} says", stated[field][0])] if field in stated else []
        contradictions += [
            f"{field} = {value} was given, but {where} {other}"
            for where, other in known
            if value != other
        ]
    for field, (value, where) in stated.items():
        # A head that happens to equal the embedding computes the same, tied or not; sinusoids may go on for longer.
        equal = field == "tied" and repeated
        longer = (
            field == "context_length" and shown.get("positions_stored") and value < shown[field]
        )
        harmless = equal or longer or where.startswith(CLASS)
        if field in shown and shown[field] != value and not harmless:
            contradictions.append(
                f"{where} says {field} = {value}, but the tensors show {shown[field]}"
            )
    if contradictions:
        way = (
            "--ignore-config leaves out the config"
            if stated
            else "Leave out what the file itself says"
        )
        raise UserError(f"{held.path}: {'; '.join(contradictions)}. {way}.")


def _try(dialect: Dialect, held: Held) -> Fit:
    try:
        stated = {
            field: value
            for field, (value, _) in said(held.configs, dialect, held.path, held.given).items()
        }
    except UserError:
        stated = {}  # said again, where it matters, of the dialect that is chosen
    stated.pop("head_dim", None)  # where it is wrong, every tensor would look wrong
    sizes = {
        AXES[field]: n
        for field, n in {**stated, **held.given}.items()
        if field in ("num_heads", "head_dim")
    }
    return fit(settle(dialect, held.shapes), held.shapes, sizes)


def _named(held: Held, name: str) -> tuple[Fit, Evidence, Dialect]:
    dialect = _proposed(held) if name == "auto" else named(name)
    found = _try(dialect, held)
    if found.problems:
        raise Stranger(_stranger(held, [found]))
    return found, weigh(found.dialect, found.sizes, held.read), dialect


def _proposed(held: Held) -> Dialect:
    proposal = propose(held.shapes)
    if proposal.dialect is None:
        raise UserError(
            f"{held.path}: no GPT can be seen in its tensors: {in_a_row(proposal.problems)}."
        )
    return proposal.dialect


def _fitting(held: Held) -> tuple[Fit, Evidence, Dialect]:
    fits = {dialect.name: _try(dialect, held) for dialect in DIALECTS.values()}
    classes = {name: found for name, found in fits.items() if not found.dialect.family}
    if any(found.claimed == len(held.shapes) and found.lacking for found in classes.values()):
        fits = classes  # it has these names, and not all of them: a family could make another function of the rest
    whole = {name: found for name, found in fits.items() if not found.problems}
    if not whole:
        raise Stranger(_stranger(held, list(fits.values())))
    whole = {name: found for name, found in whole.items() if not found.dialect.family} or whole
    # A twin's rows are those of its other: the numbers, of which there may be many, are read once.
    weighed = {
        name: weigh(found.dialect, found.sizes, held.read)
        for name, found in whole.items()
        if found.dialect.twin not in whole
    }
    tables = [meanings(one.dialect, whole[name].sizes) for name, one in weighed.items()]
    if any(table != tables[0] for table in tables):
        raise UserError(
            f"{held.path}: its tensors fit the dialects {' and '.join(weighed)}; choose one with --dialect."
        )
    marks = next(iter(weighed.values())).told | {
        key for config in held.configs.values() for key in config
    }
    told = [name for name in whole if DIALECTS[name].told_by and DIALECTS[name].told_by <= marks]
    chosen = max(told, key=lambda name: len(DIALECTS[name].told_by), default="")
    chosen = chosen or min(whole, key=lambda name: bool(DIALECTS[name].twin))
    evidence = weighed[chosen if chosen in weighed else DIALECTS[chosen].twin]
    dialect = replace(whole[chosen].dialect, rows=evidence.dialect.rows)
    return whole[chosen], replace(evidence, dialect=dialect), DIALECTS[chosen]


def _stranger(held: Held, fits: list[Fit]) -> str:
    if foreign := reasons(held.shapes):
        return (
            f"{held.path}: {in_a_row(foreign)}. Only decoders that look at one text, from left to right, have a place "
            "here."
        )
    nearest = min(
        fits, key=lambda found: (len(found.problems) - found.claimed, bool(found.dialect.twin))
    )
    wrong = in_a_row(nearest.problems, most=1000 if 2 * nearest.claimed > len(held.shapes) else 8)
    text = (
        f"{held.path}: its {len(held.shapes)} tensors fit "
        f"{'no known dialect. The nearest is' if len(fits) > 1 else 'not'} {nearest.dialect.name} "
        f"({nearest.dialect.about}), for which {len(nearest.problems)} things are wrong: {wrong}."
    )
    if len(fits) > 1 and propose(held.shapes).dialect:
        text += (
            " By its structure it could be a GPT: jaxgpt-convert inspect with --dialect auto shows how it would be "
            "read; to-flax and verify take that only with --dialect auto."
        )
    return text


def _require_all(held: Held, found: Fit, fields: Mapping[str, Any]) -> None:
    """Fields that have no usual value."""
    if "num_heads" not in fields or "k" not in found.sizes:
        known = {axis: n for axis, n in found.sizes.items() if axis not in ("head", "k")}
        width = joint_width(found.dialect, held.shapes, known) or 0
        why = (
            f"{fields['num_heads']} does not divide"
            if "num_heads" in fields
            else "no tensor shows how they divide"
        )
        raise Asked(
            "num_heads",
            f"{held.path}: queries, keys and values are {width} wide, all heads together, and {why} among heads. Head "
            f"counts that fit are {divisors(width)}: say which with --set num_heads=N.",
        )
    if "context_length" not in fields:
        raise Asked(
            "context_length",
            f"{held.path}: {NO_TABLE}. Nothing shows how long the context is either: say it with --set "
            "context_length=N.",
        )
    if fields["context_length"] > LONGEST:
        raise UserError(
            f"{held.path}: a context length of {fields['context_length']} is more than {LONGEST}."
        )


def _shown(found: Fit, evidence: Evidence, dialect: Dialect) -> dict[str, Any]:
    """What the tensors themselves say."""
    sizes = dict(found.sizes)
    offset = dialect.fixed.get("positions_offset", 0)
    if "p" in sizes:
        sizes["t"] = sizes["p"] - offset
    fields = {field: sizes[axis] for axis, field in FIELDS.items() if axis in sizes}
    for field, axis in (("num_heads", "head"), ("head_dim", "k")):
        if axis in found.stated:
            fields.pop(field, None)
    paths = set(
        parameter_rows(
            evidence.dialect, {axis: found.sizes.get(axis, 0) for axis in (*FIELDS, "qkv")}
        )
    )
    return (
        fields
        | _presence(paths)
        | {"positions_offset": offset}
        | evidence.read
        | dict(dialect.fixed)
    )


def _presence(paths: set[str]) -> dict[str, Any]:
    """What the mere presence of a tensor tells; a norm that is there may still be unused."""
    stored = "pos_embedding/embedding" in paths
    return {
        "qkv_bias": "blocks/attn/qkv/bias" in paths,
        "attention_out": "blocks/attn/out/kernel" in paths,
        "attention_out_bias": "blocks/attn/out/bias" in paths,
        "mlp_bias": "blocks/mlp/up/bias" in paths,
        "head_bias": "head/bias" in paths,
        "norm_bias": "blocks/norm1/bias" in paths,
        "tied": "head/kernel" not in paths,
        **({} if stored else {"positions_stored": False}),
        **({} if "final_norm/scale" in paths else {"final_norm": False}),
    }
