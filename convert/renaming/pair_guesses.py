"""Proposes readings of a file as an encoder-decoder whose names leave tensors ambiguous."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..names.tensor_names import Table
from .attention_roles import SHAPES, WORDS
from .groups import Groups
from .pair_names import first_blocks, ways_of_pair
from .renamed import Renamed, Shapes
from .usual_names import all_namings


def guesses(shapes: Shapes) -> Iterator[Renamed]:
    """Yield the tensors of a file under usual names, once for each reading as an encoder-decoder.

    The most likely reading comes first.
    """
    for renamed in all_namings(shapes):
        yield from _ways(renamed, shapes)


def _ways(renamed: Renamed, shapes: Shapes) -> Iterator[Renamed]:
    """Yield the ways to name the modules of `renamed`."""
    table, width = _table(renamed, shapes), Groups.of(dict(shapes)).width
    ordered = list(shapes) != sorted(shapes)
    for names in ways_of_pair(table, width, _evidence(renamed), ordered):
        places = {
            own: (replace(template, name=names[template.name]), place)
            for own, (template, place) in renamed.places.items()
        }
        yield replace(renamed, places=places)


def certain(shapes: Shapes) -> list[Renamed]:
    """The tensors of a file under usual names, in each form in which its matrices may be stored.

    Leaves out forms in which some part of the encoder-decoder stays ambiguous.
    """
    ways = [list(itertools.islice(_ways(each, shapes), 2)) for each in all_namings(shapes)]
    return [way[0] for way in ways if len(way) == 1 and way[0].changes]


def _evidence(renamed: Renamed) -> str:
    """The evidence, WORDS or SHAPES, by which to find the first matrix of an MLP in `renamed`.

    The matrices of modules are (out, in), so only words can show the opposite; those of
    parameters without a module may be either, and shapes decide.
    """
    templates = [template for template, place in renamed.places.values() if "layer" in place]
    bare = any(t.name.endswith(".weight") and not t.own.endswith(".weight") for t in templates)
    turned = any(each.form and len(each.form.lengths) == 2 for each in templates)
    return WORDS if turned and not bare else SHAPES


def _table(renamed: Renamed, shapes: Shapes) -> Table:
    """The shape of each template of `renamed`, in the order of the file."""
    usual, table = renamed.shapes(shapes), Table()
    for own, (template, _) in renamed.places.items():
        table.setdefault(template.name, usual[renamed.names[own]])
    return table


def why_odd(shapes: Shapes, path: object) -> str:
    """The error for a decoder with another number of norms than of parts; "" if it is none."""
    for renamed in all_namings(shapes):
        blocks = first_blocks(_table(renamed, shapes), Groups.of(dict(shapes)).width)
        decoder = [*blocks.values()][-1] if blocks else None
        if decoder is None or decoder.has(2) or not decoder.with_norms(3).has(2):
            continue
        count = len(decoder.norms)
        why = (
            "Each part has a norm of its own here, so one norm that serves several parts"
            if count < 3
            else "No block here norms the memory or has other further norms, so such a class"
        )
        return (
            f"{path}: each block of its decoder has self-attention, cross-attention and an MLP, "
            f"and {count} norm{'s' * (count > 1)} ({', '.join(decoder.norms)}) instead of three. "
            f"{why} cannot be converted."
        )
    return ""


def why_open(shapes: Shapes, path: object) -> str:
    """The error for an encoder-decoder that can be read in several ways; "" if it cannot."""
    for renamed in all_namings(shapes):
        ways = [each.names for each in itertools.islice(_ways(renamed, shapes), 2)]
        if len(ways) > 1:
            return _why_open(path, *ways)
    return ""


def _why_open(path: object, one: Mapping[str, str], other: Mapping[str, str]) -> str:
    open_names = [name for name in one if one[name] != other[name]]
    first, count = open_names[0], len(open_names) - 1
    others = f", and {count} more tensors are ambiguous too" if count else ""
    return (
        f"{path}: its tensors are those of an encoder-decoder, or of a decoder that attends "
        f"to a memory, but nothing shows whether {first} is {one[first]} or {other[first]} (the "
        f"names in known classes){others}. Your class settles it: to-flax FILE DIR --torch "
        "module:Class."
    )
