"""Finds the dialect of the registry that explains all tensors of a decoder's file."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jaxgpt.errors import UserError

from ..dialects import DIALECTS
from ..rows.dialect import Dialect
from ..rows.fit import Fit, meanings
from .candidates import candidates
from .errors import UnknownTensors
from .inputs import Inputs
from .one_side import fit_of
from .partial import is_part
from .unknown_tensors import why_unknown
from .values import Evidence, weigh


def of_registry(inputs: Inputs) -> tuple[Fit, Evidence, Dialect]:
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
    fits = named_alike(inputs)
    classes = of_classes(fits)
    if is_part(classes.values(), inputs.shapes):
        # Part of a known class's file: a family could read it as a different function.
        fits, dialects = classes, [dialect for dialect in dialects if not dialect.family]
    whole = {name: fitted for name, fitted in fits.items() if not fitted.problems}
    if not whole:
        raise UnknownTensors(lambda: why_unknown(inputs, list(_fits(dialects, inputs).values())))
    for name in [name for name, fitted in whole.items() if fitted.dialect.yields_to in whole]:
        del whole[name]
    return {name: fitted for name, fitted in whole.items() if name in classes} or whole


def named_alike(inputs: Inputs) -> dict[str, Fit]:
    """The fits of the dialects that have a row for every name."""
    return _fits(filter(inputs.names.explained_by, candidates(inputs)), inputs)


def of_classes(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """The `fits` of dialects that cover a single class, not a family."""
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
