"""The weights of a model directory: stored whole, or as adapters of a base that the run stores
once."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.config import TrainConfig
from jaxgpt.devices.sharding import shardings as shardings_of
from jaxgpt.errors import require
from jaxgpt.file_names import BASE, MANIFEST, WEIGHTS
from jaxgpt.model import abstract_params, lora
from jaxgpt.pytree import Tree, flatten, require_same, unflatten
from jaxgpt.storage import arrays
from jaxgpt.storage.config_sections import AnyConfig
from jaxgpt.system import directories


class Weights:
    """Parameters of the shapes `like` in `folder`, stored whole."""

    def __init__(self, folder: Path, like: Tree):
        stored = arrays.stored_shapes(folder)
        require_same(like, stored, str(folder))
        self.folder, self.like = folder, like
        self.dtypes = {path: np.dtype(leaf.dtype) for path, leaf in flatten(stored).items()}

    def read(self, path: str) -> np.ndarray:
        """The parameter `path`, on the host as stored."""
        return flatten(arrays.read(self.folder, unflatten({path: 0})))[path]

    def params(self) -> Tree:
        """The parameters, on the host as stored."""
        return arrays.read(self.folder, unflatten(dict.fromkeys(self.dtypes, 0)))

    def sharded(self, shardings: Tree) -> Tree:
        """The parameters in float32, sharded."""
        return arrays.read_sharded(self.folder, self.like, shardings)


class Adapted:
    """The parameters `base` with adapters merged into them, read like any other weights."""

    def __init__(self, adapters: Weights, base: Weights, scale: float):
        self.adapters, self.base, self.scale = adapters, base, scale
        self.dtypes = base.dtypes

    def read(self, path: str) -> np.ndarray:
        """The parameter `path`, on the host."""
        kernel, names = self.base.read(path), [f"{path}/{part}" for part in (lora.A, lora.B)]
        if names[0] not in self.adapters.dtypes:
            return kernel
        a, b = (self.adapters.read(name) for name in names)
        return np.asarray(lora.merge_kernel(path, kernel, (a, b), self.scale))

    def params(self) -> Tree:
        """The parameters, on the host."""
        return jax.tree.map(
            np.asarray, lora.merge(self.base.params(), self.adapters.params(), self.scale)
        )

    def sharded(self, shardings: Tree) -> Tree:
        """The parameters in float32, sharded."""
        mesh = jax.tree.leaves(shardings)[0].mesh
        adapters = self.adapters.sharded(shardings_of(self.adapters.like, mesh))
        return jitted_merge(shardings, self.scale)(self.base.sharded(shardings), adapters)


AnyWeights = Weights | Adapted


def open_weights(directory: Path, config: AnyConfig, about: Mapping[str, Any]) -> AnyWeights:
    """The weights in `directory`; if they are adapters, together with their base."""
    stored = Weights(directory / WEIGHTS, stored_params(config, about))
    if not rank_of(about):
        return stored
    base = directory.parent.parent / BASE
    require(
        fingerprint(base) == about.get("base_sha256"),
        f"{directory} holds adapters of the model {base}, which is missing, or not the one that "
        "they were trained with. A checkpoint of a run with train.lora_rank is read in its run: "
        "move or copy the run as a whole.",
    )
    directories.check_manifest(base)
    train = TrainConfig(lora_rank=rank_of(about), lora_alpha=about["train"]["lora_alpha"])
    return Adapted(stored, Weights(base / WEIGHTS, abstract_params(config)), train.lora_scale)


def stored_params(config: AnyConfig, about: Mapping[str, Any]) -> Tree:
    """Shapes and dtypes of the arrays in a directory whose config.json holds `about`."""
    params, rank = abstract_params(config), rank_of(about)
    return lora.adapters(params, rank) if rank else params


def rank_of(about: Mapping[str, Any]) -> int:
    """The rank of the adapters in a directory whose config.json holds `about`; 0 if there are
    none."""
    rank: int = about.get("train", {}).get("lora_rank", 0)
    return rank


def fingerprint(directory: Path) -> str:
    """The sha256 of the manifest of `directory`, which covers all its files; "" without a
    manifest."""
    manifest = directory / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""


def jitted_merge(shardings: Tree, scale: float) -> Callable[[Tree, Tree], Any]:
    """A function (base, adapters) -> the merged parameters, sharded."""
    return jax.jit(
        lambda base, adapters: lora.merge(base, adapters, scale), out_shardings=shardings
    )
