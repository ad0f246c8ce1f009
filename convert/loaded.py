"""What inspecting or loading a checkpoint gives: how it was understood, and, once loaded, its parameters."""

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.pytree import Tree, flatten
from jaxgpt.storage import model_directory
from jaxgpt.system.stages import Stage, silent

from .detect.detect import Detected
from .detect.report import Report
from .extras import extras
from .files import checkpoints
from .rows import fit
from .rows.dialect import Dialect
from .tokens import hf_tokenizer


@dataclass(frozen=True, repr=False)
class Loaded:
    """A checkpoint brought over: its parameters as a nested dict, and how each field of its config is known."""

    params: Tree
    detected: Detected
    source: checkpoints.Checkpoint
    beside: extras.Beside
    ignore_config: bool = False  # whether a config in the file or beside it was passed over

    def __repr__(self) -> str:
        return _in_short(self)

    @property
    def parameters(self) -> int:
        return _parameters(self.config)

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
    def tokenizer(self) -> hf_tokenizer.Found:
        return hf_tokenizer.beside(
            self.source.tokenizer, self.source.extras, self.config.vocab_size
        )

    @functools.cached_property
    def model(self) -> GPT:
        return assemble(self.config, model_directory.to_device(self.params))

    def save(
        self, directory: str | Path, tokenizer: Path | None = None, stage: Stage = silent
    ) -> None:
        stage("writing", 0)
        container = {
            "file": Path(self.source.path).name,
            "nested": self.source.nested,
            "prefix": self.source.prefix,
            "ignore_config": self.ignore_config,
        }
        source = {**container, **self.dialect.written(), **self.beside.about}
        about = {"source": source, "fields": self.report.fields}
        kept = hf_tokenizer.read(tokenizer) if tokenizer else self.tokenizer.tokenizer
        if kept and kept.vocab_size > self.config.vocab_size:
            raise UserError(
                f"{tokenizer or self.source.tokenizer} has {kept.vocab_size} ids, but the model's vocabulary is "
                f"{self.config.vocab_size}: it is another model's. Name the right one with --tokenizer, or move this "
                "one away to go without."
            )
        model_directory.save(directory, self.config, self.params, about, kept, self.beside.state)


@dataclass(frozen=True, repr=False)
class Inspected:
    source: checkpoints.Checkpoint
    detected: Detected

    def __repr__(self) -> str:
        return _in_short(self)

    @property
    def parameters(self) -> int:
        """How many numbers are trained; a tied matrix counts once, masks and fixed sinusoids do not."""
        return _parameters(self.detected.report.config)

    @property
    def buffers(self) -> int:
        """How many numbers of the file are not trained: masks, and sinusoids that are stored."""
        trained = fit.torch_names(self.detected.dialect, self.detected.fit.sizes)
        masks = sum(
            tensor.size for name, tensor in self.source.tensors.items() if name not in trained
        )
        return masks + _sinusoids(self.detected.report.config)

    @property
    def dtypes(self) -> dict[str, int]:
        return dict(Counter(str(tensor.dtype) for tensor in self.source.tensors.values()))


def _sinusoids(config: ModelConfig) -> int:
    return config.position_rows * config.model_dim if config.positions_stored else 0


def _parameters(config: ModelConfig) -> int:
    return sum(leaf.size for leaf in flatten(abstract_params(config)).values()) - _sinusoids(config)


def _in_short(one: "Loaded | Inspected") -> str:
    detected = one.detected
    return (
        f"{type(one).__name__}({one.source.path}: dialect {detected.dialect.name}, {one.parameters:,} parameters, "
        f"{detected.report.summary})"
    )
