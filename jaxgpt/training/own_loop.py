"""The compiled training step and its first state, for users who write their own loop."""

from collections.abc import Mapping
from typing import Any, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.config import ComputeConfig, Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows
from jaxgpt.errors import require
from jaxgpt.mesh_config import MeshConfig
from jaxgpt.model import GPT, Seq2Seq, check_mask, check_source, check_tokens, params_of
from jaxgpt.settings import build
from jaxgpt.training.batches import split_batch
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import Metrics, State, init_state, jitted_step

NOWHERE = "none"  # placeholder: a step reads no data and writes no run
Settings = Mapping[str, Any] | None


class Step(Protocol):
    """The step of a decoder."""

    def __call__(self, state: State, ids: ArrayLike) -> tuple[State, Metrics]:
        """The state after `state` and the metrics of the step, for the batch `ids` (B, T + 1)."""


class PairStep(Protocol):
    """The step of an encoder-decoder."""

    def __call__(
        self,
        state: State,
        source: ArrayLike,
        ids: ArrayLike,
        source_mask: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[State, Metrics]:
        """The state after `state` and the metrics, for a batch of `source` (B, S) and `ids`."""


@overload
def compiled_step(
    model: GPT,
    *,
    train: Settings = None,
    optim: Settings = None,
    compute: Settings = None,
    mesh: Settings = None,
) -> tuple[Step, State]: ...
@overload
def compiled_step(
    model: Seq2Seq,
    *,
    train: Settings = None,
    optim: Settings = None,
    compute: Settings = None,
    mesh: Settings = None,
) -> tuple[PairStep, State]: ...
def compiled_step(
    model: GPT | Seq2Seq,
    *,
    train: Settings = None,
    optim: Settings = None,
    compute: Settings = None,
    mesh: Settings = None,
) -> tuple[Step | PairStep, State]:
    """The training step that `jaxgpt train` compiles, and the state with the weights of `model`.

    `step(state, ids)` returns the next state and the metrics of the step, for any ids (B, T + 1);
    each is predicted from those before it. The step of an encoder-decoder is `step(state, source,
    ids, source_mask, mask)`: each token of `ids` is predicted from those before it and from the ids
    `source` (B, S). The masks are true at real tokens of the source and of `ids`, false at padding;
    by default all are real.

    The state that a step takes is donated, which means that its arrays are used up; `model` itself
    does not change. The weights of a state are `state.params`; `assemble(model.config,
    state.params)` gives the model with these.

    Args:
        train: Settings of `[train]`: `batch_size`, which is B, `steps`, which the learning rate
            needs, `accumulate` and `seed`; the others are for a run.
        optim: Settings of `[optim]`, such as `{"learning_rate": 3e-4}`.
        compute: Settings of `[compute]`, such as `{"dtype": "bfloat16"}`.
        mesh: Settings of `[mesh]`: how devices share the work.

    Raises:
        UserError: A setting does not exist or does not fit.
    """
    require(
        isinstance(model, (GPT, Seq2Seq)),
        f"compiled_step takes a GPT or a Seq2Seq, but got a {type(model).__name__}.",
    )
    config = _config(model, {"train": train, "optim": optim, "compute": compute, "mesh": mesh})
    rows = config.train.batch_size // config.train.accumulate
    grid = make_mesh(config.mesh, rows, config.model.model_dim)
    jitted, state_shardings = jitted_step(config, grid, Compute.of(config, grid))
    # A copy, because the first step donates its state.
    params = jax.tree.map(jnp.copy, params_of(model))
    state = jax.jit(lambda tree: init_state(config, tree), out_shardings=state_shardings)(params)

    def run(state: State, batch: np.ndarray | PairBatch) -> tuple[State, Metrics]:
        parts = split_batch(batch, config.train.accumulate, over_rows(grid, axis=1))
        after: tuple[State, Metrics] = jitted(state, parts)
        return after

    def step(state: State, ids: ArrayLike) -> tuple[State, Metrics]:
        return run(state, _checked(ids, config))

    def pair_step(
        state: State,
        source: ArrayLike,
        ids: ArrayLike,
        source_mask: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[State, Metrics]:
        return run(state, _checked_pairs(source, ids, source_mask, mask, config))

    return step if isinstance(model, GPT) else pair_step, state


def _config(model: GPT | Seq2Seq, settings: Mapping[str, Settings]) -> Config:
    """The config of a run of `model` with the `settings` of sections."""
    kinds = {
        "train": TrainConfig, "optim": OptimConfig, "compute": ComputeConfig, "mesh": MeshConfig
    }  # fmt: skip
    sections: dict[str, Any] = {
        name: build(kind, settings[name] or {}, f"compiled_step, {name}")
        for name, kind in kinds.items()
    }
    if isinstance(model, Seq2Seq):
        sections["encoder"] = model.config.encoder
    decoder = model.config.decoder if isinstance(model, Seq2Seq) else model.config
    return Config(DataConfig(NOWHERE), RunConfig(NOWHERE), model=decoder, **sections)


def _checked(ids: ArrayLike, config: Config) -> np.ndarray:
    """The batch `ids`, checked: its size must be as in `config`, and its values valid ids."""
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


def _checked_pairs(
    source: ArrayLike,
    ids: ArrayLike,
    source_mask: ArrayLike | None,
    mask: ArrayLike | None,
    config: Config,
) -> PairBatch:
    """The batch of `source` and `ids`, checked as `_checked` does."""
    assert config.encoder is not None
    batch, sources = _checked(ids, config), np.asarray(source)
    check_source(sources, config.encoder)
    of_source, of_ids = (
        np.ones(whole.shape, bool) if given is None else np.asarray(given)
        for whole, given in ((sources, source_mask), (batch, mask))
    )
    check_mask(of_source, sources.shape, len(batch))
    require(
        of_ids.dtype == bool and of_ids.shape == batch.shape and bool(of_ids[:, 1:].any()),
        f"The mask of the ids must be boolean and of their shape, {batch.shape}, and true for at "
        f"least one id after the first of a row, but is {of_ids.dtype} {of_ids.shape} with "
        f"{np.count_nonzero(of_ids[:, 1:])} such ids.",
    )
    targets = batch[:, 1:], of_ids[:, 1:]
    return PairBatch(sources.astype(np.int32), of_source, batch[:, :-1], *targets)
