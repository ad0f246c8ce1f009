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
from ..renaming.pair_guesses import certain, why_odd, why_open
from ..renaming.renamed import Renamed
from ..renaming.usual_names import renamings
from ..rows.dialect import Dialect
from ..rows.pair import Pair
from . import pairs
from .by_structure import propose
from .errors import Asked, UnknownTensors
from .inputs import Configs, Inputs, Shapes
from .one_side import Detected, detected_with, explained_by
from .partial import is_part
from .registry import named_alike, of_classes, of_registry


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
        or is_part(of_classes(named_alike(inputs)).values(), shapes)
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
            f"{path}: nothing in it shows whether its matrices are (in, out) or (out, in). Your "
            "class settles it: to-flax FILE DIR --torch module:Class."
        )
    for way, result in results:
        if isinstance(result, UserError):
            raise result
        caveats = [*result.report.other_caveats, *way.caveats(inputs.given)]
        return replace(result, report=replace(result.report, other_caveats=caveats))
    if problem := why_open(shapes, path):
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
    except UnknownTensors:
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
        return detected_with(inputs, of_registry)
    except UnknownTensors as error:
        unknown = error
    raise UnknownTensors(
        lambda: why_odd(inputs.shapes, inputs.path) or pairs.why_no_pair(inputs) or str(unknown)
    )


def _proposed(inputs: Inputs) -> Dialect:
    proposal = propose(inputs.shapes)
    if proposal.dialect is None:
        raise UnknownTensors(
            lambda: (
                f"{inputs.path}: its tensors do not look like a GPT's: "
                f"{in_a_row(proposal.problems)}."
            )
        )
    return proposal.dialect
