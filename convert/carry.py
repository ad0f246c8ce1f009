"""The two ways over the bridge: file to parameters, and back. Knows how the rooms fit, and none of their insides."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert import bridge, files, hubtokens, whole
from convert.detect import Detected, Report, Stranger, detect
from convert.dialects import named
from convert.optimizer import find
from convert.rows import Dialect
from convert.suspect import in_a_row
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.shell import Stage, silent
from jaxgpt.tree import Tree, flatten, require_same

DTYPES = {str(kind): kind for kind in bridge.FLOATS}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought over: its parameters as a nested dict, and how each field of its config is known."""

    params: Tree
    detected: Detected
    source: files.Checkpoint
    beside: whole.Beside
    ignore_config: bool = False  # whether a config in the file or beside it was passed over

    @property
    def report(self) -> Report:
        return self.detected.report

    @property
    def dialect(self) -> Dialect:
        """As this file has it, down to its own words."""
        return self.detected.dialect

    @functools.cached_property
    def config(self) -> ModelConfig:
        return self.report.config

    @functools.cached_property
    def tokenizer(self) -> hubtokens.Found:
        return hubtokens.beside(self.source.tokenizer, self.source.extras, self.config.vocab_size)

    @functools.cached_property
    def model(self) -> GPT:
        return assemble(self.config, checkpoint.to_device(self.params))

    def save(self, directory: str | Path, tokenizer: Path | None = None, stage: Stage = silent) -> None:
        stage("writing", 0)
        container = {
            "file": self.source.path.name,
            "nested": self.source.nested,
            "prefix": self.source.prefix,
            "ignore_config": self.ignore_config,
        }
        source = {**container, **self.dialect.written(), **self.beside.about}
        about = {"source": source, "fields": vars(self.report)}
        kept = hubtokens.read(tokenizer) if tokenizer else self.tokenizer.tokenizer
        if kept and kept.vocab_size > self.config.vocab_size:
            raise UserError(
                f"{tokenizer or self.source.tokenizer} has {kept.vocab_size} ids, but the model's vocabulary is "
                f"{self.config.vocab_size}: it is another model's. Name the right one with --tokenizer, or move this "
                "one away to go without."
            )
        checkpoint.save(directory, self.config, self.params, about, kept, self.beside.state)


@dataclass(frozen=True)
class Inspected:
    source: files.Checkpoint
    detected: Detected

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(tensor.shape)) for tensor in self.source.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        return dict(Counter(str(tensor.dtype) for tensor in self.source.tensors.values()))


def inspect(
    path: str | Path | files.Checkpoint, *, dialect: str | None = None, ignore_config: bool = False, **fields: Any
) -> Inspected:
    """What `to_flax` would do, from names, shapes, and the few tensors whose values decide."""
    source = path if isinstance(path, files.Checkpoint) else files.read(path)
    try:
        return _inspected(source, dialect, ignore_config, fields)
    except Stranger:
        for inner in _unwrapped(source):
            with contextlib.suppress(Stranger):
                return _inspected(inner, dialect, ignore_config, fields)
        raise


def _unwrapped(source: files.Checkpoint) -> Iterator[files.Checkpoint]:
    """The whole model may lie in an attribute of another module, or of one in that one."""
    for _ in range(2):
        outer, *others = {name.rpartition(".")[0].partition(".")[0] for name in source.tensors}
        if others or not outer or outer.isdigit():
            return
        source = source.without(f"{outer}.")
        yield source


def _inspected(source: files.Checkpoint, dialect: str | None, ignore_config: bool, fields: dict[str, Any]) -> Inspected:
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    configs = {} if ignore_config else {"the file": source.extras, "config.json": source.config}
    return Inspected(
        source, detect(shapes, lambda name: source.tensors[name].read(), source.path, dialect, fields, configs)
    )


