"""Proposes a dialect for a file with unknown names, from the structure of names and shapes.

Reads no values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxgpt.errors import in_a_row

from ..names.gates import VALUE_FIRST
from ..names.roles import ROLES
from ..names.tensor_names import count_words, folded
from ..rows.dialect import Dialect, is_ignored
from ..rows.fields import USUAL
from ..rows.kinds import Alias, Buffer, Kind
from .draft import Draft
from .known_words import rows_by_words

BEWARE = (
    "this class is unknown: what its norms compute, its activation and its causal mask leave "
    "no trace"
)

PARTS = {"qkv": "3", "glu": "2"}  # the number of parts in a fused matrix


@dataclass(frozen=True)
class Proposal:
    """The dialect proposed for a file, or the reasons why there is none."""

    dialect: Dialect | None  # None if a tensor has no role
    problems: list[str]


def propose(shapes: Mapping[str, tuple[int, ...]]) -> Proposal:
    """Propose a dialect for the tensors in `shapes`, for the user to confirm."""
    problems = [
        f"{n!a} is not a valid name for a tensor"
        for n in shapes
        if not re.fullmatch(r"[^\s(){}|?:\\]{1,400}", n)
    ]
    table, lists, odd = folded(
        {} if problems else dict(shapes), "layer", lambda block: len(block) > 2
    )
    if len(lists) != 1:
        problems.append(
            f"more than one list of blocks, {in_a_row(lists, ' and ')}, as an encoder-decoder has; "
            "--dialect auto reads only decoders. Leave out --dialect auto, rename the tensors "
            "as a known encoder-decoder has them, or describe the class in a file of "
            "convert/dialects"
            if lists
            else "no list of blocks"
        )
    if problems or odd:
        return Proposal(None, problems + odd)
    # A sorted file says nothing about the order of the modules.
    by_alphabet = any(list(block) == sorted(block) for block in lists.popitem()[1].values())
    table, heads, odd = folded(
        table, "head", lambda head: len(head) == 3 and len(set(head.values())) == 1
    )
    known = rows_by_words(table)
    rest = {name: shape for name, shape in table.items() if name not in known}
    draft = Draft(rest, max(map(len, heads.values()), default=1), not by_alphabet, odd)
    rows = known | draft.rows()
    lost = [name for name in table if "token" in draft.roles and name not in rows]
    draft.problems += [f"{name} {table[name]}: {draft.why(name)}" for name in lost]
    rows_in_order = tuple(dict.fromkeys(rows[name] for name in table if name in rows))
    gated = {"gate", "both"} & draft.roles.keys()
    words = draft.words()
    rms = gated or any(count_words(name, "rms") for name in table)
    dialect = Dialect(
        "auto",
        "an unknown class, read by the structure of its tensors",
        rows_in_order,
        unsaid={
            **USUAL,
            "norm_kind": "rms" if rms else "layer",
            "activation": "silu" if gated else USUAL["activation"],
            "qkv_order": "by_part",
            "gate_order": "up_gate" if words.get("glu") == (VALUE_FIRST,) else "gate_up",
        },
        words=words,
        grouped=not heads,
        beware="; ".join((*draft.assumed, BEWARE)),
    )
    return Proposal(None if draft.problems else dialect, draft.problems)


def described(dialect: Dialect) -> list[str]:
    """A line for each row of `dialect`: its names, their shape, and their role."""
    lines = []
    for each in dialect.rows:
        view = each.torch.view()
        sides = [
            "".join(PARTS.get(axis, axis[0].upper()) for axis in dim) or "1" for dim in view.dims
        ]
        lines.append((view.name, f"({', '.join(sides)})", _meaning(each, dialect)))
    names, shapes, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    return [f"{name:{names}}  {shape:{shapes}}  {text}" for name, shape, text in lines]


def _meaning(each: Kind, dialect: Dialect) -> str:
    """The role of the tensors of the row `each`, in words."""
    if isinstance(each, Alias):
        return "head, or the token embedding again"
    if isinstance(each, Buffer):
        return "the number that masks, no weight" if is_ignored(each) else "causal mask, no weight"
    name = each.torch.view().name
    role, _, leaf = each.flax.name.rpartition("/")
    text = [meaning for flax, _, _, meaning, _ in ROLES.values() if flax.startswith(f"{role}/")][-1]
    if label := next((axis for axis in PARTS if f"{{{axis}}}" in name), ""):
        text += f" (spelled {dialect.words[label][0]})"
    elif "gate_up" in role:
        text += f" (in the order {dialect.words['glu'][0]})"
    if "qkv" in role:
        text += ", one head each" if "{head}" in name else ", all heads"
    return f"{text}, bias" if leaf == "bias" else text
