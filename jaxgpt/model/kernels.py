"""Attention kernels for particular devices, and the choice of a form for a device.

Shapes: B batch, T time, N heads, H head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import ComputeConfig, ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.forms import Form, Scale, chunked, plain


def cudnn(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """cuDNN's fused attention, for NVIDIA GPUs; scores are never written to memory."""
    parts = _padded(q_btnh * jnp.asarray(scale, q_btnh.dtype), k_btnh, v_btnh, length=2, width=8)
    mixed = jax.nn.dot_product_attention(*parts, scale=1.0, is_causal=True, implementation="cudnn")
    return mixed[:, : q_btnh.shape[1], :, : q_btnh.shape[3]]


def splash(
    q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale, interpret: bool = False
) -> jax.Array:
    """The splash kernel, for TPUs.

    It writes no scores to memory and skips the blocks above the diagonal.
    """
    parts = _padded(
        q_btnh * jnp.asarray(scale, q_btnh.dtype), k_btnh, v_btnh, length=SPLASH_BLOCK, width=1
    )
    kernel = _splash_kernel(parts[0].shape[1], parts[0].shape[2], interpret)
    mixed_bnth = jax.vmap(kernel)(*(part.swapaxes(1, 2) for part in parts))
    return mixed_bnth.swapaxes(1, 2)[:, : q_btnh.shape[1]]


SPLASH_BLOCK = 128  # the number of lanes of a TPU's vector unit
SHORT = 128  # below this context length a kernel would mostly work on padding


def _splash_kernel(length: int, heads: int, interpret: bool) -> Callable[..., jax.Array]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

    block = next(size for size in (512, 384, 256, SPLASH_BLOCK) if length % size == 0)
    names = ["q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq"]
    causal = mask.MultiHeadMask([mask.CausalMask((length, length))] * heads)
    widths: dict[str, Any] = {f"block_{name}": block for name in names}
    sizes = kernel.BlockSizes(**widths)
    return kernel.make_splash_mha(
        causal, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret
    )


def _padded(*parts_btnh: jax.Array, length: int, width: int) -> list[jax.Array]:
    """The parts, zero-padded to multiples of `length` positions and of `width` in each head.

    Zeros past a head's width change no score, and no query attends to later positions.
    """
    _, t, _, h = parts_btnh[0].shape
    return [
        jnp.pad(part, ((0, 0), (0, -t % length), (0, 0), (0, -h % width))) for part in parts_btnh
    ]


@dataclass(frozen=True)
class Kernel:
    """A form of attention for some devices, and its requirements."""

    form: Form
    platform: str
    device: str  # the devices that have it, for the error message
    dtypes: tuple[str, ...]
    widest_head: int

    def refuses(self, device: Any, dtype: str, head_dim: int) -> str:
        """The reason why the kernel cannot be used, or an empty string."""
        capability = getattr(device, "compute_capability", "") if device.platform == "gpu" else ""
        fits = device.platform == self.platform and (
            self.platform != "gpu" or _number(capability) >= 8
        )
        if not fits:
            return f"needs {self.device}, and the device is {device.device_kind}"
        if dtype not in self.dtypes:
            return f"computes in {' or '.join(self.dtypes)}, and compute.dtype is {dtype}"
        if head_dim > self.widest_head:
            return f"takes heads as wide as {self.widest_head}, and model.head_dim is {head_dim}"
        return ""


def _number(capability: str) -> float:
    """The compute capability of an NVIDIA GPU as a number; 0 for other makers' names."""
    return float(capability) if capability.replace(".", "", 1).isdigit() else 0.0


KERNELS = {
    "cudnn": Kernel(
        cudnn, "gpu", "an NVIDIA GPU of the Ampere generation or later", ("bfloat16",), 128
    ),
    "splash": Kernel(splash, "tpu", "a TPU", ("float32", "bfloat16"), 256),
}
FORMS: dict[str, Form] = {"xla": plain, "chunked": chunked} | {
    name: each.form for name, each in KERNELS.items()
}


def pick(model: ModelConfig, compute: ComputeConfig, device: Any) -> tuple[str, str]:
    """The name of the form to use on `device`, and the reason for it.

    Raises if `compute.attention` names a form that cannot be used there.
    """
    dtype = compute.dtype
    refusals = {
        name: kernel.refuses(device, dtype, model.head_dim) for name, kernel in KERNELS.items()
    }
    setting, possible = compute.attention, [name for name in FORMS if not refusals.get(name)]
    if setting != "auto":
        if setting not in possible:
            raise UserError(
                f"compute.attention is {setting}, which {refusals[setting]}. "
                f"Here these would do: auto, {', '.join(possible)}."
            )
        return setting, "as compute.attention says"
    name = next(
        (name for name, kernel in KERNELS.items() if kernel.platform == device.platform), ""
    )
    if not name:
        return "chunked", f"as there is no kernel for {device.device_kind}"
    if refusals[name]:
        return "chunked", f"as {name} {refusals[name]}"
    if model.context_length < SHORT:
        return "chunked", f"as {model.context_length} positions are too few to gain by {name}"
    return name, f"which {device.device_kind} has, for {dtype} and heads of {model.head_dim}"