def to_flax(
    path: str | Path | files.Checkpoint,
    *,
    dialect: str | None = None,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    ignore_config: bool = False,
    weights_only: bool = False,
    stage: Stage = silent,
    **fields: Any,
) -> Loaded:
    """Bring a PyTorch checkpoint over; `fields` are those of ModelConfig that the file itself cannot say."""
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(sorted(DTYPES))}, but is {dtype!r}.")
    found = inspect(path, dialect=dialect, ignore_config=ignore_config, **fields)
    source, detected = found.source, found.detected
    weights = bridge.torch_names(detected.dialect, detected.fit.sizes)
    dtypes = {name: tensor.dtype for name, tensor in source.tensors.items() if name in weights}
    bridge.require_floats(dtypes, source.path)
    bridge.require_one_dtype_per_row(detected.dialect, dtypes, source.path)
    nonfinite: dict[str, int] = {}
    passed = stage("reading", sum(source.tensors[name].size for name in weights))

    def read(name: str) -> np.ndarray:
        array = source.tensors[name].read()
        passed(array.size)
        if bad := int(array.size - np.count_nonzero(np.isfinite(array))):
            nonfinite[name] = bad
        return array

    config = detected.report.config
    params = bridge.to_flax(
        detected.dialect, detected.fit.sizes, read, DTYPES[dtype] if dtype else None, source.tensors
    )
    if nonfinite and not allow_nonfinite:
        counts = in_a_row(f"{name} has {count}" for name, count in nonfinite.items())
        raise UserError(
            f"{source.path}: weights are NaN or infinite: {counts}. A run that diverged saves such files; take an "
            f"earlier checkpoint, or bring it over as it is with --allow-nonfinite."
        )
    overflown = [path for path, array in flatten(params).items() if dtype and not np.isfinite(array).all()]
    if overflown and not nonfinite:
        raise UserError(
            f"{source.path}: {', '.join(overflown)} would become infinite in {dtype}, which ends at "
            f"{ml_dtypes.finfo(DTYPES[dtype or 'float64']).max}. Choose bfloat16 or float32."
        )
    _require_one_function(config, params, source)
    held = {} if weights_only or not source.container.startswith("torch") else source.extras
    beside = whole.read(held, detected.dialect, config, list(source.tensors), source.path)
    return Loaded(params, detected, source, beside, ignore_config)


def _require_one_function(config: ModelConfig, params: Tree, source: files.Checkpoint) -> None:
    """A class may have a bias in one place and none in another, for which ModelConfig has a single field."""
    wanted, there = set(flatten(abstract_params(config))), set(flatten(params))
    if wanted != there:
        lacking = [f"it lacks {path}" for path in sorted(wanted - there)] + [
            f"it has {p}" for p in sorted(there - wanted)
        ]
        raise UserError(
            f"{source.path}: some of its parts have a bias and others none: {in_a_row(lacking)}, next to a model that "
            f"is otherwise like this one. There is no field for such a mixture."
        )


def to_torch(params: Tree, config: ModelConfig, dialect: str | Dialect) -> dict[str, Any]:
    """name -> torch.Tensor, in the order of the torch class, for `load_state_dict(strict=True)`. `dialect` is a name;
    or the one of a loaded file, to have the very names of that file."""
    require_same(abstract_params(config), params, "This set of parameters")
    target = named(dialect) if isinstance(dialect, str) else dialect
    return {name: files.to_tensor(array) for name, array in bridge.to_torch(target, config, params).items()}


@dataclass(frozen=True)
class Written:
    source: Path  # where the weights were taken from
    config: ModelConfig
    dialect: Dialect
    filled: list[str]  # biases that the class has and the model lacks
    beside: list[Any] = field(default_factory=list)  # the names of what is in the file besides the weights
    unlike: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # what its class computes otherwise: (ours, its)


def directory_to_file(
    directory: str | Path,
    out: str | Path,
    dialect: str | None,
    optimizer: bool = False,
    weights_only: bool = False,
    stage: Stage = silent,
) -> Written:
    """With no dialect, a model that came from a file goes back under the names, and in the dict, of that file."""
    opened = checkpoint.ModelDirectory(directory)
    origin = whole.Origin.of(opened)
    if not dialect and not origin:
        raise UserError(f"{directory} did not come from a file; say with --dialect which class shall load {out}.")
    target = origin.dialect if origin and not dialect else named(dialect or "")
    paths, nested, prefix = set(opened.paths), "", ""
    beside: dict[str, Any] = {}
    alone = weights_only or Path(out).suffix == ".safetensors"
    if optimizer and (alone or not (opened.path / "state").is_dir()):
        why = f"{opened.path} has none" if not alone else "it goes into .pt and .pth, and not with --weights-only"
        raise UserError(f"--optimizer asks for the optimiser's state, but {why}.")
    if origin and not dialect:
        nested, prefix = origin.nested, origin.prefix
        beside = {} if alone else whole.as_it_was(opened, origin)
    elif optimizer or (target.container.settings and not alone):
        nested, beside = target.container.weights, whole.as_its_class_does(opened, target, origin)
    if optimizer and not find(beside):
        raise UserError(f"The file that {directory} came from had no optimiser: say with --dialect how to write one.")
    arrays = bridge.to_torch_lazily(target, opened.config, paths, reading(opened, stage))
    files.write(out, {prefix + name: array for name, array in arrays.items()}, nested, beside, stage)
    filled = bridge.filled(target, opened.config, paths)
    unlike = target.unlike(opened.config, origin.known_of(target) if origin else ())
    return Written(opened.path, opened.config, target, filled, list(beside), unlike)


def reading(opened: checkpoint.ModelDirectory, stage: Stage) -> Callable[[str], np.ndarray]:
    passed = stage("reading", sum(leaf.size for leaf in flatten(abstract_params(opened.config)).values()))

    def read(path: str) -> np.ndarray:
        array = opened.read(path)
        passed(array.size)
        return array

    return read
