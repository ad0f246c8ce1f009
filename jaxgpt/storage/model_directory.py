"""Model directories: written, opened and read; `jaxgpt.file_names` lists what is in one.

A run directory is read as the best of its checkpoints.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data import tokenizer_files
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.devices.distributed import is_multi_process, is_process_zero
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    METRICS,
    STATE,
    TARGET_TOKENIZER,
    TOKENIZER,
    WEIGHTS,
)
from jaxgpt.model import GPT, Seq2Seq, assemble
from jaxgpt.pytree import Tree, require_same
from jaxgpt.storage import arrays, run_directory
from jaxgpt.storage.config_sections import AnyConfig, config_of, sections_of
from jaxgpt.storage.moments import Moments as Moments
from jaxgpt.storage.moments import read_moments
from jaxgpt.storage.weights import Adapted, Weights, open_weights, stored_params
from jaxgpt.system import atomic_files, directories, json_files

FORMAT = 2  # the version of the format; in version 1, queries, keys and values were separate arrays


def save(
    directory: str | Path,
    config: AnyConfig,
    params: Tree,
    about: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    target_tokenizer: Tokenizer | None = None,
    state: Any = None,
    metrics: bytes | None = None,
) -> None:
    """Write a model directory atomically; config.json gets `about` and the model's fields.

    `params` are adapters if `about` has the settings of a run that trains them.
    """
    require_same(stored_params(config, about or {}), params, "What was to be saved")
    with _new_directory(Path(directory)) as partial:
        if is_process_zero():
            json_files.write_json(
                partial / CONFIG, {**(about or {}), "format": FORMAT, **sections_of(config)}
            )
            for name, one in ((TOKENIZER, tokenizer), (TARGET_TOKENIZER, target_tokenizer)):
                if one is not None:
                    one.save(partial / name)
            if metrics is not None:
                (partial / METRICS).write_bytes(metrics)
            atomic_files.require_room(
                partial, sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
            )
        arrays.write(partial / WEIGHTS, params)
        if state is not None:
            arrays.write(partial / STATE, state)


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """Make one partial directory for all processes, renamed to `path` after all have written.

    Only the first process makes and renames it.
    """
    shared_path = directories.partial_of(path)
    directory = (
        directories.new_directory(path, shared_path if is_multi_process() else None)
        if is_process_zero()
        else contextlib.nullcontext(shared_path)
    )
    with directory as partial:
        arrays.wait_for_processes(f"begin {path}")
        yield partial
        arrays.wait_for_processes(f"end {path}")


class ModelDirectory:
    """An opened model directory: its config, and its arrays one by one or all together."""

    def __init__(self, path: str | Path):
        self.path = run_directory.best(Path(path)) or Path(path)
        if run_directory.is_run(self.path):
            raise UserError(f"{self.path} is a run that has not written a checkpoint yet.")
        _require_directory(self.path)
        self.files = directories.check_manifest(self.path)
        self.about = json_files.read_json(self.path / CONFIG)
        where = str(self.path / CONFIG)
        if not isinstance(self.about.get("model"), dict):
            raise UserError(f"{where} has no section model; {self.path} is not a model directory.")
        self._require_format()
        self.config = config_of(self.about, where)
        self.weights = open_weights(self.path, self.config, self.about)
        self.dtypes: dict[str, np.dtype] = self.weights.dtypes
        self.paths = list(self.dtypes)

    @property
    def stored(self) -> Weights:
        """The weights that the directory itself stores: adapters, where it has a base."""
        return self.weights.adapters if isinstance(self.weights, Adapted) else self.weights

    def _require_format(self) -> None:
        """Refuse a directory that another version of jaxgpt wrote."""
        version = self.about.get("format", 1)
        require(
            version == FORMAT,
            f"{self.path} has format {version}, and this version of jaxgpt reads format {FORMAT}. "
            "Convert the file that it came from again with jaxgpt-convert to-flax; or, with the "
            "version that wrote it, export it with jaxgpt-convert to-torch, and convert that file "
            "with this one.",
        )

    def read(self, path: str) -> np.ndarray:
        """The parameter `path`, on the host as stored."""
        with self._unchanged():
            return self.weights.read(path)

    def params(self) -> Tree:
        """The parameters, on the host as stored."""
        with self._unchanged():
            return self.weights.params()

    def sharded_params(self, shardings: Tree) -> Tree:
        """The parameters in float32, sharded."""
        with self._unchanged():
            return self.weights.sharded(shardings)

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Require at the end of the block that the files whose checksums were compared are
        unchanged."""
        yield
        self.files.require()

    def model(self) -> Any:
        """The model, in the dtype of its weights."""
        return assemble(self.config, to_device(self.params()))

    def state(self, like: Any, shardings: Any) -> Any:
        """The state given to `save`, with the structure and dtypes of `like`, sharded."""
        folder = self.path / STATE
        other = f"{folder} is of another model or optimiser than the config asks for."
        try:
            stored, wanted = (
                sorted(f"{leaf.shape} {leaf.dtype}" for leaf in jax.tree.leaves(tree))
                for tree in (arrays.stored_shapes(folder), like)
            )
            require(stored == wanted, other)
            with self._unchanged():
                return arrays.read_sharded(folder, like, shardings)
        except UserError:
            raise
        except ValueError:
            raise UserError(other) from None

    def moments(self) -> Moments | None:
        """AdamW's moments in the state; None in a directory without state."""
        if not (self.path / STATE).is_dir():
            return None
        with self._unchanged():
            return read_moments(self.path, self.config, self.about)


