"""The two ways over the bridge: file to parameters, and back. Knows how the rooms fit, and none of their insides."""

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert import bridge, files
from convert.detect import Detected, Report, detect
from convert.dialects import DIALECTS
from convert.rows import Dialect
from convert.suspect import in_a_row
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.tokenizer import load as load_tokenizer
from jaxgpt.tree import Tree, flatten, require_same

DTYPES = {str(kind): kind for kind in bridge.FLOATS}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought over: its parameters as a nested dict, and how each field of its config is known."""

    config: ModelConfig
    params: Tree
    report: Report
    dialect: Dialect
    source: files.Checkpoint

    @functools.cached_property
    def model(self) -> GPT:
        return assemble(self.config, checkpoint.to_device(self.params))

    def save(self, directory: str | Path, tokenizer: Path | None = None) -> None:
        about = {"source": {"file": self.source.path.name, "dialect": self.dialect.name}, "fields": vars(self.report)}
        kept = load_tokenizer(tokenizer) if tokenizer else None
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


def inspect(path: str | Path, *, dialect: str | None = None, **fields: Any) -> Inspected:
    """What `to_flax` would do, from names and shapes alone."""
    source = files.read(path)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    return Inspected(source, detect(shapes, source.path, dialect, fields))


def to_flax(
    path: str | Path,
    *,
    dialect: str | None = None,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    **fields: Any,
) -> Loaded:
    """Bring a PyTorch checkpoint over; `fields` are those of ModelConfig that the file itself cannot say."""
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(sorted(DTYPES))}, but is {dtype!r}.")
    found = inspect(path, dialect=dialect, **fields)
    source, detected = found.source, found.detected
    dtypes = {name: tensor.dtype for name, tensor in source.tensors.items()}
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
    return Loaded(config, params, detected.report, detected.dialect, source)


def to_torch(params: Tree, config: ModelConfig, dialect: str) -> dict[str, Any]:
    """name -> torch.Tensor, in the order of the torch class, for `load_state_dict(strict=True)`."""
    require_same(abstract_params(config), params, "This set of parameters")
    return {name: files.to_tensor(array) for name, array in bridge.to_torch(named(dialect), config, params).items()}


def directory_to_file(directory: str | Path, out: str | Path, dialect: str) -> tuple[Path, ModelConfig, Dialect]:
    """Returns where the weights were taken from, what they are, and the dialect that they went to."""
    target = named(dialect)
    opened = checkpoint.ModelDirectory(directory)
    files.write(out, bridge.to_torch_lazily(target, opened.config, set(opened.paths), opened.read))
    return opened.path, opened.config, target


def named(dialect: str) -> Dialect:
    if dialect not in DIALECTS:
        raise UserError(f"There is no dialect {dialect}. There are: {', '.join(DIALECTS)}.")
    return DIALECTS[dialect]


def unlike_its_class(config: ModelConfig, dialect: Dialect) -> dict[str, tuple[Any, Any]]:
    """Fields that a file of this dialect cannot hold, and that differ from what its class computes: (ours, usual)."""
    return {
        field: (getattr(config, field), usual)
        for field, usual in dialect.unsaid.items()
        if field != "dropout" and getattr(config, field) != usual
    }
