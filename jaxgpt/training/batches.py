"""The batches of a run as arrays that are sharded over their rows."""

from typing import Any

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data import pair_batches, windows
from jaxgpt.data.batches import batch
from jaxgpt.data.pairs import PairDataset, PairSplit
from jaxgpt.data.tokens import Dataset
from jaxgpt.devices.sharding import over_rows, shard_array


def batches(
    dataset: Dataset | PairDataset, config: Config, mesh: jax.sharding.Mesh
) -> "PairBatches | WindowBatches | Batches":
    """A function from the index of a step, counted from 0, to its batch."""
    if isinstance(dataset, PairDataset):
        return PairBatches(dataset, config, mesh)
    split = windows.split_of(dataset, "train", config.model.context_length, config.data.pack)
    if isinstance(split, windows.Windows):
        return WindowBatches(split, config, mesh)
    return Batches(split, config, mesh)


def split_of(
    dataset: Dataset | PairDataset, name: str, config: Config
) -> np.ndarray | windows.Windows | PairSplit:
    """The split `name` in the form that the batches of a run are made from."""
    if isinstance(dataset, PairDataset):
        pairs: PairSplit = getattr(dataset, name)
        return pairs
    return windows.split_of(dataset, name, config.model.context_length, config.data.pack)


def largest_batch(config: Config, answers: bool = False) -> Any:
    """Shapes and dtypes of the largest batch that a step of `config` can have.

    `answers` says whether the data are prompts and answers.
    """
    parts, length = config.train.accumulate, config.model.context_length
    rows = config.train.batch_size // parts
    target = (parts, rows, length)
    if config.encoder is None:
        pack = config.data.pack
        if pack == "off" and not answers:
            return jax.ShapeDtypeStruct((parts, rows, length + 1), np.int32)
        ids = jax.ShapeDtypeStruct(target, np.int32)
        segments = ids if pack != "off" else None
        places = ids if pack == "restart" else None
        return windows.TextBatch(ids, ids, jax.ShapeDtypeStruct(target, bool), segments, places)
    source = (parts, rows, config.encoder.context_length)
    return pair_batches.PairBatch(
        jax.ShapeDtypeStruct(source, np.int32),
        jax.ShapeDtypeStruct(source, bool),
        jax.ShapeDtypeStruct(target, np.int32),
        jax.ShapeDtypeStruct(target, np.int32),
        jax.ShapeDtypeStruct(target, bool),
    )


def split_batch(batch: Any, parts: int, sharding: jax.sharding.NamedSharding) -> Any:
    """The arrays of `batch`, (A * B, ...), sharded and reshaped to (A, B, ...) with A = `parts`."""
    return jax.tree.map(
        lambda x: shard_array(x.reshape(parts, -1, *x.shape[1:]), sharding),
        batch,
    )


class PairBatches:
    """The batch of each step, a PairBatch with a leading axis of parts and the shape of its
    bucket."""

    def __init__(self, dataset: PairDataset, config: Config, mesh: jax.sharding.Mesh):
        assert config.encoder is not None
        contexts = config.encoder.context_length, config.model.context_length
        self.train, self.sharding = config.train, over_rows(mesh, axis=1)
        self.buckets = pair_batches.make_buckets(dataset.train, config.train.batch_size, *contexts)
        ids, pairs = len(dataset.train.ids), len(dataset.train)
        self.tokens_per_step = config.train.batch_size * (ids + pairs) / pairs

    def __call__(self, step: int) -> pair_batches.PairBatch:
        """The batch of the step with the index `step`, from 0."""
        whole = pair_batches.batch(self.buckets, seed=self.train.seed, step=step)
        return split_batch(whole, self.train.accumulate, self.sharding)


class WindowBatches:
    """The batch of each step, a TextBatch of documents with a leading axis of parts."""

    def __init__(self, split: windows.Windows, config: Config, mesh: jax.sharding.Mesh):
        self.split, self.train, self.sharding = split, config.train, over_rows(mesh, axis=1)
        positions = config.train.batch_size * config.model.context_length
        self.tokens_per_step = positions * (1 - split.padding_share)

    def __call__(self, step: int) -> windows.TextBatch:
        """The batch of the step with the index `step`, from 0."""
        train = self.train
        whole = self.split.batch(seed=train.seed, step=step, batch_size=train.batch_size)
        return split_batch(whole, train.accumulate, self.sharding)


class Batches:
    """The batch of each step, (A, B, T + 1) ids: A parts of B rows."""

    def __init__(self, tokens: np.ndarray, config: Config, mesh: jax.sharding.Mesh):
        train, length = config.train, config.model.context_length
        rows = train.batch_size // train.accumulate
        self.tokens, self.seed = tokens, train.seed
        self.shape = (train.accumulate, rows, length + 1)
        self.parts = over_rows(mesh, axis=1)
        self.tokens_per_step = train.batch_size * length

    def __call__(self, step: int) -> jax.Array:
        """The batch of the step with the index `step`, from 0."""
        parts, rows, width = self.shape
        numbers = np.arange(parts * rows).reshape(parts, rows)

        def shard(index: Any) -> np.ndarray:
            """The rows of one device; a process makes only the rows of its own devices."""
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
