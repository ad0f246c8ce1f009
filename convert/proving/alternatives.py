"""Other values of assumed fields with which a model would agree with its torch class."""

import itertools
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.model import abstract_params, assemble, params_of
from jaxgpt.pytree import flatten
from jaxgpt.seq2seq_config import (
    ENCODER,
    AnyConfig,
    Seq2SeqConfig,
    as_options,
    config_of,
    field_of,
    fields_of,
)
from jaxgpt.settings import typed
from jaxgpt.storage.model_directory import ModelDirectory

from .. import api
from ..dialects import DIALECTS, PAIRS
from ..foreign.float64 import exact_module, in_float64
from ..foreign.forward import logits_of
from ..foreign.peer import Peer
from ..measuring.settled_file import Request, settled_with
from ..probing.candidates import OPTIONS
from ..rows.arranged import ORDERS
from ..rows.pair import AnyDialect
from .difference import Difference, of_logits
from .exact_model import exact_model
from .example import Example, example_for, logits_of_model
from .parity import compare
from .prove import prove
from .verdict import Agreement

PREFIX = 32  # positions compared first; a causal model's logits there do not depend on later ones
NEAREST = 2  # single changes to combine with a second one
PAIRS_UP_TO = 2e7  # parameters of the largest model in which two changes at once are tried


def agreeing(
    module: torch.nn.Module,
    model: Any,
    example: Example,
    fields: Collection[str],
) -> Agreement | None:
    """The first change of one or two of `fields` that reproduces the logits of `module`.

    Pairs are tried in small models only, and each includes one of the single changes that came
    nearest.
    """
    exact = exact_model(model)
    one = example.part(1, example.tokens.shape[1])
    theirs = _their_logits(module, one)
    behind: list[tuple[float, dict[str, Any]]] = []

    def tried(changes: dict[str, Any]) -> Agreement | None:
        gap = _logits_gap(exact, changes, theirs[:, :PREFIX], example.part(1, PREFIX))
        if gap and gap.same:
            gap = _logits_gap(exact, changes, theirs, one)
        if gap:
            behind.append((gap.mean, changes))
        return Agreement(changes, gap.max) if gap and gap.same else None

    singles = list(_changes(model.config, fields))
    if agreement := next(filter(None, map(tried, singles)), None):
        return agreement
    if sum(leaf.size for leaf in jax.tree.leaves(params_of(model))) > PAIRS_UP_TO:
        return None
    nearest = [changes for _, changes in sorted(behind, key=lambda item: item[0])[:NEAREST]]
    both = itertools.product(nearest, singles)
    pairs = ({**near, **other} for near, other in both if not near.keys() & other.keys())
    possible = (changes for changes in pairs if _shapes(model.config, changes) is not None)
    return next(filter(None, map(tried, possible)), None)


def measured(
    peer: Peer, inspected: api.Inspected, config: AnyConfig, fields: Collection[str]
) -> Agreement | None:
    """Other values of `fields` with which the model would be that of `peer`, found by running it.

    None if `config` also differs in any other field, or if no values make them agree.
    """
    dialect = inspected.detected.dialect.name
    prefixes = (ENCODER, "") if isinstance(config, Seq2SeqConfig) else ("",)
    names = [prefix + name for name in ("num_heads", "context_length") for prefix in prefixes]
    sizes = as_options({name: field_of(config, name) for name in names})
    registered = dialect in DIALECTS or dialect in PAIRS
    request = Request("", {}, sizes, dialect if registered else "auto")
    try:
        file = settled_with(peer, inspected.source, request)
        loaded = api.loaded(file.inspected, weights_only=True)
        prove(file, loaded)
    except UserError:
        return None
    wanted = loaded.config
    changes = {
        name: field_of(wanted, name)
        for name in file.inspected.detected.report.found
        if field_of(wanted, name) != field_of(config, name)
    }
    if not changes or changes.keys() - {*fields}:
        return None
    example = example_for(wanted, hidden=file.hidden).inputs
    return Agreement(changes, compare(peer.module, loaded.model, example).logits.max)


def _changes(config: AnyConfig, fields: Collection[str]) -> Iterator[dict[str, Any]]:
    """Other values of each of `fields` for which the parameter shapes stay the same."""
    shapes = _shapes(config, {})
    computed = {name: values for name, values in OPTIONS.items() if name not in ORDERS}
    for name, values in computed.items():
        for field in (name, f"{ENCODER}{name}"):
            for value in values if field in fields else ():
                changed = {field: value}
                if value != field_of(config, field) and _shapes(config, changed) == shapes:
                    yield changed


def _shapes(config: AnyConfig, changes: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    try:
        params = abstract_params(config_of({**fields_of(config), **changes}))
    except UserError:
        return None
    return {path: leaf.shape for path, leaf in flatten(params).items()}


def _their_logits(module: torch.nn.Module, example: Example) -> np.ndarray:
    exact = exact_module(example.given_to(module))
    with torch.no_grad(), in_float64():
        return logits_of(exact, torch.from_numpy(example.tokens)).numpy()


def _logits_gap(
    model: Any,
    changes: dict[str, Any],
    theirs: np.ndarray,
    example: Example,
) -> Difference | None:
    """Difference of the changed model's logits from `theirs`; None where they are non-finite."""
    changed = assemble(config_of({**fields_of(model.config), **changes}), params_of(model))
    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(logits_of_model)(changed, example.on_device()))
    return of_logits(theirs, ours) if np.isfinite(ours).all() else None


def other_class(ran: str, config: AnyConfig, dialect: AnyDialect) -> str:
    """Reasons why a class chosen by tensor names may be wrong; "" if there are none."""
    unlike = dialect.unlike(config)
    if not unlike:
        return ""
    fields = (f"{name} is {usual!r} and not {ours!r}" for name, (ours, usual) in unlike.items())
    listed = in_a_row(fields, ", ")
    return (
        f"{ran} is only what files with such names usually are, and in it {listed}. "
        "If the file is of another class, name that one with --torch module:Class."
    )


def command(
    inspected: api.Inspected,
    opened: ModelDirectory,
    directory: Path,
    fields: Mapping[str, Any],
) -> str:
    """The to-flax command that sets `fields` and writes to a free path next to `directory`."""
    source = inspected.source
    ignore_config = (opened.about.get("source") or {}).get("ignore_config", False)
    free = next(path for n in itertools.count(2) if not (path := Path(f"{directory}{n}")).exists())
    words = ["jaxgpt-convert", "to-flax", str(source.path), str(free)]
    for name, value in fields.items():
        words += ["--set", f"{name}={typed(value)}"]
    if ignore_config:
        words.append("--ignore-config")
    try:
        found = api.inspect(source, ignore_config=ignore_config, **as_options(fields))
        detected = found.detected.dialect.name
    except UserError:
        detected = ""
    if detected != inspected.detected.dialect.name:
        words += ["--dialect", inspected.detected.dialect.name]
    return shlex.join(words)
