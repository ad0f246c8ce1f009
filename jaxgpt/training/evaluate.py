"""The loss of a model over a split of data."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt import file_names
from jaxgpt.config import ComputeConfig, Config, DataConfig, MeshConfig, ModelConfig
from jaxgpt.data.pair_batches import PairBatch, eval_batches, make_buckets
from jaxgpt.data.pairs import PairDataset, PairSplit, open_pairs
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.data.windows import Windows, eval_batch_count, split_of
from jaxgpt.data.windows import eval_batches as text_batches
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, placed, replicated, shardings
from jaxgpt.errors import UserError, require
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.storage import run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system.directories import nearby
from jaxgpt.training.bleu import bleu
from jaxgpt.training.compatibility import fit_both, fit_vocabulary, require_same_tokenizer
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import make_eval_step, make_pair_eval_step

Split = np.ndarray | Windows


class Evaluator:
    """Mean loss of `model` over a split, in batches of `rows` sharded over `mesh`."""

    def __init__(self, model: ModelConfig, compute: Compute, mesh: jax.sharding.Mesh, rows: int):
        self.model, self.parts, self.rows = model, over_rows(mesh), rows
        self.step = jax.jit(
            make_eval_step(model, compute),
            in_shardings=(shardings(abstract_params(model), mesh), self.parts),
            out_shardings=replicated(mesh),
        )

    def extent(self, split: Split, limit: int | None = None) -> str:
        """A phrase that says how much of `split` `mean_loss` uses."""
        return _extent(eval_batch_count(split, self.rows, self.model.context_length), limit)

    def figures(self, params: Tree, split: Split, limit: int | None = None) -> dict[str, float]:
        """The loss over `split`, or over at most `limit` batches of it."""
        return {"val_loss": self.mean_loss(params, split, limit)}

    def mean_loss(self, params: Tree, split: Split, limit: int | None = None) -> float:
        """The mean loss over `split`, or over at most `limit` batches of it.

        The sum of a batch is read after the next batch has started, so that the device never waits.
        """
        total, count, unread = 0.0, 0, None
        batches = text_batches(split, self.rows, self.model.context_length)
        for batch in itertools.islice(batches, limit):
            started = self.step(params, jax.tree.map(lambda x: placed(x, self.parts), batch))
            total += 0.0 if unread is None else float(unread)
            unread, count = started, count + int(batch.target_mask_bt.sum())
        assert unread is not None
        return (total + float(unread)) / count


class PairEvaluator:
    """Mean loss per target token, and the share of targets that are exactly right."""

    def __init__(
        self, model: Seq2SeqConfig, compute: ComputeConfig, mesh: jax.sharding.Mesh, rows: int
    ):
        self.model, self.parts, self.rows = model, over_rows(mesh), rows
        weights = shardings(abstract_params(model), mesh)
        self.step = jax.jit(
            make_pair_eval_step(model, Compute.on(mesh, model.decoder, compute)),
            in_shardings=(weights, self.parts),
            out_shardings=replicated(mesh),
        )

    def extent(self, split: PairSplit, limit: int | None = None) -> str:
        """A phrase that says how much of `split` `figures` uses."""
        return _extent(sum(1 for _ in self._batches(split)), limit)

    def figures(self, params: Tree, split: PairSplit, limit: int | None = None) -> dict[str, float]:
        """The loss, and the share of exact matches, over `split` or `limit` batches of it."""
        loss, right, tokens, pairs, unread = 0.0, 0, 0, 0, None
        for batch in itertools.islice(self._batches(split), limit):
            started = self.step(params, PairBatch(*(placed(x, self.parts) for x in batch)))
            if unread is not None:
                loss, right = loss + float(unread[0]), right + int(unread[1])
            unread = started
            tokens += int(batch.target_mask_bt.sum())
            pairs += int(batch.target_mask_bt.any(axis=1).sum())
        assert unread is not None
        loss, right = loss + float(unread[0]), right + int(unread[1])
        return {"val_loss": loss / tokens, "val_exact_match": right / pairs}

    def _batches(self, split: PairSplit) -> Iterator[PairBatch]:
        contexts = self.model.encoder.context_length, self.model.decoder.context_length
        return eval_batches(make_buckets(split, self.rows, *contexts))


def make_evaluator(config: Config, mesh: jax.sharding.Mesh, rows: int) -> Any:
    """The evaluator of the models of `config`."""
    model = config.architecture
    if isinstance(model, Seq2SeqConfig):
        return PairEvaluator(model, config.compute, mesh, rows)
    compute = Compute.on(mesh, model, config.compute, config.data.pack)
    return Evaluator(model, compute, mesh, rows)


def _extent(batches: int, limit: int | None) -> str:
    if limit is None or limit >= batches:
        return "whole split"
    return f"{limit} batch{'' if limit == 1 else 'es'}"


def evaluate(directory: Path, data: Path | None, batch_size: int, with_bleu: bool = False) -> str:
    """A line with the losses of the model in `directory` over the validation split of `data`."""
    use_devices(MeshConfig())
    require(batch_size > 0, f"--batch-size must be positive, but is {batch_size}.")
    opened = ModelDirectory(directory)
    if data and not data.exists():
        raise UserError(
            f"--data: there is no prepared directory {data}. {nearby(data, [file_names.ABOUT])}"
        )
    path = data or trained_on(opened, directory)
    if isinstance(opened.config, Seq2SeqConfig):
        pairs = open_pairs(path)
        line = _evaluate_pairs(opened, pairs, batch_size)
        return f"{line}; {bleu(opened, pairs)}" if with_bleu else line
    require(not with_bleu, f"--bleu is for encoder-decoders, and {opened.path} is a decoder.")
    dataset = open_dataset(path)
    require_same_tokenizer(opened.path / file_names.TOKENIZER, dataset.path / file_names.TOKENIZER)
    fit_vocabulary(opened.config, dataset)
    mesh = make_mesh(MeshConfig(), batch_size, opened.config.model_dim)
    weights = opened.sharded_params(shardings(abstract_params(opened.config), mesh))
    pack = opened.about.get("data", {}).get("pack", DataConfig.pack)
    compute = Compute.on(mesh, opened.config, ComputeConfig(), pack)
    split = split_of(dataset, "val", opened.config.context_length, pack)
    loss = Evaluator(opened.config, compute, mesh, batch_size).mean_loss(weights, split)
    _require_sound(loss, opened, dataset)
    return f"{opened.path}: {losses(loss, dataset)}"


def _require_sound(loss: float, opened: ModelDirectory, dataset: Dataset | PairDataset) -> None:
    """Require that `loss` is finite, and that the data have not changed meanwhile."""
    dataset.files.require()
    require(
        math.isfinite(loss),
        f"The loss of {opened.path} is {loss}: its weights are damaged, or its training diverged. "
        "Take an earlier checkpoint.",
    )


def _evaluate_pairs(opened: ModelDirectory, dataset: PairDataset, batch_size: int) -> str:
    """A line with the figures of an encoder-decoder over the validation split of `dataset`."""
    config = opened.config
    for name in (file_names.TOKENIZER, file_names.TARGET_TOKENIZER):
        require_same_tokenizer(opened.path / name, dataset.path / name)
    fit_both(config.encoder, config.decoder, dataset)
    mesh = make_mesh(MeshConfig(), batch_size, config.decoder.model_dim)
    weights = opened.sharded_params(shardings(abstract_params(config), mesh))
    evaluator = PairEvaluator(config, ComputeConfig(), mesh, batch_size)
    loss, right = evaluator.figures(weights, dataset.val).values()
    _require_sound(loss, opened, dataset)
    return (
        f"{opened.path}: loss {loss:.4f} per target token, {right:.2%} of the targets exactly "
        f"right, over the whole validation split, {len(dataset.val):,} pairs of {dataset.path}"
    )


def losses(loss: float, dataset: Dataset) -> str:
    """The mean `loss` over a validation split, in nats, and the figures derived from it."""
    if dataset.examples is not None:
        return (
            f"loss {loss:.4f} per token of the answers, perplexity {math.exp(min(loss, 700)):.3f}, "
            f"over the whole validation split, {len(dataset.examples['val']):,} examples of "
            f"{dataset.path}"
        )
    tokens = len(dataset.val)
    per_byte = ""
    if dataset.val_bytes:  # known for text, but not for ids alone
        bits = loss / math.log(2) * (tokens - 1) / dataset.val_bytes
        per_byte = f", bits per byte {bits:.4f}"
    return (
        f"loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.3f}{per_byte} over the whole "
        f"validation split, {tokens:,} tokens of {dataset.path}"
    )


def trained_on(opened: ModelDirectory, directory: Path) -> Path:
    """The prepared directory that a model was trained on: the one in its config, or that of its
    run."""
    named = opened.about.get("data", {}).get("path")
    candidates = [Path(named)] if named else []
    for place in (directory, opened.path.parent.parent):
        if run_directory.is_run(place):
            candidates.append(place / file_names.DATA)
    for path in candidates:
        if (path / file_names.ABOUT).exists():
            return path
    data = f"It was trained on {named}, which" if named else "The data that it was trained on"
    raise UserError(
        f"{directory}: {data} cannot be found as a prepared directory; name one with --data."
    )
