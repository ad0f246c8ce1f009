"""The model directory: config, weights, tokenizer, checksums. The only room that knows orbax.

DIR/config.json      {"model": every field of ModelConfig, ...}
DIR/tokenizer.json   where there is one
DIR/weights/         the parameters
DIR/manifest.json    size and sha256 of every file above
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxgpt import disk
from jaxgpt.config import ModelConfig, UserError, build
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.tree import Tree, flatten, require_same, unflatten


def save(
    directory: str | Path,
    config: ModelConfig,
    params: Tree,
    about: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write a whole model directory or none; `about` is kept in config.json beside the model's fields."""
    require_same(abstract_params(config), params, "What was to be saved")
    with disk.new_directory(directory) as partial:
        disk.write_json(partial / "config.json", {"model": vars(config), **(about or {})})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / "tokenizer.json")
        with ocp.PyTreeCheckpointer() as weights:
            weights.save((partial / "weights").resolve(), params)


class ModelDirectory:
    """A model directory opened: what it says of itself, and its arrays one by one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
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
