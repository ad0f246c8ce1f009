"""Models of every kind in float32 on the device, against the same in float64 on the CPU.

Logits, and every gradient of the loss. A difference is relative to the largest value of its tensor,
or to a hundredth of the largest gradient. It may be ten times that of float32 on the CPU, since
rounding grows more in some kinds than in others.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.dialects import DIALECTS
from jaxgpt.config import ModelConfig
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.pytree import Tree, flatten
from jaxgpt.training.losses import cross_entropy, pair_logits
from tests.accelerator import RIGHT, WRONG, Row
from tests.accelerator.settings import LATE, Settings
from tests.helpers import CONFIGS, PRIMES, config_of, random_model, random_pair

TIMES = 10  # TF32 and bfloat16 are a thousand times as coarse as float32, and more
LEAST = 2e-5
CANCELLED = 0.01  # a gradient this small next to the largest is a sum that cancels out
PAIR = "encoder-decoder"
Computed = tuple[np.ndarray, dict[str, np.ndarray]]  # logits, and gradients by parameter


def measure(settings: Settings) -> Iterator[Row]:
    some = list(kinds().items())[: settings.sizes.kinds]
    for (name, fields), in_time in settings.timely(some):
        if not in_time:
            yield {"kind": name, "logits": None, "gradients": None, "note": LATE}
            continue
        config, params, batch = case(name, fields)
        cpu = jax.devices("cpu")[0]
        exact = computed(config, params, batch, "float64", cpu)
        logits, gradients = differences(
            computed(config, params, batch, "float32", jax.devices()[0]), exact
        )
        of_cpu = max(differences(computed(config, params, batch, "float32", cpu), exact))
        same = max(logits, gradients) < max(TIMES * of_cpu, LEAST)
        yield {
            "kind": name,
            "logits": logits,
            "gradients": gradients,
            "on the CPU": of_cpu,
            "verdict": RIGHT if same else WRONG,
        }


def kinds() -> dict[str, dict[str, Any]]:
    """Fields of models by name: between them every choice, and whatever else a dialect has."""
    named: dict[str, dict[str, Any]] = {PAIR: {}, **CONFIGS}
    seen = {ModelConfig(**{**PRIMES, **fields}) for fields in CONFIGS.values()}
    for name, dialect in DIALECTS.items():
        config = config_of(dialect)  # a decoder of memories is the one of the encoder-decoder
        if config not in seen and not config.cross_attention:
            seen.add(config)
            named[f"as dialect {name}"] = vars(config)
    return named


def case(name: str, fields: dict[str, Any]) -> tuple[Any, Tree, Any]:
    """The config of a kind, random parameters, and a batch."""
    model = random_pair("float32") if name == PAIR else random_model("float32", **fields)
    batch = pair_batch() if name == PAIR else text_batch(model.config)
    return model.config, jax.tree.map(np.asarray, params_of(model)), batch


def text_batch(config: ModelConfig) -> np.ndarray:
    """Random ids (B, T + 1) that fill the context."""
    shape = 2, config.context_length + 1
    return np.random.default_rng(1).integers(config.vocab_size, size=shape, dtype=np.int32)


def pair_batch() -> PairBatch:
    """Random pairs for `random_pair`, of which some positions are padding."""
    model = random_pair("float32").config
    rng = np.random.default_rng(1)
    source = 2, model.encoder.context_length
    target = 2, model.decoder.context_length
    mask_bs, mask_bt = np.ones(source, bool), np.ones(target, bool)
    mask_bs[1, 5:], mask_bt[1, 7:] = False, False
    return PairBatch(
        rng.integers(model.encoder.vocab_size, size=source, dtype=np.int32),
        mask_bs,
        *(rng.integers(model.decoder.vocab_size, size=target, dtype=np.int32) for _ in range(2)),
        mask_bt,
    )


def computed(config: Any, params: Tree, batch: Any, dtype: str, device: jax.Device) -> Computed:
    """The logits of `batch` and the gradients of its loss, computed in `dtype` on `device`."""
    with exactly(jnp.dtype(dtype)), jax.default_device(device):
        there = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        logits, gradients = jax.device_get(jax.jit(partial(both, config))(there, batch))
    return logits, flatten(gradients)


def both(config: Any, params: Tree, batch: Any) -> tuple[jax.Array, Tree]:
    """The logits of `batch`, and the gradients of its loss."""

    def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
        if isinstance(batch, PairBatch):
            logits, mask = pair_logits(config, params, batch), batch.target_mask_bt
            losses = cross_entropy(logits, jnp.asarray(batch.targets_bt))
            return jnp.sum(losses, where=mask) / mask.sum(), logits
        logits = assemble(config, params).logits(batch[:, :-1])
        return cross_entropy(logits, batch[:, 1:]).mean(), logits

    gradients, logits = jax.grad(loss, has_aux=True)(params)
    return logits, gradients


def differences(ours: Computed, exact: Computed) -> tuple[float, float]:
    """The largest difference of the logits, and that of the gradients."""
    largest = max(np.abs(gradient).max() for gradient in exact[1].values())
    gradients = (
        difference(ours[1][path], gradient, CANCELLED * largest)
        for path, gradient in exact[1].items()
    )
    return difference(ours[0], exact[0]), max(gradients)


def difference(ours: np.ndarray, exact: np.ndarray, least: float = 0.0) -> float:
    """The largest difference, as a share of the largest value, or of `least` if that is larger."""
    largest = max(float(np.abs(exact).max()), least)
    return float(np.abs(ours.astype("float64") - exact).max()) / largest
