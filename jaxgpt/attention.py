"""Causal attention over heads, in four forms that agree, and which of them a device can and should use. Knows no
parameters: queries, keys and values come in, their mixture goes out.

Shapes: B batch, T queries, S keys, N heads, H head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import ModelConfig, UserError

Attend = Callable[..., jax.Array]  # (queries, keys, values, scale) -> what they mix, all (B, T, N, H)
Scale = jax.Array | float  # what scores are multiplied by; an array, where each layer has its own


def plain(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """As it is taught: all scores at once."""
    return _mix(attention_weights(q_btnh, k_btnh, scale).astype(v_btnh.dtype), v_btnh)


def chunked(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """Queries in blocks, each with the keys up to its own end: little is computed that the mask would throw away."""
    length = q_btnh.shape[1]
    width = 64 * -(-length // 512)  # 2 blocks of 128 positions, at most 8 of any length
    scaled_btnh = q_btnh * jnp.asarray(scale, q_btnh.dtype)
    blocks = [
        _attend_block(scaled_btnh[:, start : start + width], k_btnh[:, : start + width], v_btnh[:, : start + width])
        for start in range(0, length, width)
    ]
    return jnp.concatenate(blocks, axis=1)


def cudnn(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """cuDNN's fused attention, for NVIDIA GPUs: scores never reach the memory."""
    parts = _padded(q_btnh * jnp.asarray(scale, q_btnh.dtype), k_btnh, v_btnh, length=2, width=8)
    mixed = jax.nn.dot_product_attention(*parts, scale=1.0, is_causal=True, implementation="cudnn")
    return mixed[:, : q_btnh.shape[1], :, : q_btnh.shape[3]]


def splash(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale, interpret: bool = False) -> jax.Array:
    """The splash kernel, for TPUs: scores never reach the memory, and blocks above the diagonal are left out."""
    parts = _padded(q_btnh * jnp.asarray(scale, q_btnh.dtype), k_btnh, v_btnh, length=SPLASH_BLOCK, width=1)
    kernel = _splash_kernel(parts[0].shape[1], parts[0].shape[2], interpret)
    mixed_bnth = jax.vmap(kernel)(*(part.swapaxes(1, 2) for part in parts))
    return mixed_bnth.swapaxes(1, 2)[:, : q_btnh.shape[1]]


SPLASH_BLOCK = 128  # as many as a TPU's vector unit has lanes
SHORT = 128  # below, scores are few, and a kernel would work on padding


def _splash_kernel(length: int, heads: int, interpret: bool) -> Callable[..., jax.Array]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

    block = next(size for size in (512, 384, 256, SPLASH_BLOCK) if length % size == 0)
    names = ["q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq"]
    causal = mask.MultiHeadMask([mask.CausalMask((length, length))] * heads)
    widths: dict[str, Any] = {f"block_{name}": block for name in names}
    sizes = kernel.BlockSizes(**widths)
    return kernel.make_splash_mha(causal, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)


def _padded(*parts_btnh: jax.Array, length: int, width: int) -> list[jax.Array]:
    """With zeros, to whole multiples. Zeros past a head's width add nothing, and no query looks at what comes after."""
    _, t, _, h = parts_btnh[0].shape
    return [jnp.pad(part, ((0, 0), (0, -t % length), (0, 0), (0, -h % width))) for part in parts_btnh]


@dataclass(frozen=True)
class Kernel:
    """A form that only some devices have, and what it asks of them."""

    attend: Attend
    platform: str
    device: str  # in words
    dtypes: tuple[str, ...]
    widest_head: int

    def refuses(self, device: Any, dtype: str, head_dim: int) -> str:
        """Why it cannot be used; nothing, where it can."""
        capability = getattr(device, "compute_capability", "") if device.platform == "gpu" else ""
        fits = device.platform == self.platform and (self.platform != "gpu" or _number(capability) >= 8)
        if not fits:
            return f"needs {self.device}, and the device is {device.device_kind}"
        if dtype not in self.dtypes:
            return f"computes in {' or '.join(self.dtypes)}, and train.compute_dtype is {dtype}"
        if head_dim > self.widest_head:
            return f"takes heads as wide as {self.widest_head}, and model.head_dim is {head_dim}"
        return ""


def _number(capability: str) -> float:
    """Of an NVIDIA GPU; what other makers call their own is none."""
    return float(capability) if capability.replace(".", "", 1).isdigit() else 0.0


KERNELS = {
    "cudnn": Kernel(cudnn, "gpu", "an NVIDIA GPU of the Ampere generation or later", ("bfloat16",), 128),
    "splash": Kernel(splash, "tpu", "a TPU", ("float32", "bfloat16"), 256),
}
FORMS: dict[str, Attend] = {"xla": plain, "chunked": chunked} | {name: each.attend for name, each in KERNELS.items()}


