"""The loss of a model over a split, and whether model and data belong together at all. Knows no training."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.config import ComputeConfig, MeshConfig, ModelConfig
from jaxgpt.data.batches import eval_windows
from jaxgpt.data.tokens import ABOUT, Dataset, open_dataset
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, placed, replicated, shardings
from jaxgpt.errors import UserError, require
from jaxgpt.model import abstract_params
from jaxgpt.storage import model_directory, names, run_directory
from jaxgpt.training.step import Compute, make_eval_step


class Evaluator:
    """Mean loss over a split, in consecutive windows; the weights lie as `shardings` has them."""

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
        """How much of a split of `tokens` ids `mean_loss` takes, for people."""
        batches = math.ceil((tokens - 1) / (self.rows * self.model.context_length))
        if limit is None or limit >= batches:
            return "whole split"
        return f"{limit} batch{'' if limit == 1 else 'es'}"

    def mean_loss(self, params: Any, tokens: np.ndarray, limit: int | None = None) -> float:
        total, count, waiting = 0.0, 0, None
        windows = eval_windows(
            tokens, batch_size=self.rows, context_length=self.model.context_length
        )
        for ids, mask in itertools.islice(windows, limit):
            started = self.step(params, placed(ids, self.parts), placed(mask, self.parts))
            total += 0.0 if waiting is None else float(waiting)
            waiting, count = started, count + int(mask.sum())
        assert waiting is not None
        return (total + float(waiting)) / count


def evaluate(directory: Path, data: Path | None, batch_size: int) -> str:
    """One line for people; in natural logarithms, as training prints."""
    use_devices(MeshConfig())
    require(batch_size > 0, f"--batch-size must be positive, but is {batch_size}.")
    opened = model_directory.ModelDirectory(directory)
    dataset = open_dataset(data or trained_on(opened, directory))
    fit_vocabulary(opened.config, dataset)
    require_same_tokenizer(opened.path / "tokenizer.json", dataset.path / "tokenizer.json")
    mesh = make_mesh(MeshConfig(), batch_size, opened.config.model_dim)
    evaluator = Evaluator(opened.config, ComputeConfig(), mesh, batch_size)
    loss = evaluator.mean_loss(
        opened.sharded_params(shardings(abstract_params(opened.config), mesh)), dataset.val
    )
    per_byte = (len(dataset.val) - 1) / dataset.val_bytes if dataset.val_bytes else math.nan
    return (
        f"{opened.path}: loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.3f}, bits per byte "
        f"{loss / math.log(2) * per_byte:.4f} over the whole validation split, {len(dataset.val):,} "
        f"tokens of {dataset.path}"
    )


def trained_on(opened: model_directory.ModelDirectory, directory: Path) -> Path:
    """The run's own data, or what its config names."""
    named = opened.about.get("data", {}).get("path")
    own = [
        place / names.DATA
        for place in (directory, opened.path.parent.parent)
        if run_directory.is_run(place)
    ]
    candidates = [*([Path(named)] if named else []), *own]
    found = next((path for path in candidates if (path / ABOUT).exists()), None)
    if found is None:
        known = f"It was trained on {named}, which" if named else "What it was trained on"
        raise UserError(
            f"{directory}: {known} is not at hand as a prepared directory; give one by --data."
        )
    return found


def require_same_tokenizer(ours: Path, data: Path) -> None:
    if ours.exists() and data.exists() and ours.read_bytes() != data.read_bytes():
        raise UserError(
            f"The model was trained with {ours}, but the data were prepared with {data}, and the two differ: the same "
            f"ids would mean other text. Prepare the data again with --tokenizer {ours}."
        )


def fit_vocabulary(model: ModelConfig, dataset: Dataset) -> ModelConfig:
    """As many as the tokenizer has, or a little more: people round up to a multiple of 64 or 128."""
    ours, theirs = model.vocab_size or dataset.vocab_size, dataset.vocab_size
    require(
        theirs <= ours < theirs + 128,
        f"model.vocab_size is {ours}, but the data in {dataset.path} has a vocabulary of {theirs}. Prepare the "
        "data with the model's own tokenizer; or, for a new model, leave model.vocab_size out.",
    )
    return dataclasses.replace(model, vocab_size=ours)
