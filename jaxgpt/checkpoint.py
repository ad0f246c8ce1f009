"""The model directory: config, weights, tokenizer, checksums. The only room that knows orbax.

DIR/config.json      {"model": every field of ModelConfig, ...}
DIR/tokenizer.json   where there is one
DIR/weights/         the parameters
DIR/state/           what training needs besides, in the checkpoints of a run
DIR/manifest.json    size and sha256 of every file above

A run's directory stands for the best of its checkpoints.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxgpt import disk
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.settings import build
from jaxgpt.tokenizer import Tokenizer
from jaxgpt.tree import Tree, flatten, require_same, unflatten

CHECKPOINTS = "checkpoints"


def save(
    directory: str | Path,
    config: ModelConfig,
    params: Tree,
    about: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    state: Any = None,
) -> None:
    """Write a whole model directory or none; `about` is kept in config.json beside the model's fields."""
    require_same(abstract_params(config), params, "What was to be saved")
    with disk.new_directory(directory) as partial:
        disk.write_json(partial / "config.json", {**(about or {}), "model": vars(config)})
        if tokenizer is not None:
            tokenizer.save(partial / "tokenizer.json")
        with ocp.PyTreeCheckpointer() as weights:
            weights.save((partial / "weights").resolve(), params)
            if state is not None:
                weights.save((partial / "state").resolve(), state)


def best_and_last(run: Path) -> list[Path]:
    """Of a run's checkpoints; one or two, or none where there are none."""
    found = sorted((run / CHECKPOINTS).glob("step-*"))
    return list(dict.fromkeys([min(found, key=_val_loss), found[-1]])) if found else []


def keep_best_and_last(run: Path) -> None:
    keep = best_and_last(run)
    for path in (run / CHECKPOINTS).glob("step-*"):
        if path not in keep:
            shutil.rmtree(path)


def _val_loss(checkpoint: Path) -> float:
    return disk.read_json(checkpoint / "config.json").get("val_loss", math.inf)


class ModelDirectory:
    """A model directory opened: what it says of itself, and its arrays one by one."""

    def __init__(self, path: str | Path):
        self.path = next(iter(best_and_last(Path(path))), Path(path))
        if (self.path / "metrics.jsonl").exists():
            raise UserError(f"{self.path} is a run that has not written a checkpoint yet.")
        disk.check_manifest(self.path)
        self.about = disk.read_json(self.path / "config.json")
        fields = self.about.get("model")
        if not isinstance(fields, dict):
            raise UserError(f"{self.path / 'config.json'} has no section model; it is no model directory.")
        self.config: ModelConfig = build(ModelConfig, fields, str(self.path / "config.json"))
        with ocp.PyTreeCheckpointer() as weights:
            found = weights.metadata(self._weights).item_metadata.tree
        require_same(abstract_params(self.config), found, f"{self._weights}")
        self.paths = list(flatten(found))

    def read(self, path: str) -> np.ndarray:
        return flatten(self._restore([path]))[path]

    def params(self) -> Tree:
        return self._restore(self.paths)

    def state(self, like: Any) -> Any:
        """What `save` got as its state; `like` has its structure, shapes and dtypes."""
        with ocp.PyTreeCheckpointer() as weights:
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
            found = weights.restore(
                (self.path / "state").resolve(), args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy)
            )
        different = jax.tree.map(lambda a, b: (a.shape, a.dtype) != (b.shape, b.dtype), like, found)
        if any(jax.tree.leaves(different)):
            raise UserError(f"{self.path / 'state'} is of another model or optimiser than the config asks for.")
        return found

    @property
    def _weights(self) -> Path:
        return (self.path / "weights").resolve()

    def _restore(self, paths: list[str]) -> Tree:
        with ocp.PyTreeCheckpointer() as weights:
            return weights.restore(
                self._weights,
                args=ocp.args.PyTreeRestore(
                    item=unflatten(dict.fromkeys(paths, 0)),
                    restore_args=unflatten(dict.fromkeys(paths, ocp.RestoreArgs(restore_type=np.ndarray))),
                    partial_restore=True,
                ),
            )


def load(directory: str | Path) -> GPT:
    """The model in a model directory, ready to be called, in the dtype of its weights."""
    opened = ModelDirectory(directory)
    return assemble(opened.config, to_device(opened.params()))


def to_device(params: Tree) -> Tree:
    """jax would turn float64 into float32 without a word."""
    with jax.enable_x64(True):
        return jax.tree.map(jnp.array, params)
