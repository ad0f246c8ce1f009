"""Detects the dialect and the ModelConfig of a file, and reports the source of each field."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row, require
from jaxgpt.settings import check

from ..dialects import DIALECTS, named
from ..names.unsupported import reasons
from ..rows.dialect import Dialect
from ..rows.fit import Fit, meanings
from ..rows.pair import Pair
from . import pairs
from .by_structure import propose
from .candidates import candidates
from .errors import Asked, Stranger
from .inputs import Configs, Inputs, Shapes
from .one_side import Detected, detected_with, explained_by, fit_of
from .pair_guesses import certain, why_open
from .partial import is_part
from .renamed import Renamed
from .strangers import why_strange
from .usual_names import renamings
from .values import Evidence, weigh


def detect(
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    path: object,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    configs: Configs | None = None,
) -> Detected:
    """Detect the dialect of a file, or fit the dialect `name`, and its ModelConfig.

    `shapes` maps tensor names to shapes and `read` returns a tensor by name; `path` is for errors.
    `given` are the fields of ModelConfig that the caller sets, an encoder's in a dict under
    `encoder`; `configs` are the configs stored with the tensors.
    """
    inputs, of_encoder = _inputs(shapes, read, path, given, configs)
    return _detected(inputs, name, of_encoder)


def detect_renamed(
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    path: object,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    configs: Configs | None = None,
) -> Detected | None:
    """What `detect` returns for a file once its tensors have usual names; None if they do not fit.

    The dialect has the names in the file. A part of a known class's file does not fit.
    """
    inputs, of_encoder = _inputs(shapes, read, path, given, configs)
    if (
        _has_known_class(inputs)
        or reasons(shapes)
        or is_part(_of_classes(_named_alike(inputs)).values(), shapes)
        or pairs.is_part_of_pair(inputs)
    ):
        return None
    namings = certain(shapes) or renamings(shapes)
    ways = namings[: 1 if name == "auto" else None]  # auto tries both orders of matrices itself
    results = _results(ways, inputs, name, of_encoder)
    if not any(isinstance(result, Detected | Asked) for _, result in results):
        last = [way for each in ways if (way := each.with_heads_last)]
        results = _results(last, inputs, name, of_encoder) or results
    if len(results) > 1:
        raise UserError(
            f"{path}: nothing in it tells whether its matrices are (in, out) or (out, in). Your "
            "class settles it: to-flax FILE DIR --torch module:Class."
        )
    for way, result in results:
        if isinstance(result, UserError):
            raise result
        caveats = [*result.report.other_caveats, *way.caveats(inputs.given)]
        return replace(result, report=replace(result.report, other_caveats=caveats))
    if problem := why_open(inputs):
        raise UserError(problem)
    return None


def _results(
    ways: Iterable[Renamed], inputs: Inputs, name: str | None, of_encoder: Mapping[str, Any]
) -> list[tuple[Renamed, Detected | UserError]]:
    """The results of detection under the names of each of `ways`, where the tensors fit."""
    tried = [(way, _tried(inputs.under(way), name, of_encoder)) for way in ways]
    return [(way, result) for way, result in tried if result is not None]


def _has_known_class(inputs: Inputs) -> bool:
    """Whether a Hugging Face config names a class whose tensors have known names."""
    known = [kind for dialect in DIALECTS.values() for kind in dialect.says.get("model_type", {})]
    return any(
        "architectures" in config and config.get("model_type") in known
        for config in inputs.configs.values()
    )


def _inputs(
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    path: object,
    given: Mapping[str, Any] | None,
    configs: Configs | None,
) -> tuple[Inputs, Mapping[str, Any]]:
    """The inputs of detection, and the fields that are given for an encoder."""
    fields = dict(given or {})
    of_encoder = fields.pop("encoder", {})
    check(ModelConfig, fields, "ModelConfig")
    check(ModelConfig, of_encoder, "ModelConfig")
    return Inputs(shapes, read, path, fields, configs or {}), of_encoder


def _tried(
    inputs: Inputs, name: str | None, of_encoder: Mapping[str, Any]
) -> Detected | UserError | None:
    """The result of detection, or the error; None if the tensors do not fit."""
    try:
        return _detected(inputs, name, of_encoder)
    except Stranger:
        return None
    except UserError as error:
        return error


def _detected(inputs: Inputs, name: str | None, of_encoder: Mapping[str, Any]) -> Detected:
    chosen = named(name) if name and name != "auto" else None
    pair = chosen or (None if name else pairs.pair_of(inputs))
    if isinstance(pair, Pair):
        return pairs.detect_pair(pair, inputs, of_encoder)
    detected = _of_decoder(pair, inputs, name)
    require(
        not of_encoder,
        f"{inputs.path}: encoder.{next(iter(of_encoder), '')} was given, but the file is of a "
        "decoder alone.",
    )
    return detected


def _of_decoder(chosen: Dialect | None, inputs: Inputs, name: str | None) -> Detected:
    if chosen:
        return detected_with(inputs, lambda sized: explained_by(sized, chosen))
    if name:
        return detected_with(inputs, lambda sized: explained_by(sized, _proposed(sized)))
    try:
        return detected_with(inputs, _of_registry)
    except Stranger as error:
        stranger = error
    raise Stranger(lambda: pairs.why_no_pair(inputs) or str(stranger))


def _proposed(inputs: Inputs) -> Dialect:
    proposal = propose(inputs.shapes)
    if proposal.dialect is None:
        raise Stranger(
            lambda: (
                f"{inputs.path}: no GPT can be seen in its tensors: {in_a_row(proposal.problems)}."
            )
        )
    return proposal.dialect


def _of_registry(inputs: Inputs) -> tuple[Fit, Evidence, Dialect]:
    """The fit, evidence and dialect of the class in the registry that explains all tensors.

    Example: a file with nanoGPT's names fits nanogpt and its twins, which are build-nanogpt, mingpt
    and makemore. They have the same names, so that the values are weighed once, for nanogpt. If
    these show a mask and a head that is not tied, which are the marks of mingpt, the dialect is
    mingpt, with the rows that the values have decided.
    """
    fits = _explaining(inputs)
    weighed = _weighed(fits, inputs)
    _require_one_reading(fits, weighed, inputs)
    name = _best_marked(fits, next(iter(weighed.values())), inputs)
    evidence = weighed[name if name in weighed else DIALECTS[name].twin]
    dialect = replace(fits[name].dialect, rows=evidence.dialect.rows)
    return fits[name], replace(evidence, dialect=dialect), fits[name].dialect


def _weighed(fits: Mapping[str, Fit], inputs: Inputs) -> dict[str, Evidence]:
    """The evidence in the values for each of `fits`, except those that are twins of another.

    Files of twins have the same names, so their values, which may be large, are read only once.
    """
    return {
        name: weigh(fitted.dialect, fitted.sizes, inputs.read)
        for name, fitted in fits.items()
        if fitted.dialect.twin not in fits
    }


def _require_one_reading(
    fits: Mapping[str, Fit], weighed: Mapping[str, Evidence], inputs: Inputs
) -> None:
    """Raise UserError if two of the `weighed` dialects take a tensor for different parameters."""
    tables = [meanings(one.dialect, fits[name].sizes) for name, one in weighed.items()]
    if any(table != tables[0] for table in tables):
        raise UserError(
            f"{inputs.path}: its tensors fit the dialects {' and '.join(weighed)}; "
            "choose one with --dialect."
        )


def _explaining(inputs: Inputs) -> dict[str, Fit]:
    """The fits that explain all tensors: of classes where there is one, else of families."""
    dialects = candidates(inputs)
    fits = _named_alike(inputs)
    classes = _of_classes(fits)
    if is_part(classes.values(), inputs.shapes):
        # Part of a known class's file: a family could read it as a different function.
        fits, dialects = classes, [dialect for dialect in dialects if not dialect.family]
    whole = {name: fitted for name, fitted in fits.items() if not fitted.problems}
    if not whole:
        raise Stranger(lambda: why_strange(inputs, list(_fits(dialects, inputs).values())))
    for name in [name for name, fitted in whole.items() if fitted.dialect.yields_to in whole]:
        del whole[name]
    return {name: fitted for name, fitted in whole.items() if name in classes} or whole


def _named_alike(inputs: Inputs) -> dict[str, Fit]:
    """The fits of the dialects that have a row for every name."""
    return _fits(filter(inputs.names.explained_by, candidates(inputs)), inputs)


def _of_classes(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    return {name: fitted for name, fitted in fits.items() if not fitted.dialect.family}


def _fits(dialects: Iterable[Dialect], inputs: Inputs) -> dict[str, Fit]:
    return {dialect.name: fit_of(dialect, inputs) for dialect in dialects}


def _best_marked(fits: Mapping[str, Fit], evidence: Evidence, inputs: Inputs) -> str:
    """The dialect of `fits` to choose among those whose files have the same names.

    It is the one with the most marks (`Dialect.told_by`), all of which must be in the file; if
    there is none, it is the class whose twins the others are.
    """
    keys = {key for config in inputs.configs.values() for key in config}
    marks = evidence.marks | keys
    marked = [name for name in fits if DIALECTS[name].told_by and DIALECTS[name].told_by <= marks]
    if marked:
        return max(marked, key=lambda name: len(DIALECTS[name].told_by))
    return min(fits, key=lambda name: bool(DIALECTS[name].twin))
