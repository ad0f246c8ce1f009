"""Attention kernels for particular devices, and the choice of a form for a device.

Shapes: B batch, T time, M heads of keys and values, G queries for each, H head width, N = M * G.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import ComputeConfig, ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.attention_forms import Form, Scale, chunked, plain
from jaxgpt.model.spec import Scores
from jaxgpt.model.tiled_attention import tiled


def cudnn(
    q_btmgh: jax.Array,
    k_btmh: jax.Array,
    v_btmh: jax.Array,
    scale: Scale,
    scores: Scores,
    segments_bt: None = None,
) -> jax.Array:
    """cuDNN's fused attention, for NVIDIA GPUs; scores are never written to memory.

    It does not support segments, so `pick` does not choose it for rows of several texts.
    """
    q_btnh = q_btmgh.reshape(*q_btmgh.shape[:2], -1, q_btmgh.shape[-1])
    q_btnh = q_btnh * jnp.asarray(scale, q_btnh.dtype)
    mixed_btnh = jax.nn.dot_product_attention(
        *_padded(q_btnh, k_btmh, v_btmh, length=2, width=8),
        scale=1.0,
        is_causal=True,
        local_window_size=None if scores.window is None else (scores.window - 1, 0),
        implementation="cudnn",
    )
    return mixed_btnh[:, : q_btmgh.shape[1], :, : q_btmgh.shape[-1]].reshape(q_btmgh.shape)


def splash(
    q_btmgh: jax.Array,
    k_btmh: jax.Array,
    v_btmh: jax.Array,
    scale: Scale,
    scores: Scores,
    segments_bt: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The splash kernel, for TPUs.

    It writes no scores to memory and skips the blocks that the mask hides.
    """
    queries = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    parts = _padded(queries, k_btmh, v_btmh, length=SPLASH_BLOCK, width=1)
    q_bmgth, k_bmth, v_bmth = (jnp.moveaxis(part, 1, -2) for part in parts)
    group, length = q_bmgth.shape[2:4]
    kernel = _splash_kernel(length, q_bmgth.shape[1] if group == 1 else group, group, scores)(
        interpret=interpret
    )
    segments = None if segments_bt is None else _splash_segments(segments_bt, length)
    if group == 1:  # one kernel for all heads, instead of one for each key head
        mixed_bmth = jax.vmap(kernel)(q_bmgth[:, :, 0], k_bmth, v_bmth, segments)
        mixed_bmgth = mixed_bmth[:, :, None]
    else:
        by_head = jax.vmap(kernel, in_axes=(0, 0, 0, None))
        mixed_bmgth = jax.vmap(by_head)(q_bmgth, k_bmth, v_bmth, segments)
    return jnp.moveaxis(mixed_bmgth, -2, 1)[:, : q_btmgh.shape[1]]


SPLASH_BLOCK = 128  # the number of lanes of a TPU's vector unit


