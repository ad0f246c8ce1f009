"""The loss of a model over a split of data, batch by batch."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.data.pair_batches import PairBatch, make_buckets
from jaxgpt.data.pair_batches import eval_batches as pair_batches
from jaxgpt.data.pairs import PairSplit
from jaxgpt.data.windows import TextBatch, Windows, eval_batch_count
from jaxgpt.data.windows import eval_batches as text_batches
from jaxgpt.devices.sharding import over_rows, replicated, shard_array, shardings
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import make_eval_step, make_pair_eval_step

Split = np.ndarray | Windows


class Evaluator(ABC):
    """The figures of a model over a split, in batches of `rows` sharded over `mesh`.

    `eval_step` maps the weights and a batch to sums over the batch.
    """

    def __init__(
        self,
        model: ModelConfig | Seq2SeqConfig,
        eval_step: Callable[[Tree, Any], Any],
        mesh: jax.sharding.Mesh,
        rows: int,
    ):
        self.rows, self.batch_sharding = rows, over_rows(mesh)
        self.step = jax.jit(
            eval_step,
            in_shardings=(shardings(abstract_params(model), mesh), self.batch_sharding),
            out_shardings=replicated(mesh),
        )

    @abstractmethod
    def batch_count(self, split: Any) -> int:
        """The number of batches of `split`."""

    @abstractmethod
    def figures(self, params: Tree, split: Any, limit: int | None = None) -> dict[str, float]:
        """The loss, and other figures, over `split` or over at most `limit` batches of it."""

    def extent(self, split: Any, limit: int | None = None) -> str:
        """A phrase that says how much of `split` `figures` uses."""
        if limit is None or limit >= self.batch_count(split):
            return "whole split"
        return f"{limit} batch{'' if limit == 1 else 'es'}"

    def sums(self, params: Tree, batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each of `batches`, and the sums of the step over it.

        They come after the step of the next batch has started, so that the device never waits for
        the host that reads them.
        """
        unread = None
        for batch in batches:
            on_devices = jax.tree.map(lambda x: shard_array(x, self.batch_sharding), batch)
            started = batch, self.step(params, on_devices)
            if unread:
                yield unread
            unread = started
        if unread:
            yield unread


class TextEvaluator(Evaluator):
    """The mean loss per token of a decoder."""

    def __init__(self, model: ModelConfig, compute: Compute, mesh: jax.sharding.Mesh, rows: int):
        super().__init__(model, make_eval_step(model, compute), mesh, rows)
        self.context_length = model.context_length

    def batch_count(self, split: Split) -> int:
        return eval_batch_count(split, self.rows, self.context_length)

    def figures(self, params: Tree, split: Split, limit: int | None = None) -> dict[str, float]:
        batches: Iterator[TextBatch] = text_batches(split, self.rows, self.context_length)
        loss, tokens = 0.0, 0
        for batch, summed in self.sums(params, itertools.islice(batches, limit)):
            loss += float(summed)
            tokens += int(batch.target_mask_bt.sum())
        return {"val_loss": loss / tokens}


class PairEvaluator(Evaluator):
    """The mean loss per target token of an encoder-decoder, and its share of exact matches."""

    def __init__(self, model: Seq2SeqConfig, compute: Compute, mesh: jax.sharding.Mesh, rows: int):
        super().__init__(model, make_pair_eval_step(model, compute), mesh, rows)
        self.context_lengths = model.encoder.context_length, model.decoder.context_length

    def batch_count(self, split: PairSplit) -> int:
        return sum(1 for _ in self._batches(split))

    def figures(self, params: Tree, split: PairSplit, limit: int | None = None) -> dict[str, float]:
        loss, right, tokens, pairs = 0.0, 0, 0, 0
        batches = itertools.islice(self._batches(split), limit)
        for batch, (summed, exact) in self.sums(params, batches):
            loss, right = loss + float(summed), right + int(exact)
            tokens += int(batch.target_mask_bt.sum())
            pairs += int(batch.target_mask_bt.any(axis=1).sum())
        return {"val_loss": loss / tokens, "val_exact_match": right / pairs}

    def _batches(self, split: PairSplit) -> Iterator[PairBatch]:
        return pair_batches(make_buckets(split, self.rows, *self.context_lengths))


def make_evaluator(
    model: ModelConfig | Seq2SeqConfig, compute: Compute, mesh: jax.sharding.Mesh, rows: int
) -> Evaluator:
    """The evaluator of models of the config `model`."""
    if isinstance(model, Seq2SeqConfig):
        return PairEvaluator(model, compute, mesh, rows)
    return TextEvaluator(model, compute, mesh, rows)
