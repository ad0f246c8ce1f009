"""The loss of a model over a split of data."""

import itertools
import math
from pathlib import Path

import jax
import numpy as np

from jaxgpt import file_names
from jaxgpt.config import ComputeConfig, MeshConfig, ModelConfig
from jaxgpt.data.batches import eval_windows
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, placed, replicated, shardings
from jaxgpt.errors import UserError, require
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree
from jaxgpt.storage import run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system.directories import nearby
from jaxgpt.training.compatibility import fit_vocabulary, require_same_tokenizer
from jaxgpt.training.step import Compute, make_eval_step


class Evaluator:
    """Mean loss of `model` over consecutive windows, in batches of `rows` sharded over `mesh`."""

    def __init__(
        self, model: ModelConfig, compute: ComputeConfig, mesh: jax.sharding.Mesh, rows: int
    ):
        self.model, self.parts, self.rows = model, over_rows(mesh), rows
        weights = shardings(abstract_params(model), mesh)
        self.step = jax.jit(
            make_eval_step(model, Compute.on(mesh, model, compute)),
            in_shardings=(weights, self.parts, self.parts),
            out_shardings=replicated(mesh),
        )

    def extent(self, tokens: int, limit: int | None = None) -> str:
        """The part of a split of `tokens` ids that `mean_loss` takes, as a phrase."""
        batches = math.ceil((tokens - 1) / (self.rows * self.model.context_length))
        if limit is None or limit >= batches:
            return "whole split"
        return f"{limit} batch{'' if limit == 1 else 'es'}"

    def mean_loss(self, params: Tree, tokens: np.ndarray, limit: int | None = None) -> float:
        """The mean loss over `tokens`, or over at most `limit` batches of them.

        Each sum is read after the next batch has started, so that the device never waits.
        """
        total, count, unread = 0.0, 0, None
        windows = eval_windows(
            tokens, batch_size=self.rows, context_length=self.model.context_length
        )
        for ids, mask in itertools.islice(windows, limit):
            started = self.step(params, placed(ids, self.parts), placed(mask, self.parts))
            total += 0.0 if unread is None else float(unread)
            unread, count = started, count + int(mask.sum())
        assert unread is not None
        return (total + float(unread)) / count


def evaluate(directory: Path, data: Path | None, batch_size: int) -> str:
    """A line with the losses of the model in `directory` over the validation split of `data`."""
    use_devices(MeshConfig())
    require(batch_size > 0, f"--batch-size must be positive, but is {batch_size}.")
    opened = ModelDirectory(directory)
    if data and not data.exists():
        raise UserError(
            f"--data: there is no prepared directory {data}. {nearby(data, [file_names.ABOUT])}"
        )
    dataset = open_dataset(data or trained_on(opened, directory))
    require_same_tokenizer(opened.path / file_names.TOKENIZER, dataset.path / file_names.TOKENIZER)
    fit_vocabulary(opened.config, dataset)
    mesh = make_mesh(MeshConfig(), batch_size, opened.config.model_dim)
    weights = opened.sharded_params(shardings(abstract_params(opened.config), mesh))
    evaluator = Evaluator(opened.config, ComputeConfig(), mesh, batch_size)
    return f"{opened.path}: {losses(evaluator.mean_loss(weights, dataset.val), dataset)}"


def losses(loss: float, dataset: Dataset) -> str:
    """The mean `loss` over a validation split, in nats, with what follows from it."""
    tokens = len(dataset.val)
    per_byte = (tokens - 1) / dataset.val_bytes if dataset.val_bytes else math.nan
    return (
        f"loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.3f}, bits per byte "
        f"{loss / math.log(2) * per_byte:.4f} over the whole validation split, {tokens:,} tokens "
        f"of {dataset.path}"
    )


def trained_on(opened: ModelDirectory, directory: Path) -> Path:
    """The prepared directory that a model was trained on: the one in its config, or its run's."""
    named = opened.about.get("data", {}).get("path")
    candidates = [Path(named)] if named else []
    for place in (directory, opened.path.parent.parent):
        if run_directory.is_run(place):
            candidates.append(place / file_names.DATA)
    for path in candidates:
        if (path / file_names.ABOUT).exists():
            return path
    data = f"It was trained on {named}, which" if named else "What it was trained on"
    raise UserError(
        f"{directory}: {data} is not at hand as a prepared directory; name one with --data."
    )
