"""The batches of a run as arrays sharded over the rows."""

from typing import Any

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data.batches import batch
from jaxgpt.devices.sharding import over_rows


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
