"""Model directories: config, weights, tokenizer, checksums; the only module that imports orbax.

DIR/config.json      {"model": every field of ModelConfig, ...}
DIR/tokenizer.json   the tokenizer, where there is one
DIR/weights/         the parameters
DIR/state/           the rest of the training state, in the checkpoints of a run
DIR/metrics.jsonl    the metrics logged up to then, in the checkpoints of a run
DIR/manifest.json    size and sha256 of every file above

A run directory is read as the best of its checkpoints.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost, type_handlers

from jaxgpt.config import ModelConfig
from jaxgpt.data import tokenizer_files
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.devices.distributed import first, together
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.pytree import Tree, flatten, require_same, unflatten
from jaxgpt.settings import build
from jaxgpt.storage import run_directory
from jaxgpt.system import atomic_files

FORMAT = 2  # of parameters and config; 1 kept queries, keys and values in arrays of their own
PIECE = 2**26  # approximate bytes of a file under weights/ or state/


def save(
    directory: str | Path,
    config: ModelConfig,
    params: Tree,
    about: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    state: Any = None,
    metrics: bytes | None = None,
) -> None:
    """Write a model directory atomically; config.json gets `about` and the model's fields."""
    require_same(abstract_params(config), params, "What was to be saved")
    with _new_directory(Path(directory)) as partial:
        if first():
            atomic_files.write_json(
                partial / "config.json", {**(about or {}), "format": FORMAT, "model": vars(config)}
            )
            if tokenizer is not None:
                tokenizer.save(partial / "tokenizer.json")
            if metrics is not None:
                (partial / run_directory.METRICS).write_bytes(metrics)
            atomic_files.require_room(
                partial, sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
            )
        _write(partial / "weights", params)
        if state is not None:
            _write(partial / "state", state)


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """Make one partial directory for all processes, renamed to `path` after all have written.

    Only the first process makes and renames it.
    """
    shared_path = atomic_files.partial_of(path)
    directory = (
        atomic_files.new_directory(path, shared_path if together() else None)
        if first()
        else contextlib.nullcontext(shared_path)
    )
    with directory as partial:
        _wait(f"begin {path}")
        yield partial
        _wait(f"end {path}")


def _wait(name: str) -> None:
    """Wait for all processes, but not for the devices, which continue their steps."""
    if together():
        multihost.sync_global_processes(name, processes=set(range(jax.process_count())))


def _write(folder: Path, tree: Any) -> None:
    """Write `tree` with little memory beyond its arrays.

    By default orbax would copy them all, and keep what it has packed until the end.
    """
    numpy = type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    sharded = type_handlers.ArrayHandler()
    types = type_handlers.create_type_handler_registry((np.ndarray, numpy), (jax.Array, sharded))
    indices = set(range(jax.process_count())) if together() else None
    processes = ocp.options.MultiprocessingOptions(primary_host=0, active_processes=indices)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=types, multiprocessing_options=processes
    )
    tree = tree if together() else jax.tree.map(np.asarray, tree)
    args = ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=PIECE)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=processes) as checkpointer:
            checkpointer.save(folder.resolve(), args=args)
    except ValueError as error:  # orbax keeps the errno only in the message
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None


class Moments(NamedTuple):
    """AdamW's moments of one set of parameters."""

    step: int  # of the run, for the schedule and the order of the data
    updates: int  # the count of AdamW itself, for its bias correction
    mu: Tree
    nu: Tree