def _require_directory(path: Path) -> None:
    """Refuse anything but a directory, and suggest a model directory or run nearby."""
    require(
        not path.is_file(),
        f"{path} is a file, but should be a model directory or a run. jaxgpt-convert to-flax "
        f"{path} DIR makes a model directory of a PyTorch checkpoint.",
    )
    if path.is_dir():
        return
    suggestion = directories.nearby(path, [MANIFEST, CHECKPOINTS])
    raise UserError(
        f"{path} is not a directory: it should be a model directory or a run. {suggestion}"
    )


def newest_whole(run: Path, say: Callable[[str], None]) -> ModelDirectory | None:
    """The newest undamaged checkpoint of `run`. Damaged ones are set aside and reported by
    `say`."""
    damaged: dict[Path, str] = {}
    for path in reversed(run_directory.checkpoints(run)):
        try:
            checkpoint = ModelDirectory(path)
        except UserError as problem:
            damaged[path] = str(problem)
            continue
        for broken, what in damaged.items():
            say(
                f"WARNING: {what} It is now {run_directory.set_aside(broken)}, and the run resumes "
                f"from {path}."
            )
        return checkpoint
    if damaged:
        raise UserError(
            f"None of the checkpoints in {run} is whole. {' '.join(damaged.values())} To start "
            f"over, remove {run / CHECKPOINTS}."
        )
    return None


@overload
def load(directory: str | Path) -> GPT | Seq2Seq: ...
@overload
def load(directory: str | Path, kind: type[GPT]) -> GPT: ...
@overload
def load(directory: str | Path, kind: type[Seq2Seq]) -> Seq2Seq: ...
def load(directory: str | Path, kind: type[GPT] | type[Seq2Seq] | None = None) -> GPT | Seq2Seq:
    """The model in a model directory, or in the best checkpoint of a run, in its stored dtype.

    Args:
        kind: GPT or Seq2Seq, to refuse a model of the other class.

    Raises:
        UserError: There is no model, it is damaged, or it is of another `kind`.
    """
    model: GPT | Seq2Seq = ModelDirectory(directory).model()
    require(
        kind is None or isinstance(model, kind),
        f"{directory} holds a {type(model).__name__}, and not a {kind.__name__ if kind else ''}.",
    )
    return model


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory or run, or in any file or folder that has one."""
    return tokenizer_files.load(run_directory.best(Path(directory)) or Path(directory))


def to_device(params: Tree) -> Tree:
    """Move `params` to the device without turning float64 into float32, as jax would silently
    do."""
    with jax.enable_x64(True):
        return jax.tree.map(jnp.array, params)
