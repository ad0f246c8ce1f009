"""How a step is computed: the form of attention, what is recomputed, and the sharding."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.config import ComputeConfig, Config, ModelConfig
from jaxgpt.devices.sharding import Gather, on_each
from jaxgpt.model.attention import Attend, causal, keep_nothing
from jaxgpt.model.attention_kernels import FORMS, KERNELS, pick
from jaxgpt.model.linear import PRODUCT
from jaxgpt.model.stack import Stack

# The checkpoint policy for each compute.remat: which forward results the backward pass reuses.
SAVED = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT)}
# (a block, its layer number, the stream) -> the stream after it
Apply = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a step is computed: the settings of `[compute]`, a form of attention, the sharding."""

    settings: ComputeConfig
    attend: Attend = causal
    gather: Gather | None = None  # if weights are sharded: gathers those of each block before use
    choices: tuple[tuple[str, str], ...] = ()  # (what was chosen for the device, why), to print

    @staticmethod
    def of(config: Config, mesh: Mesh) -> "Compute":
        """The fastest usable way to compute the steps of `config` on the devices of `mesh`."""
        return Compute.on(mesh, config.model, config.compute, config.data.pack)

    @staticmethod
    def on(mesh: Mesh, model: ModelConfig, settings: ComputeConfig, pack: str = "off") -> "Compute":
        """The fastest usable way to compute `model` on devices of `mesh`; `pack` is data.pack."""
        device, choices = mesh.devices.flat[0], []
        if device.platform == "cpu" and settings.dtype == "bfloat16":
            settings = dataclasses.replace(settings, dtype="float32")
            choices.append(("dtype", "float32, as bfloat16 takes longer on a CPU"))
        name, why = pick(model, settings, device, pack)
        form = on_each(FORMS[name], mesh) if name in KERNELS else FORMS[name]
        choices.append(("attention", f"{name}, {why}"))
        return Compute(settings, keep_nothing(form), Gather.on(mesh), tuple(choices))

    def run(self, stack: Stack, x_btd: jax.Array, apply: Apply) -> jax.Array:
        """The stream after the blocks of `stack`, each run by `apply`."""

        def gathered(block: Any, layer: jax.Array, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
            if self.gather:
                block, x = self.gather.block(block), self.gather.rows(x)
            return apply(block, layer, x), None

        remat, step = self.settings.remat, gathered
        if remat != "none":
            step = jax.checkpoint(gathered, prevent_cse=False, policy=SAVED[remat])
        return stack.run(x_btd, step, unroll=self.settings.scan_unroll)[0]