def _splash_segments(segments_bt: jax.Array, length: int) -> Any:
    """The segments of queries and keys, padded to `length`, as splash takes them."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    padded_bt = jnp.pad(segments_bt, [(0, 0), (0, length - segments_bt.shape[1])])
    return SegmentIds(padded_bt, padded_bt)


def _splash_kernel(length: int, heads: int, group: int, scores: Scores) -> Callable[..., Any]:
    """A function that makes the kernel for `heads` query heads, `group` of which share a key
    head."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

    block = next(size for size in (512, 384, 256, SPLASH_BLOCK) if length % size == 0)
    names = ["q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq"]
    widths: dict[str, Any] = {f"block_{name}": block for name in names}
    one: Any = mask.CausalMask((length, length))
    if scores.window is not None:
        one = mask.LocalMask((length, length), (scores.window - 1, 0), 0)
    return partial(
        kernel.make_splash_mha if group == 1 else kernel.make_splash_mqa,
        mask.MultiHeadMask([one] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernel.BlockSizes(**widths),
        attn_logits_soft_cap=scores.softcap,
    )


def _padded(*parts: jax.Array, length: int, width: int) -> list[jax.Array]:
    """The arrays, zero-padded to a multiple of `length` positions and of `width` in each head.

    Zeros past a head's width change no score, and no query attends to later positions.
    """
    padded = []
    for part in parts:  # (B, T, ..., H)
        pads = [(0, 0)] * part.ndim
        pads[1], pads[-1] = (0, -part.shape[1] % length), (0, -part.shape[-1] % width)
        padded.append(jnp.pad(part, pads))
    return padded


@dataclass(frozen=True)
class Kernel:
    """A form of attention for some devices, and its requirements."""

    form: Form
    platform: str
    device: str  # the devices that have it, for the error message
    dtypes: tuple[str, ...]
    widest_head: float
    caps: bool  # whether it supports attention_softcap
    biases: bool  # whether it supports ALiBi's biases
    segments: bool  # whether a row may hold several texts
    shortest: int  # the shortest context at which it is the fastest form

    def refuses(self, device: Any, dtype: str, model: ModelConfig, pack: str) -> str:
        """The reason why the kernel cannot be used, or an empty string."""
        capability = getattr(device, "compute_capability", "") if device.platform == "gpu" else ""
        fits = device.platform == self.platform and (
            self.platform != "gpu" or _number(capability) >= 8
        )
        if not fits:
            return f"needs {self.device}, and the device is {device.device_kind}"
        if dtype not in self.dtypes:
            return f"computes in {' or '.join(self.dtypes)}, and compute.dtype is {dtype}"
        if model.head_dim > self.widest_head:
            return (
                f"takes heads up to {self.widest_head} wide, and model.head_dim is {model.head_dim}"
            )
        if model.positions == "alibi" and not self.biases:
            return "has no biases of scores, and model.positions is alibi"
        if model.attention_softcap is not None and not self.caps:
            return f"does not bound scores, and attention_softcap is {model.attention_softcap}"
        if pack != "off" and not self.segments:
            return f"does not keep the documents of a row apart, and data.pack is {pack}"
        return ""


def _number(capability: str) -> float:
    """The compute capability of an NVIDIA GPU as a number; 0 for other makers' names."""
    return float(capability) if capability.replace(".", "", 1).isdigit() else 0.0


KERNELS = {
    "cudnn": Kernel(
        cudnn,
        "gpu",
        "an NVIDIA GPU of the Ampere generation or later",
        ("bfloat16",),
        128,
        caps=False,
        biases=False,
        segments=False,
        shortest=128,
    ),
    "splash": Kernel(
        splash,
        "tpu",
        "a TPU",
        ("float32", "bfloat16"),
        256,
        caps=True,
        biases=False,
        segments=True,
        shortest=128,
    ),
    "tiled": Kernel(
        tiled,
        "cpu",
        "a CPU",
        ("float32", "bfloat16"),
        math.inf,
        caps=True,
        biases=True,
        segments=True,
        shortest=256,
    ),
}
FORMS: dict[str, Form] = {"xla": plain, "chunked": chunked} | {
    name: each.form for name, each in KERNELS.items()
}


def pick(
    model: ModelConfig, compute: ComputeConfig, device: Any, pack: str = "off"
) -> tuple[str, str]:
    """The name of the attention form to use on `device`, and the reason; `pack` is data.pack.

    Raises if `compute.attention` names a form that cannot be used there.
    """
    dtype = compute.dtype
    refusals = {
        name: kernel.refuses(device, dtype, model, pack) for name, kernel in KERNELS.items()
    }
    setting, possible = compute.attention, [name for name in FORMS if not refusals.get(name)]
    if setting != "auto":
        if setting not in possible:
            raise UserError(
                f"compute.attention is {setting}, which {refusals[setting]}. "
                f"These can be used here: auto, {', '.join(possible)}."
            )
        return setting, "as compute.attention says"
    name = next(
        (name for name, kernel in KERNELS.items() if kernel.platform == device.platform), ""
    )
    if not name:
        return "chunked", f"as there is no kernel for {device.device_kind}"
    if refusals[name]:
        return "chunked", f"as {name} {refusals[name]}"
    if model.context_length < KERNELS[name].shortest:
        return "chunked", f"as {name} is no faster at {model.context_length} positions"
    return name, f"for {device.device_kind}, {dtype} and heads of {model.head_dim}"
