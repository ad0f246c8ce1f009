"""The values that a field may have where no file shows it, in the order in which they are tried."""

from collections.abc import Mapping
from typing import Any

from .search import Space

# For each field, the likelier values first; fields in which models differ more often come first.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "norm": ("pre", "post", "residual"),
    "final_norm": (True, "unused"),
    "attention_scale": ("head_dim", "model_dim", "none"),
    "activation": ("relu", "gelu", "gelu_tanh"),
    "attention_scale_by_layer": (False, True),
    "norm_eps": (1e-5, 1e-6, 1e-12),
    "rotary_layout": ("half", "interleaved"),
    "rotary_theta": (10000.0, 500000.0, 1000000.0, 100000.0),
}  # and num_heads: the divisors of the width
# Fields that ruin the loss when wrong are tried first. Then the fields of each group are varied
# together, as a scale of attention can compensate for a wrong number of heads.
FIRST = ("norm", "final_norm", "num_heads")
GROUPS = (
    ("norm", "final_norm"),
    ("num_heads", "attention_scale"),
    ("activation",),
    ("attention_scale_by_layer",),
    ("norm_eps",),
    ("rotary_layout", "rotary_theta"),
)
# Values whose losses differ by some 1e-5.
ALIKE = (frozenset({"gelu", "gelu_tanh"}), frozenset(OPTIONS["norm_eps"]))


def space_of(assumed: Mapping[str, Any], width: int) -> Space:
    """The combinations to search: the values of each field in `assumed`, the likeliest first.

    `width` is the total width of all heads if their number is open, and 0 otherwise.
    """
    options = {
        name: (assumed[name], *(value for value in values if value != assumed[name]))
        for name, values in OPTIONS.items()
        if name in assumed
    }
    heads = [n for n in range(1, width + 1) if width % n == 0]
    heads.sort(key=lambda n: abs(n * n - width))
    if heads:
        options = {"num_heads": tuple(heads), **options}
    return Space(options, FIRST, GROUPS, ALIKE)
