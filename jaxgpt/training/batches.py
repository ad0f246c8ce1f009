"""The batches of a run as arrays sharded over the rows."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data import pair_batches
from jaxgpt.data.batches import batch
from jaxgpt.data.pairs import PairDataset
from jaxgpt.data.tokens import Dataset
from jaxgpt.devices.sharding import over_rows, placed


def batches(
    dataset: Dataset | PairDataset, config: Config, mesh: jax.sharding.Mesh
) -> Callable[[int], Any]:
    """The function from the index of a step, from 0, to its batch."""
    if isinstance(dataset, PairDataset):
        return PairBatches(dataset, config, mesh)
    return Batches(dataset.train, config, mesh)


def largest_batch(config: Config) -> Any:
    """Shapes and dtypes of the largest batch that a step of `config` can have."""
    parts, length = config.train.accumulate, config.model.context_length
    rows = config.train.batch_size // parts
    if config.encoder is None:
        return jax.ShapeDtypeStruct((parts, rows, length + 1), np.int32)
    source, target = (parts, rows, config.encoder.context_length), (parts, rows, length)
    return pair_batches.PairBatch(
        jax.ShapeDtypeStruct(source, np.int32),
        jax.ShapeDtypeStruct(source, bool),
        jax.ShapeDtypeStruct(target, np.int32),
        jax.ShapeDtypeStruct(target, np.int32),
        jax.ShapeDtypeStruct(target, bool),
    )


def tokens_per_step(dataset: Dataset | PairDataset, config: Config) -> float:
    """The tokens of a step: of pairs the mean number, sources and targets, without padding."""
    if isinstance(dataset, PairDataset):
        ids, pairs = len(dataset.train.ids), len(dataset.train)
        return config.train.batch_size * (ids + pairs) / pairs
    return config.train.batch_size * config.model.context_length


class PairBatches:
    """The batch of each step, a PairBatch with a leading axis of parts; its shape is a bucket's."""

    def __init__(self, dataset: PairDataset, config: Config, mesh: jax.sharding.Mesh):
        assert config.encoder is not None
        contexts = config.encoder.context_length, config.model.context_length
        self.train, self.sharding = config.train, over_rows(mesh, axis=1)
        self.buckets = pair_batches.make_buckets(dataset.train, config.train.batch_size, *contexts)

    def __call__(self, step: int) -> pair_batches.PairBatch:
        """The batch of the step with the index `step`, from 0."""
        whole = pair_batches.batch(self.buckets, seed=self.train.seed, step=step)
        parts = (x.reshape(self.train.accumulate, -1, x.shape[1]) for x in whole)
        return pair_batches.PairBatch(*(placed(part, self.sharding) for part in parts))


class Batches:
    """The batch of each step, (A, B, T + 1) ids: A parts of B rows."""

    def __init__(self, tokens: np.ndarray, config: Config, mesh: jax.sharding.Mesh):
        train, length = config.train, config.model.context_length
        rows = train.batch_size // train.accumulate
        self.tokens, self.seed = tokens, train.seed
        self.shape = (train.accumulate, rows, length + 1)
        self.parts = over_rows(mesh, axis=1)

    def __call__(self, step: int) -> jax.Array:
        """The batch of the step with the index `step`, from 0."""
        parts, rows, width = self.shape
        numbers = np.arange(parts * rows).reshape(parts, rows)

        def shard(index: Any) -> np.ndarray:
            """The rows of one device; no process makes those of another."""
            own = numbers[index[:2]]
            ids = batch(
                self.tokens,
                seed=self.seed,
                step=step,
                batch_size=parts * rows,
                context_length=width - 1,
                rows=own.ravel(),
            )
            return ids.reshape(*own.shape, width)

        return jax.make_array_from_callback(self.shape, self.parts, shard)
