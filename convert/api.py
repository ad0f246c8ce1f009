"""The Python interface of the bridge: PyTorch file to Flax parameters, and back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree, flatten, require_same
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.storage import model_directory
from jaxgpt.system.stages import Stage, silent

from . import llama2c_bin, write_plan
from .conversion import Conversion
from .detect.detect import detect, detect_renamed
from .detect.errors import UnknownTensors
from .dialects import named
from .dtypes import OF_WEIGHTS
from .extras import read_extras
from .files import checkpoints, saving, torchfile, wrappers
from .loaded import Inspected, Loaded
from .rows import move, whole
from .rows.pair import AnyDialect
from .write_plan import Written


def inspect(
    weights: checkpoints.Weights,
    *,
    dialect: str | None = None,
    ignore_config: bool = False,
    **fields: Any,
) -> Inspected:
    """Detect dialect and config as `to_flax` does, without reading all of the weights.

    It reads names, shapes, and the few tensors whose values decide. The arguments are those of
    `to_flax`.
    """
    source = inner = checkpoints.opened(weights)
    try:
        return Inspected(source, detect(*_inputs(source, dialect, ignore_config, fields)))
    except UnknownTensors:
        for inner in _unwrapped(source):
            with contextlib.suppress(UnknownTensors):
                return Inspected(inner, detect(*_inputs(inner, dialect, ignore_config, fields)))
        if detected := detect_renamed(*_inputs(inner, dialect, ignore_config, fields)):
            return Inspected(inner, detected)
        raise


def _unwrapped(source: checkpoints.Checkpoint) -> Iterator[checkpoints.Checkpoint]:
    """Yield `source` with the names of outer modules removed, one module at a time."""
    for prefix in wrappers.outer_modules(source.tensors):
        source = source.without(prefix)
        yield source


def _inputs(
    source: checkpoints.Checkpoint, dialect: str | None, ignore_config: bool, fields: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments of `detect`."""
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    configs = {} if ignore_config else source.configs

    def read(name: str) -> np.ndarray:
        return source.tensors[name].read()

    return shapes, read, source.path, dialect, fields, configs


def to_flax(
    weights: checkpoints.Weights,
    *,
    dialect: str | None = None,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    ignore_config: bool = False,
    weights_only: bool = False,
    stage: Stage = silent,
    **fields: Any,
) -> Loaded:
    """Convert PyTorch weights to Flax parameters, and report how each field of the config is known.

    Args:
        weights: A checkpoint file, a Hugging Face folder, a state_dict, or a torch module.
        dialect: The class that wrote the weights, where several fit; "auto" goes by structure.
        dtype: Store the parameters in this dtype instead of the file's.
        allow_nonfinite: Accept NaN and infinite values.
        ignore_config: Ignore a config in the file or next to it.
        weights_only: Leave out the optimiser and whatever else is stored with the weights.
        stage: Receives progress.
        **fields: Fields of ModelConfig that the weights do not show, such as `norm="post"`; those
            of an encoder as `encoder={"norm": "post"}`.

    Returns:
        The model, its parameters and config, and a report.

    Raises:
        UserError: The weights are damaged, incomplete, ambiguous, or of another kind of model.
    """
    _parse_dtype(dtype)
    inspected = inspect(weights, dialect=dialect, ignore_config=ignore_config, **fields)
    result = loaded(
        inspected,
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
        ignore_config=ignore_config,
        weights_only=weights_only,
    )
    result.conversion.params(stage)
    return result


def loaded(
    inspected: Inspected,
    *,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    ignore_config: bool = False,
    weights_only: bool = False,
) -> Loaded:
    """What `to_flax` returns, but the weights are read, and their values checked, when they are
    first needed."""
    source, detected = inspected.source, inspected.detected
    config = detected.report.config
    _require_convertible(inspected)
    _require_parameters_of(config, whole.paths(detected.dialect, config), source.path)
    conversion = Conversion(source, detected.dialect, config, _parse_dtype(dtype), allow_nonfinite)

    has_extras = source.container.startswith("torch") and not weights_only
    stored = source.extras if has_extras else {}
    source.files.require()
    extras = read_extras.read(stored, detected.dialect, config, list(source.tensors), source.path)
    source.files.require()
    return Loaded(conversion, detected, extras, ignore_config)


def _parse_dtype(name: str | None) -> np.dtype | None:
    if name is None:
        return None
    if name not in OF_WEIGHTS:
        raise UserError(f"dtype must be one of {', '.join(sorted(OF_WEIGHTS))}, but is {name!r}.")
    return OF_WEIGHTS[name]


def _require_convertible(inspected: Inspected) -> None:
    """Require that the weights are floats, and that all layers have one dtype."""
    source = inspected.source
    names = whole.names(inspected.detected.dialect, inspected.detected.report.config)
    dtypes = {name: tensor.dtype for name, tensor in source.tensors.items() if name in names}
    move.require_floats(dtypes, source.path)
    for side in whole.sides(inspected.detected.dialect, inspected.detected.report.config):
        move.require_one_dtype_per_row(side.dialect, dtypes, source.path)


def _require_parameters_of(config: AnyConfig, present: set[str], path: object) -> None:
    """Raise UserError unless `present` are exactly the parameters of `config`.

    One field of ModelConfig, such as mlp_bias, covers several biases, so a class that has only some
    of them has no config.
    """
    wanted = set(flatten(abstract_params(config)))
    differing = wanted ^ present
    if not differing:
        return
    differences = [f"it lacks {name}" for name in sorted(wanted - present)]
    differences += [f"it has {name}" for name in sorted(present - wanted)]
    reason = "its tensors are not those of one model"
    if all(name.endswith("/bias") for name in differing):
        reason = "it has biases in some of the places that one field of ModelConfig covers"
    raise UserError(
        f"{path}: {reason}: compared with the model of its config, {in_a_row(differences)}. "
        "Such a mixture is not supported."
    )


def to_torch(params: Tree, config: AnyConfig, dialect: str | AnyDialect) -> dict[str, Any]:
    """The state dict of the torch class, in the order of the class, for
    `load_state_dict(strict=True)`.

    Args:
        params: The parameters, a nested dict of arrays.
        config: The config of their model.
        dialect: The name of a dialect; or `Loaded.dialect`, for exactly the names in that file.

    Returns:
        The tensors by name.
    """
    require_same(abstract_params(config), params, "This set of parameters")
    target = named(dialect) if isinstance(dialect, str) else dialect
    return {
        name: checkpoints.to_tensor(array)
        for name, array in whole.to_torch(target, config, params).items()
    }


def directory_to_file(
    directory: str | Path,
    out: str | Path,
    dialect: str | None,
    optimizer: bool = False,
    weights_only: bool = False,
    stage: Stage = silent,
) -> Written:
    """Write the model in `directory` to the file `out`; everything is decided before writing.

    Without `dialect`, a converted model gets the names and the nesting of its original file, and a
    model that was trained here is written for the class most like it. A file that ends in .bin is
    for the program of llama2.c.
    """
    if Path(out).suffix == llama2c_bin.SUFFIX and not optimizer:
        return llama2c_bin.directory_to_bin(directory, out, dialect, stage)
    if Path(out).suffix in (".pt", ".pth"):
        torchfile.need_torch(out)
    opened = model_directory.ModelDirectory(directory)
    plan = write_plan.plan(opened, Path(out), dialect, optimizer, weights_only)
    saving.save(out, plan.tensors(), plan.nested, plan.extras, stage)
    return plan.result
