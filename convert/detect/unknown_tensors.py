"""The error for a file that no dialect explains: the nearest one, and what is wrong with it."""

from collections.abc import Sequence

from jaxgpt.errors import in_a_row

from ..names.unsupported import reasons
from ..renaming.usual_names import renamings
from ..rows.fit import Fit
from .by_structure import propose
from .inputs import Inputs


def why_unknown(inputs: Inputs, fits: list[Fit]) -> str:
    """The error for a file that no fit explains: names a known architecture or the nearest fit."""
    usual = renamings(inputs.shapes)
    if foreign := reasons(inputs.shapes):
        return f"{inputs.path}: {in_a_row(foreign)}. Models of this kind have no counterpart here."
    nearest = min(
        fits, key=lambda fitted: (len(fitted.problems) - fitted.claimed, bool(fitted.dialect.twin))
    )
    most = 1000 if 2 * nearest.claimed > len(inputs.shapes) else 8
    verdict = "fit no known dialect. The nearest is" if len(fits) > 1 else "do not fit"
    text = (
        f"{inputs.path}: its {len(inputs.shapes)} tensors {verdict} {nearest.dialect.name} "
        f"({nearest.dialect.about}), {with_problems(nearest.problems, most)}"
    )
    known_by_structure = (inputs.shapes, *(r.shapes(inputs.shapes) for r in usual[:1]))
    if len(fits) > 1 and any(propose(shapes).dialect for shapes in known_by_structure):
        text += (
            " By its structure it could be a GPT. If you have its class, to-flax --torch "
            "model.py:YourClass reads it under any names, and proves the result; without it, "
            "jaxgpt-convert inspect --dialect auto shows how it would be read, and to-flax and "
            "verify read it that way if you pass --dialect auto."
        )
    return text


def with_problems(problems: Sequence[str], most: int = 8) -> str:
    """The end of a sentence that counts `problems` and lists the first `most` of them."""
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    return f"with {count}: {in_a_row(problems, most=most)}."
