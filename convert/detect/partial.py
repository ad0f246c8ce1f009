"""Recognises files that hold only some of the tensors of a known class.

A family, which covers many classes, must not read such a file as one of another class.
"""

from collections.abc import Iterable, Sized

from ..rows.fit import Fit
from ..rows.kinds import POSITIONS

# Parameters without which a file may be whole: positions are then asked for.
OPTIONAL = (POSITIONS, "blocks/attn/out/")


def is_part(fits: Iterable[Fit], names: Sized) -> bool:
    """Whether `names` are some of a class's tensors, and more than OPTIONAL ones are missing."""
    parts = [part for part in fits if part.claimed == len(names) and part.lacking]
    return bool(parts) and not any(_lacks_only_optional(fitted) for fitted in parts)


def _lacks_only_optional(fitted: Fit) -> bool:
    views = fitted.dialect.views
    return fitted.absent <= {torch.name for flax, torch in views if flax.name.startswith(OPTIONAL)}
