"""The Python interface of the bridge: PyTorch file to Flax parameters, and back."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree, flatten, require_same
from jaxgpt.storage import model_directory
from jaxgpt.system.stages import Stage, silent

from .choose import choose
from .detect.detect import detect
from .detect.refusals import Stranger
from .dialects import named
from .extras import extras
from .extras.adamw import find
from .files import checkpoints, torchfile
from .loaded import Inspected, Loaded
from .rows import fit, move
from .rows.dialect import Dialect

DTYPES = {str(kind): kind for kind in move.FLOATS}


def inspect(
    weights: checkpoints.Weights,
    *,
    dialect: str | None = None,
    ignore_config: bool = False,
    **fields: Any,
) -> Inspected:
    """Detect dialect and config as `to_flax` does, without reading all of the weights.

    It reads names, shapes, and the few tensors whose values decide.
    """
    source = checkpoints.opened(weights)
    try:
        return _inspected(source, dialect, ignore_config, fields)
    except Stranger:
        for inner in _unwrapped(source):
            with contextlib.suppress(Stranger):
                return _inspected(inner, dialect, ignore_config, fields)
        raise


def _unwrapped(source: checkpoints.Checkpoint) -> Iterator[checkpoints.Checkpoint]:
    """Yield `source` without its outermost prefix, and without the next one.

    The model may be an attribute of another module, or of a module in that one.
    """
    for _ in range(2):
        outer, *others = {name.rpartition(".")[0].partition(".")[0] for name in source.tensors}
        if others or not outer or outer.isdigit():
            return
        source = source.without(f"{outer}.")
        yield source


def _inspected(
    source: checkpoints.Checkpoint, dialect: str | None, ignore_config: bool, fields: dict[str, Any]
) -> Inspected:
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    configs = {} if ignore_config else {"the file": source.extras, "config.json": source.config}
    return Inspected(
        source,
        detect(
            shapes, lambda name: source.tensors[name].read(), source.path, dialect, fields, configs
        ),
    )


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
    """Convert PyTorch weights, a file, state_dict or module, to Flax parameters.

    `fields` are fields of ModelConfig that the weights do not show.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(sorted(DTYPES))}, but is {dtype!r}.")
    inspected = inspect(weights, dialect=dialect, ignore_config=ignore_config, **fields)
    source, detected = inspected.source, inspected.detected
    names = fit.torch_names(detected.dialect, detected.fit.sizes)
    dtypes = {name: tensor.dtype for name, tensor in source.tensors.items() if name in names}
    move.require_floats(dtypes, source.path)
    move.require_one_dtype_per_row(detected.dialect, dtypes, source.path)
    nonfinite: dict[str, int] = {}
    passed = stage("reading", sum(source.tensors[name].size for name in names))

    def read(name: str) -> np.ndarray:
        array = source.tensors[name].read()
        passed(array.size)
        if bad := int(array.size - np.count_nonzero(np.isfinite(array))):
            nonfinite[name] = bad
        return array

    config = detected.report.config
    params = move.to_flax(
        detected.dialect, detected.fit.sizes, read, DTYPES[dtype] if dtype else None, source.tensors
    )
    if not allow_nonfinite:
        move.require_finite(nonfinite, source.path)
    if dtype and not nonfinite:
        move.require_in_range(params, DTYPES[dtype], source.path)
    _require_one_function(config, params, source)
    file_extras = {} if weights_only or not source.container.startswith("torch") else source.extras
    beside = extras.read(file_extras, detected.dialect, config, list(source.tensors), source.path)
    return Loaded(params, detected, source, beside, ignore_config)


def _require_one_function(
    config: ModelConfig, params: Tree, source: checkpoints.Checkpoint
) -> None:
    """Raise UserError unless `params` has exactly the parameters of `config`.

    ModelConfig has a single field for biases that a class may have in one place and not in another.
    """
    wanted, present = set(flatten(abstract_params(config))), set(flatten(params))
    if wanted != present:
        lacking = [f"it lacks {path}" for path in sorted(wanted - present)] + [
            f"it has {p}" for p in sorted(present - wanted)
        ]
        raise UserError(
            f"{source.path}: some of its parts have a bias and others none: {in_a_row(lacking)}, "
            "next to a model that is otherwise like this one. There is no field for such a mixture."
        )


def to_torch(params: Tree, config: ModelConfig, dialect: str | Dialect) -> dict[str, Any]:
    """The state dict of the torch class, in its order, for `load_state_dict(strict=True)`.

    `dialect` is a name, or the dialect of a loaded file, which gives exactly the names in that
    file.
    """
    require_same(abstract_params(config), params, "This set of parameters")
    target = named(dialect) if isinstance(dialect, str) else dialect
    return {
        name: checkpoints.to_tensor(array)
        for name, array in move.to_torch(target, config, params).items()
    }


@dataclass(frozen=True)
class Written:
    """The result of writing a model directory to a file or folder."""

    source: Path  # the model directory
    config: ModelConfig
    dialect: Dialect
    filled: list[str]  # biases that the class has and the model lacks
    beside: list[Any] = field(default_factory=list)  # the names of the extras in the file
    # Fields in which the model differs from the usual one of its class: (ours, usual).
    unlike: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def directory_to_file(
    directory: str | Path,
    out: str | Path,
    dialect: str | None,
    optimizer: bool = False,
    weights_only: bool = False,
    stage: Stage = silent,
) -> Written:
    """Write the model in `directory` to the file `out`.

    Without `dialect`, a converted model gets the names and the nesting of its original file, and a
    model that was trained here is written for the class most like it.
    """
    if Path(out).suffix in (".pt", ".pth"):
        torchfile.need_torch(out)
    opened = model_directory.ModelDirectory(directory)
    origin = extras.Origin.of(opened)
    usual = origin.dialect if origin else None
    target = named(dialect) if dialect else usual or choose(opened.config, opened.paths)
    paths, nested, prefix = set(opened.paths), "", ""
    beside: dict[str, Any] = {}
    alone = weights_only or Path(out).suffix == ".safetensors"
    if optimizer and (alone or not (opened.path / "state").is_dir()):
        why = (
            f"{opened.path} has none"
            if not alone
            else "it goes into .pt and .pth, and not with --weights-only"
        )
        raise UserError(f"--optimizer asks for the optimiser's state, but {why}.")
    if origin and not dialect:
        nested, prefix = origin.nested, origin.prefix
        beside = {} if alone else extras.as_it_was(opened, origin)
    elif optimizer or (target.container.settings and not alone):
        nested, beside = target.container.weights, extras.as_its_class_does(opened, target, origin)
    if optimizer and not find(beside):
        raise UserError(
            f"The file that {directory} came from had no optimiser: say with --dialect how to "
            "write one."
        )
    arrays = move.to_torch_lazily(target, opened.config, paths, reading(opened, stage))
    checkpoints.write(
        out, {prefix + name: array for name, array in arrays.items()}, nested, beside, stage
    )
    filled = move.filled(target, opened.config, paths)
    unlike = target.unlike(opened.config, origin.known_of(target) if origin else ())
    return Written(opened.path, opened.config, target, filled, list(beside), unlike)


def reading(opened: model_directory.ModelDirectory, stage: Stage) -> Callable[[str], np.ndarray]:
    """The function that reads a parameter of `opened` and reports progress to `stage`."""
    passed = stage(
        "reading", sum(leaf.size for leaf in flatten(abstract_params(opened.config)).values())
    )

    def read(path: str) -> np.ndarray:
        array = opened.read(path)
        passed(array.size)
        return array

    return read
