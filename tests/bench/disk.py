"""Benchmarks of what a run does besides computing: batches from a file of tokens, and checkpoints.

The rows of `python -m tests.bench` are made of these; PyTorch's are its DataLoader, and torch.save flushed to the disk.
"""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import torch
from torch.utils import data

from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import batch
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree
from jaxgpt.storage import model_directory
from tests.bench.training import Racers

TOKENS, ROWS, LENGTH, BATCHES = 50_000_000, 32, 1024, 100
MODEL = ModelConfig(50257, 16, 256, 1, 4, dropout=0.0)


class Windows(data.Dataset):
    """The windows of a file of tokens, as a tutorial would have them."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * LENGTH
        return torch.from_numpy(self.tokens[start : start + LENGTH + 1].astype(np.int64))


def tokens(file: Path) -> np.ndarray:
    """Tokens in `file`, which is mapped into memory."""
    np.random.default_rng(0).integers(0, 50257, TOKENS, dtype=np.uint16).tofile(file)
    return np.memmap(file, np.uint16, "r")


def our_batches(folder: str) -> Racers:
    ids, sizes = tokens(Path(folder, "ours")), {"batch_size": ROWS, "context_length": LENGTH}
    return {"jaxgpt": lambda: [batch(ids, seed=0, step=step, **sizes) for step in range(BATCHES)]}


def torch_batches(folder: str) -> Racers:
    torch.manual_seed(0)
    loader = data.DataLoader(Windows(tokens(Path(folder, "theirs"))), batch_size=ROWS, shuffle=True)

    def load() -> None:
        for step, _ in enumerate(loader, 1):
            if step == BATCHES:
                return

    return {"DataLoader": load}


def state() -> tuple[Tree, Tree]:
    """Weights, and the means of gradients and of their squares."""
    shapes, draw = abstract_params(MODEL), np.random.default_rng(0).standard_normal

    def values() -> Tree:
        return jax.tree.map(lambda like: draw(like.shape, np.float32), shapes)

    return values(), {"mu": values(), "nu": values()}


SAVED = 3 * 4 * sum(leaf.size for leaf in jax.tree.leaves(abstract_params(MODEL)))  # bytes


def our_saving(folder: str) -> Racers:
    (weights, moments), path = state(), Path(folder, "ours")

    def save() -> None:
        shutil.rmtree(path, ignore_errors=True)
        model_directory.save(path, MODEL, weights, state={"optimizer": moments})

    return {"jaxgpt": save}


def torch_saving(folder: str) -> Racers:
    whole = jax.tree.map(torch.from_numpy, state())
    file = Path(folder, "theirs.pt")

    def save() -> None:
        with file.open("wb") as out:
            torch.save(whole, out)
            out.flush()
            os.fsync(out.fileno())

    return {"torch.save": save}


RACES = {  # the tokens or bytes of a round, and who takes part; each gets a folder
    "making batches of 32 x 1,024 tokens": (
        BATCHES * ROWS * LENGTH,
        (our_batches, torch_batches),
    ),
    "saving a state of 310 MB": (SAVED, (our_saving, torch_saving)),
}