def pick(model: ModelConfig, device: Any, dtype: str) -> tuple[str, str]:
    """Which form to use, and why. One that is asked for and cannot be used is an error."""
    refusals = {name: kernel.refuses(device, dtype, model.head_dim) for name, kernel in KERNELS.items()}
    asked, possible = model.attention, [name for name in FORMS if not refusals.get(name)]
    if asked != "auto":
        if asked not in possible:
            raise UserError(
                f"model.attention is {asked}, which {refusals[asked]}. "
                f"Here these would do: auto, {', '.join(possible)}."
            )
        return asked, "as model.attention says"
    name = next((name for name, kernel in KERNELS.items() if kernel.platform == device.platform), "")
    if not name:
        return "chunked", f"as there is no kernel for {device.device_kind}"
    if refusals[name]:
        return "chunked", f"as {name} {refusals[name]}"
    if model.context_length < SHORT:
        return "chunked", f"as {model.context_length} positions are too few to gain by {name}"
    return name, f"which {device.device_kind} has, for {dtype} and heads of {model.head_dim}"


def attend_cached(
    q_bnh: jax.Array,
    own_bnh: tuple[jax.Array, jax.Array],
    k_bnsh: jax.Array,
    v_bnsh: jax.Array,
    position_b: jax.Array,
    scale: Scale,
) -> jax.Array:
    """One query in each row, with its own key and value and with those that were kept before its position."""
    k_bnh, v_bnh = own_bnh
    q_bnh = q_bnh * jnp.asarray(scale, q_bnh.dtype)
    before_bs = jnp.arange(k_bnsh.shape[2]) < position_b[:, None]
    scores_bns = jnp.where(before_bs[:, None], jnp.einsum("bnh,bnsh->bns", q_bnh, k_bnsh), -jnp.inf)
    scores_bns = jnp.concatenate([scores_bns, (q_bnh * k_bnh).sum(axis=-1, keepdims=True)], axis=-1)
    weights_bns = jax.nn.softmax(scores_bns.astype(sum_dtype(q_bnh))).astype(v_bnsh.dtype)
    kept_bnh = jnp.einsum("bns,bnsh->bnh", weights_bns[..., :-1], v_bnsh)
    return kept_bnh + weights_bns[..., -1:] * v_bnh


def attention_weights(q_btnh: jax.Array, k_bsnh: jax.Array, scale: Scale) -> jax.Array:
    """(B, N, T, S): how much each query takes from each key; the queries are the last of the positions."""
    scores_bnts = _sums("btnh,bsnh->bnts", q_btnh * jnp.asarray(scale, q_btnh.dtype), k_bsnh)
    t, s = scores_bnts.shape[-2:]
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((t, s), bool), k=s - t), scores_bnts, -jnp.inf))


def _mix(weights_bnts: jax.Array, v_bsnh: jax.Array) -> jax.Array:
    return jnp.einsum("bnts,bsnh->btnh", weights_bnts, v_bsnh)


@jax.custom_vjp
def _attend_block(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array) -> jax.Array:
    return _forward(q_btnh, k_bsnh, v_bsnh)[0]


def _forward(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    weights_bnts = attention_weights(q_btnh, k_bsnh, 1.0).astype(v_bsnh.dtype)
    return _mix(weights_bnts, v_bsnh), (q_btnh, k_bsnh, v_bsnh, weights_bnts)


def _backward(kept: tuple[jax.Array, ...], gradient_btnh: jax.Array) -> tuple[jax.Array, ...]:
    """By hand: automatic differentiation passes over the (T, S) matrices more often than it must."""
    q_btnh, k_bsnh, v_bsnh, weights_bnts = kept
    by_weights = _sums("btnh,bsnh->bnts", gradient_btnh, v_bsnh)
    along = (by_weights * weights_bnts).sum(axis=-1, keepdims=True)
    by_scores = (weights_bnts * (by_weights - along)).astype(q_btnh.dtype)
    return (
        jnp.einsum("bnts,bsnh->btnh", by_scores, k_bsnh),
        jnp.einsum("bnts,btnh->bsnh", by_scores, q_btnh),
        jnp.einsum("bnts,btnh->bsnh", weights_bnts, gradient_btnh),
    )


_attend_block.defvjp(_forward, _backward)


def _sums(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product whose sums are not rounded to 16 bits, where its factors are."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=sum_dtype(a))


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """Sums and exponentials are taken in float32 at least, whatever the matrices are in."""
    return jnp.promote_types(x.dtype, jnp.float32)
