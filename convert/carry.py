"""The two ways over the bridge: file to parameters, and back. Knows how the rooms fit, and none of their insides."""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert import bridge, files
from convert.detect import Detected, Report, Stranger, detect
from convert.dialects import DIALECTS, named
from convert.rows import Dialect
from convert.said import characters
from convert.suspect import in_a_row
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.tokenizer import CharTokenizer
from jaxgpt.tokenizer import load as load_tokenizer
from jaxgpt.tree import Tree, flatten, require_same

DTYPES = {str(kind): kind for kind in bridge.FLOATS}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought over: its parameters as a nested dict, and how each field of its config is known."""

    params: Tree
    detected: Detected
    source: files.Checkpoint
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
    def characters(self) -> list[str]:
        """What its ids stand for, where that lay beside the weights."""
        found = characters(self.source.extras)
        return found if len(found) <= self.config.vocab_size else []

    @functools.cached_property
    def model(self) -> GPT:
        return assemble(self.config, checkpoint.to_device(self.params))

    def save(self, directory: str | Path, tokenizer: Path | None = None) -> None:
        container = {
            "file": self.source.path.name,
            "nested": self.source.nested,
            "prefix": self.source.prefix,
            "ignore_config": self.ignore_config,
        }
        about = {"source": {**container, **self.dialect.written()}, "fields": vars(self.report)}
        kept = load_tokenizer(tokenizer) if tokenizer else None
        kept = kept or (CharTokenizer(self.characters) if self.characters else None)
        if kept and kept.vocab_size > self.config.vocab_size:
            raise UserError(
                f"{tokenizer} has {kept.vocab_size} ids, but the model's vocabulary is {self.config.vocab_size}."
            )
        checkpoint.save(directory, self.config, self.params, about, kept)


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

    def read(name: str) -> np.ndarray:
        array = source.tensors[name].read()
        if bad := int(array.size - np.count_nonzero(np.isfinite(array))):
            nonfinite[name] = bad
        return array

    config = detected.report.config
    params = bridge.to_flax(detected.dialect, detected.fit.sizes, read, DTYPES[dtype] if dtype else None)
    if nonfinite and not allow_nonfinite:
        counts = in_a_row(f"{name} has {count}" for name, count in nonfinite.items())
        raise UserError(
            f"{source.path}: weights are NaN or infinite: {counts}. A run that diverged saves such files; take an "
            f"earlier checkpoint, or bring it over as it is with --allow-nonfinite."
        )
    overflown = [path for path, array in flatten(params).items() if not np.isfinite(array).all()]
    if overflown and not nonfinite:
        raise UserError(
            f"{source.path}: {', '.join(overflown)} would become infinite in {dtype}, which ends at "
            f"{ml_dtypes.finfo(DTYPES[dtype or 'float64']).max}. Choose bfloat16 or float32."
        )
    _require_one_function(config, params, source)
    return Loaded(params, detected, source, ignore_config)


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


def directory_to_file(directory: str | Path, out: str | Path, dialect: str | None) -> Written:
    """With no dialect, a model that came from a file goes back under the names, and in the dict, of that file."""
    opened = checkpoint.ModelDirectory(directory)
    source = opened.about.get("source") or {}
    if not dialect and "rows" not in source:
        raise UserError(f"{directory} did not come from a file; say with --dialect which class shall load {out}.")
    target = named(dialect) if dialect else _origin(source, opened.path)
    paths, nested, prefix = set(opened.paths), "", ""
    arrays = bridge.to_torch_lazily(target, opened.config, paths, opened.read)
    if not dialect:
        nested, prefix = source["nested"], source["prefix"]
    files.write(out, {prefix + name: array for name, array in arrays.items()}, nested)
    return Written(opened.path, opened.config, target, bridge.filled(target, opened.config, paths))


def _origin(source: dict[str, Any], path: Path) -> Dialect:
    usual = DIALECTS.get(source.get("dialect", ""), Dialect("", "its structure alone", ()))
    try:
        return usual.reread(source)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / 'config.json'}: its source cannot be read ({error!r}); give --dialect.") from None


def unlike_its_class(config: ModelConfig, dialect: Dialect) -> dict[str, tuple[Any, Any]]:
    """Fields that a file of this dialect cannot hold, and that differ from what its class computes: (ours, usual)."""
    shown = {"dropout"} | ({"positions"} if config.position_rows else set())
    shown |= {"final_norm"} if config.final_norm is False else set()
    return {
        field: (getattr(config, field), usual)
        for field, usual in dialect.unsaid.items()
        if field not in shown and getattr(config, field) != usual
    }
