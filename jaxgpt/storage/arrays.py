"""Nested dicts of arrays in folders; the only module that imports orbax.

orbax's CheckpointManager, which also keeps the newest and the best checkpoints and saves in the
background, is not used: here a checkpoint is a model directory with config, tokenizer and
checksums, and takes its name only when all of these are written.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost, type_handlers

from jaxgpt.devices.distributed import is_multi_process
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.pytree import Deferred, Tree

FILE_BYTES = 2**26  # approximate size of a file


class _DeferredHandler(type_handlers.NumpyHandler):
    """Makes arrays while those before are written, so that few are in memory at a time."""

    async def serialize(
        self,
        values: Sequence[Deferred],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        writing: Sequence[Any] = []
        for part in _parts([value.nbytes for value in values]):
            arrays = [value.make() for value in values[part]]
            for one in writing:
                one.result()
            writing = await super().serialize(arrays, infos[part], args and args[part])
        return writing


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield spans of `sizes` that each add up to a file."""
    start = 0
    for end in range(1, len(sizes) + 1):
        if sum(sizes[start:end]) >= FILE_BYTES or end == len(sizes):
            yield slice(start, end)
            start = end


def write(folder: Path, tree: Any) -> None:
    """Write `tree` with little memory beyond its arrays.

    By default orbax would copy all arrays, and keep the packed copies until the end.
    """
    numpy = type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    sharded = type_handlers.ArrayHandler()
    deferred = _DeferredHandler(deepcopy_host_arrays=False)
    types = type_handlers.create_type_handler_registry(
        (Deferred, deferred), (np.ndarray, numpy), (jax.Array, sharded)
    )
    indices = set(range(jax.process_count())) if is_multi_process() else None
    processes = ocp.options.MultiprocessingOptions(primary_host=0, active_processes=indices)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=types,
        multiprocessing_options=processes,
        use_compression=False,  # it would save a few percent of the disk, and be slower
    )
    tree = tree if is_multi_process() else jax.tree.map(_on_host, tree)
    args = ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_BYTES)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=processes) as checkpointer:
            checkpointer.save(folder.resolve(), args=args)
    except ValueError as error:
        _raise_os_error(error, folder)
        raise


def _on_host(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Deferred) else np.asarray(leaf)


def _raise_os_error(error: Exception, folder: Path) -> None:
    """Raise the OSError behind `error`, if there is one; its errno is in the message of orbax's
    error."""
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None


def stored_shapes(folder: Path) -> Tree:
    """The shape and dtype of each array in `folder`."""
    with _named_if_damaged(folder), ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder.resolve()).item_metadata
        tree = metadata.tree if metadata else None  # None if the list of arrays is unreadable
        if not isinstance(tree, dict) or not all(map(_is_array, jax.tree.leaves(tree))):
            raise ValueError("it does not list arrays")
        return tree


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


@contextlib.contextmanager
def _named_if_damaged(folder: Path) -> Iterator[None]:
    """Turn the errors that orbax raises for damaged files into a UserError that names `folder`.

    A failure of the disk, which shows only in the message of orbax's error, is raised as an
    OSError.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        _raise_os_error(error, folder)
        raise UserError(
            f"{folder} cannot be read as arrays ({in_a_row([' '.join(str(error).split())[:200]])}):"
            " it was damaged before its checksums were made, or a version of orbax wrote it that "
            "this one does not know. Restore it from a copy, or make the directory again."
        ) from None


def read(folder: Path, item: Any) -> Any:
    """The arrays of `folder` in the structure of `item`, on the host, as stored."""
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=numpy, partial_restore=True)
    with _named_if_damaged(folder):
        return _restore(folder, args)


def read_sharded(folder: Path, like: Any, shardings: Any) -> Any:
    """The arrays of `folder` with the structure and dtypes of `like`, sharded."""

    def array(leaf: Any, sharding: jax.sharding.Sharding) -> ocp.ArrayRestoreArgs:
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding, dtype=leaf.dtype)

    parts = jax.tree.map(array, like, shardings)
    return _restore(folder, ocp.args.PyTreeRestore(item=like, restore_args=parts))


def _restore(folder: Path, args: ocp.args.PyTreeRestore) -> Any:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(folder.resolve(), args=args)
    except Exception:
        if folder.parent.exists():
            raise
        raise UserError(
            f"{folder.parent} was removed while it was read: its run has newer ones. Try again."
        ) from None


def wait_for_processes(name: str) -> None:
    """Wait for all processes, but not for the devices, which continue their steps."""
    if is_multi_process():
        multihost.sync_global_processes(name, processes=set(range(jax.process_count())))
