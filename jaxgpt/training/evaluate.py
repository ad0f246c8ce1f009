"""The figures of a stored model over the validation split of prepared data."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt import file_names
from jaxgpt.config import ComputeConfig, DataConfig, MeshConfig
from jaxgpt.data.pairs import PairDataset, open_pairs
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.data.windows import split_of
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import shardings
from jaxgpt.errors import UserError, require
from jaxgpt.model import abstract_params
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.storage import run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system.directories import nearby
from jaxgpt.training.bleu import bleu
from jaxgpt.training.compatibility import fit_both, fit_vocabulary, require_same_tokenizer
from jaxgpt.training.compute import Compute
from jaxgpt.training.evaluators import make_evaluator


@dataclass(frozen=True)
class Evaluation:
    """The figures of the model in `model` over the whole validation split of `dataset`."""

    model: Path
    dataset: Dataset | PairDataset
    loss: float  # the mean per token, in nats
    exact_match: float | None = None  # the share of targets that are exactly right, of pairs
    bleu: str = ""  # in sacrebleu's notation, if it was asked for


def evaluate(
    directory: Path, data: Path | None, batch_size: int, with_bleu: bool = False
) -> Evaluation:
    """Evaluate the model in `directory` over the validation split of `data`.

    Without `data`, the split is that of the data that the model was trained on.
    """
    use_devices(MeshConfig())
    require(batch_size > 0, f"--batch-size must be positive, but is {batch_size}.")
    opened = ModelDirectory(directory)
    if data and not data.exists():
        raise UserError(
            f"--data: there is no prepared directory {data}. {nearby(data, [file_names.ABOUT])}"
        )
    path = data or trained_on(opened, directory)
    config = opened.config
    pairs = isinstance(config, Seq2SeqConfig)
    require(
        pairs or not with_bleu, f"--bleu is for encoder-decoders, and {opened.path} is a decoder."
    )
    dataset: Any = open_pairs(path) if pairs else open_dataset(path)
    _require_fitting(opened, dataset)
    decoder = config.decoder if pairs else config
    mesh = make_mesh(MeshConfig(), batch_size, decoder.model_dim)
    weights = opened.sharded_params(shardings(abstract_params(config), mesh))
    pack = opened.about.get("data", {}).get("pack", DataConfig.pack)
    compute = Compute.on(mesh, decoder, ComputeConfig(), pack)
    split = dataset.val if pairs else split_of(dataset, "val", config.context_length, pack)
    figures = make_evaluator(config, compute, mesh, batch_size).figures(weights, split)
    _require_sound(figures["val_loss"], opened, dataset)
    score = bleu(opened, dataset) if with_bleu else ""
    exact_match = figures.get("val_exact_match")
    return Evaluation(opened.path, dataset, figures["val_loss"], exact_match, score)


def _require_fitting(opened: ModelDirectory, dataset: Dataset | PairDataset) -> None:
    """Require that `dataset` has the tokenizers of the model, and no ids beyond its vocabulary."""
    pairs = isinstance(dataset, PairDataset)
    for name in [file_names.TOKENIZER, *([file_names.TARGET_TOKENIZER] if pairs else [])]:
        require_same_tokenizer(opened.path / name, dataset.path / name)
    if isinstance(dataset, PairDataset):
        fit_both(opened.config.encoder, opened.config.decoder, dataset)
    else:
        fit_vocabulary(opened.config, dataset)


def _require_sound(loss: float, opened: ModelDirectory, dataset: Dataset | PairDataset) -> None:
    """Require that `loss` is finite, and that the data have not changed meanwhile."""
    dataset.files.require()
    require(
        math.isfinite(loss),
        f"The loss of {opened.path} is {loss}: its weights are damaged, or its training diverged. "
        "Take an earlier checkpoint.",
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
    problem = (
        f"was trained on {named}, which cannot be found as a prepared directory"
        if named
        else "does not say on which data it was trained"
    )
    raise UserError(f"{directory} {problem}: name a prepared directory with --data.")