class ModelDirectory:
    """An opened model directory: its config, and its arrays one by one or all together."""

    def __init__(self, path: str | Path):
        self.path = run_directory.best(Path(path)) or Path(path)
        if run_directory.is_run(self.path):
            raise UserError(f"{self.path} is a run that has not written a checkpoint yet.")
        atomic_files.check_manifest(self.path)
        self.about = atomic_files.read_json(self.path / "config.json")
        fields = self.about.get("model")
        if not isinstance(fields, dict):
            raise UserError(
                f"{self.path / 'config.json'} has no section model; it is no model directory."
            )
        self._require_format()
        self.config: ModelConfig = build(ModelConfig, fields, str(self.path / "config.json"))
        with ocp.PyTreeCheckpointer() as weights:
            stored = weights.metadata((self.path / "weights").resolve()).item_metadata.tree
        require_same(abstract_params(self.config), stored, str(self.path / "weights"))
        self.dtypes: dict[str, np.dtype] = {
            path: np.dtype(leaf.dtype) for path, leaf in flatten(stored).items()
        }
        self.paths = list(self.dtypes)

    def _require_format(self) -> None:
        """Refuse a directory that another version of jaxgpt wrote."""
        version = self.about.get("format", 1)
        if version != FORMAT:
            raise UserError(
                f"{self.path} has format {version}, and this version of jaxgpt reads format {FORMAT}. Convert "
                "the file that it came from again with jaxgpt-convert to-flax; or, with the version that "
                "wrote it, export it with jaxgpt-convert to-torch, and convert that file with this one."
            )

    def read(self, path: str) -> np.ndarray:
        return flatten(self._restore([path]))[path]

    def params(self, where: Tree | None = None) -> Tree:
        """The parameters: on the host as stored, or in float32 with the shardings `where`."""
        return self._restore(self.paths, where)

    def model(self) -> GPT:
        return assemble(self.config, to_device(self.params()))

    def state(self, like: Any, where: Any) -> Any:
        """The state given to `save`, with the structure of `like` and the shardings `where`."""
        parts = jax.tree.map(lambda leaf, part: _restore_args(part, leaf.dtype), like, where)
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                tree = checkpointer.metadata((self.path / "state").resolve()).item_metadata.tree
            stored, wanted = (
                sorted(f"{x.shape} {x.dtype}" for x in jax.tree.leaves(each))
                for each in (tree, like)
            )
            if stored != wanted:
                raise ValueError
            return self._read("state", ocp.args.PyTreeRestore(item=like, restore_args=parts))
        except UserError:
            raise
        except ValueError:
            raise UserError(
                f"{self.path / 'state'} is of another model or optimiser than the config asks for."
            ) from None

    def moments(self) -> Moments | None:
        """AdamW's moments, wherever they are in the state; None in a directory without state."""
        if not (self.path / "state").is_dir():
            return None
        with ocp.PyTreeCheckpointer() as state:
            stored = state.metadata((self.path / "state").resolve()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        whole = self._read("state", ocp.args.PyTreeRestore(item=stored, restore_args=as_numpy))
        (adam,) = _adams(whole)
        for moment in ("mu", "nu"):
            require_same(
                abstract_params(self.config), adam[moment], f"{self.path / 'state'}, its {moment},"
            )
        return Moments(int(whole["step"]), int(adam["count"]), adam["mu"], adam["nu"])

    def _restore(self, paths: list[str], where: Tree | None = None) -> Tree:
        item = unflatten(dict.fromkeys(paths, 0))
        numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        parts = (
            jax.tree.map(lambda _: numpy, item)
            if where is None
            else jax.tree.map(_restore_args, where)
        )
        return self._read(
            "weights", ocp.args.PyTreeRestore(item=item, restore_args=parts, partial_restore=True)
        )

    def _read(self, part: str, what: ocp.args.PyTreeRestore) -> Any:
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                return checkpointer.restore((self.path / part).resolve(), args=what)
        except Exception:
            if self.path.exists():
                raise
            raise UserError(
                f"{self.path} was there and is gone: its run has newer ones by now. Try again."
            ) from None


def _restore_args(where: jax.sharding.Sharding, dtype: Any = np.float32) -> ocp.ArrayRestoreArgs:
    return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=where, dtype=dtype)


def _adams(tree: Any) -> list[dict[str, Any]]:
    """The states of AdamW within `tree`."""
    if isinstance(tree, dict) and {"count", "mu", "nu"} <= tree.keys():
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [adam for part in parts for adam in _adams(part)]


def newest_whole(run: Path, say: Callable[[str], None]) -> ModelDirectory | None:
    """The newest undamaged checkpoint of `run`; `say` reports damaged ones, which are set aside."""
    damaged: dict[Path, str] = {}
    for path in reversed(run_directory.checkpoints(run)):
        try:
            checkpoint = ModelDirectory(path)
        except UserError as problem:
            damaged[path] = str(problem)
            continue
        for broken, what in damaged.items():
            say(
                f"WARNING: {what} It is now {run_directory.set_aside(broken)}, and the run goes on "
                f"from {path}."
            )
        return checkpoint
    if damaged:
        raise UserError(
            f"None of the checkpoints in {run} is whole. {' '.join(damaged.values())} To begin "
            f"anew, remove {run / run_directory.CHECKPOINTS}."
        )
    return None


def load(directory: str | Path) -> GPT:
    """The model in a model directory, or in the best checkpoint of a run, in its stored dtype."""
    return ModelDirectory(directory).model()


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory or run, or in any file or folder that has one."""
    return tokenizer_files.load(run_directory.best(Path(directory)) or Path(directory))


def to_device(params: Tree) -> Tree:
    """Move `params` to the device, with float64 kept, which jax would silently make float32."""
    with jax.enable_x64(True):
        return jax.tree.map(jnp.array, params)
