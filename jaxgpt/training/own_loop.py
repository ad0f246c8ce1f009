"""The compiled training step and its first state, for a loop of one's own without a run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.config import ComputeConfig, Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, placed
from jaxgpt.errors import UserError, require
from jaxgpt.mesh_config import MeshConfig
from jaxgpt.model import GPT, check_tokens, params_of
from jaxgpt.settings import build
from jaxgpt.training.step import Metrics, State, init_state, jitted_step

Step = Callable[[State, ArrayLike], tuple[State, Metrics]]
NOWHERE = "none"  # a step reads no data and writes no run


def compiled_step(
    model: GPT,
    *,
    train: Mapping[str, Any] | None = None,
    optim: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    mesh: Mapping[str, Any] | None = None,
) -> tuple[Step, State]:
    """The training step that `jaxgpt train` compiles, and the state with the weights of `model`.

    `step(state, ids)` returns the next state and the metrics of the step, for ids (B, T + 1) of any
    origin: each token is to be predicted from those before it. The state that it takes is donated,
    which means that its arrays are used up; `model` itself does not change. The weights of a state
    are `state.params`, of which `assemble(model.config, state.params)` makes a model.

    Args:
        train: Settings of `[train]`: `batch_size`, which is B, `steps`, which the learning rate
            needs, `accumulate` and `seed`; the others are for a run.
        optim: Settings of `[optim]`, such as `{"learning_rate": 3e-4}`.
        compute: Settings of `[compute]`, such as `{"dtype": "bfloat16"}`.
        mesh: Settings of `[mesh]`: how devices share the work.

    Raises:
        UserError: A setting does not exist or does not fit, or `model` is an encoder-decoder.
    """
    if not isinstance(model, GPT):
        raise UserError(
            f"compiled_step takes a GPT, but got a {type(model).__name__}. For an encoder-decoder "
            "differentiate a loss of model.logits(source, tokens, mask) with jax.grad."
        )
    kinds = {"train": TrainConfig, "optim": OptimConfig, "compute": ComputeConfig}
    values = {"train": train, "optim": optim, "compute": compute}
    sections: dict[str, Any] = {
        name: build(kind, values[name] or {}, f"compiled_step, {name}")
        for name, kind in kinds.items()
    }
    devices: MeshConfig = build(MeshConfig, mesh or {}, "compiled_step, mesh")
    config = Config(
        DataConfig(NOWHERE), RunConfig(NOWHERE), model=model.config, mesh=devices, **sections
    )
    rows = config.train.batch_size // config.train.accumulate
    grid = make_mesh(config.mesh, rows, config.model.model_dim)
    jitted, where = jitted_step(config, grid)
    # A copy, since the first step uses up its state.
    params = jax.tree.map(jnp.copy, params_of(model))
    state = jax.jit(lambda tree: init_state(config, tree), out_shardings=where)(params)

    def step(state: State, ids: ArrayLike) -> tuple[State, Metrics]:
        """The state after `state` and the metrics of the step, for the batch `ids` (B, T + 1)."""
        batch = _checked(ids, config)
        parts = batch.reshape(config.train.accumulate, -1, batch.shape[1])
        after: tuple[State, Metrics] = jitted(state, placed(parts, over_rows(grid, axis=1)))
        return after

    return step, state


def _checked(ids: ArrayLike, config: Config) -> np.ndarray:
    """The batch `ids`; one of another size than `config` says is refused, and ids that are none."""
    batch = np.asarray(ids)
    size = config.train.batch_size
    require(
        batch.ndim == 2 and len(batch) == size and batch.shape[1] > 1,
        f"A batch must have the shape ({size}, T + 1) with at least two ids in a row, as "
        f"train.batch_size is {size}, but has {batch.shape}.",
    )
    for part in (batch[:, :-1], batch[:, 1:]):
        check_tokens(part, config.model)
    return batch.astype(np.int32)
