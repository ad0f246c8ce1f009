"""Rules on which fields of a ModelConfig are possible together."""

from typing import Any

from jaxgpt.errors import require
from jaxgpt.rotary_scaling import require_scaling

EXTRA_NORMS = ("sandwich", "embedding")


def require_possible(c: Any) -> None:
    """Require that the fields of `c` describe a model; its sizes are already complete."""
    _require_positions(c)
    _require_norms(c)
    _require_attention(c)
    for field in ("embedding_scale", "logit_scale"):
        require(getattr(c, field) != 0, f"{field} must not be 0.")
    for field in ("attention_softcap", "logit_softcap"):
        value = getattr(c, field)
        require(value is None or value > 0, f"{field} must be positive, but is {value}.")


def _require_positions(c: Any) -> None:
    require(
        c.positions == "sinusoidal" or not c.positions_stored,
        "positions_stored is for sinusoidal positions: learned ones are always in the file.",
    )
    require(
        not c.positions_offset or bool(c.position_rows),
        f"positions_offset is {c.positions_offset}, but there is no table for it: set "
        "positions_stored, or positions to learned.",
    )
    if c.positions != "rotary":
        return
    require(
        0 < c.rotary_fraction <= 1 and c.rotary_dim % 2 == 0 and c.rotary_dim > 0,
        f"rotary_fraction {c.rotary_fraction} of head_dim {c.head_dim} is "
        f"{c.rotary_dim}, which must be an even number above 0.",
    )
    for theta in c.by_layer("rotary_theta"):
        require(theta is None or theta > 0, f"rotary_theta must be positive, but is {theta}.")
    for scaling in c.by_layer("rotary_scaling"):
        if scaling is not None:
            require_scaling(scaling)


def _require_norms(c: Any) -> None:
    require(
        c.final_norm in (True, False, "unused"),
        f"final_norm takes true, false or 'unused', but got {c.final_norm!r}.",
    )
    require(
        c.norm_eps == "dtype" or float(c.norm_eps) >= 0,
        f"norm_eps must not be negative, but is {c.norm_eps}.",
    )
    sandwich = "sandwich" in c.extra_norms
    unknown = [name for name in c.extra_norms if name not in EXTRA_NORMS]
    require(not unknown, f"extra_norms takes {' and '.join(EXTRA_NORMS)}, but got {unknown}.")
    require(
        c.residual == "sequential" or (c.norm == "pre" and not sandwich),
        f"residual {c.residual} needs norm = pre and no sandwich norms, but norm is "
        f"{c.norm} and extra_norms are {list(c.extra_norms)}.",
    )
    require(
        c.norm == "pre" or not sandwich,
        f"sandwich norms need norm = pre, but norm is {c.norm}.",
    )
    require(
        c.norm_weight or not c.norm_unit_offset,
        "norm_unit_offset adds 1 to the scale of norms, which norm_weight = false leaves out.",
    )


def _require_attention(c: Any) -> None:
    require(
        not c.cross_attention or c.residual == "sequential",
        f"cross_attention needs residual = sequential, but residual is {c.residual}.",
    )
    scale = c.attention_scale
    require(isinstance(scale, str) or scale > 0, f"attention_scale must be positive, not {scale}.")
    for window in c.by_layer("window"):
        require(window is None or window > 0, f"window must be positive, but is {window}.")
    heads = c.num_heads * c.head_dim
    require(
        c.attention_out or heads == c.model_dim,
        f"without attention_out the heads' joint width {c.num_heads} * {c.head_dim} = "
        f"{heads} must be model_dim {c.model_dim}.",
    )
