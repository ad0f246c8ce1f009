"""The results of inspecting and of loading a checkpoint."""

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.model import GPT, Seq2Seq, abstract_params, assemble
from jaxgpt.pytree import Tree, flatten
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig, field_of
from jaxgpt.storage import model_directory
from jaxgpt.system.stages import Stage, silent

from .conversion import Conversion
from .detect.one_side import Detected
from .detect.report import Report
from .extras.read_extras import Extras
from .files import checkpoints
from .rows import whole
from .rows.pair import AnyDialect, Pair
from .tokens import hf_tokenizer


@dataclass(frozen=True, repr=False)
class Loaded:
    """A converted checkpoint: its parameters, and how each field of its config is known."""

    conversion: Conversion
    detected: Detected
    extras: Extras
    ignore_config: bool = False  # whether a config in the file or next to it was ignored
    proven_by: str = ""  # the class with which the model was compared, if any
    doubt: str = ""  # what must be true for that class to be the one that was trained

    def __repr__(self) -> str:
        return _in_short(self)

    @property
    def params(self) -> Tree:
        """The parameters, a plain nested dict of arrays."""
        return self.conversion.params()

    @property
    def source(self) -> checkpoints.Checkpoint:
        """The checkpoint file, opened for reading."""
        return self.conversion.source

    @property
    def parameters(self) -> int:
        """The number of trained values, as `Inspected.parameters` counts them."""
        return _parameters(self.config)

    @property
    def report(self) -> Report:
        """How each field is known: dicts `read`, `given` and `assumed`, and a list of `caveats`."""
        return self.detected.report

    @property
    def dialect(self) -> AnyDialect:
        """The dialect with its names as they are in this file."""
        return self.detected.dialect

    @functools.cached_property
    def config(self) -> AnyConfig:
        """The config with all fields of the report: a ModelConfig, or a Seq2SeqConfig of two."""
        return self.report.config

    @functools.cached_property
    def tokenizer(self) -> hf_tokenizer.FileTokenizer:
        """The tokenizer in the file or next to it, or the reason why it cannot be used."""
        return hf_tokenizer.of_checkpoint(
            self.source.tokenizer, self.source.extras, field_of(self.config, "vocab_size")
        )

    @functools.cached_property
    def model(self) -> GPT | Seq2Seq:
        """The model: a GPT, called with token ids (B, T), or a Seq2Seq, with source and tokens."""
        return assemble(self.config, model_directory.to_device(self.params))

    def save(
        self, directory: str | Path, tokenizer: Path | None = None, stage: Stage = silent
    ) -> None:
        """Write a model directory, with the tokenizer at `tokenizer` or that of the checkpoint."""
        stage("writing", 0)
        container: dict[str, Any] = {
            "file": Path(self.source.path).name,
            "nested": self.source.nested,
            "prefix": self.source.prefix,
            "ignore_config": self.ignore_config,
        }
        if isinstance(self.dialect, Pair):  # such a class cannot generate without these ids
            container["token_ids"] = self.source.token_ids
        source = {**container, **self.dialect.written(), **self.extras.about}
        about = {"source": source, "fields": self.report.fields}
        chosen = hf_tokenizer.read(tokenizer) if tokenizer else self.tokenizer.tokenizer
        vocab_size = field_of(self.config, "vocab_size")
        if chosen and chosen.vocab_size > vocab_size:
            raise UserError(
                f"{tokenizer or self.source.tokenizer} has {chosen.vocab_size} ids, but the "
                f"model's vocabulary is {vocab_size}: it is another model's. Name the "
                "right one with --tokenizer, or move this one away to go without."
            )
        model_directory.save(
            directory,
            self.config,
            self.conversion.to_write(stage),
            about,
            chosen,
            state=self.extras.state,
        )


@dataclass(frozen=True, repr=False)
class Inspected:
    """A checkpoint with its detected dialect and config, before its weights are read."""

    source: checkpoints.Checkpoint
    detected: Detected

    def __repr__(self) -> str:
        return _in_short(self)

    @property
    def parameters(self) -> int:
        """The number of trained values; a tied matrix counts once, and masks and sinusoids do not
        count."""
        return _parameters(self.detected.report.config)

    @property
    def buffers(self) -> int:
        """The number of values in the file that are not trained: masks, and stored sinusoids."""
        trained = whole.names(self.detected.dialect, self.detected.report.config)
        masks = sum(
            tensor.size for name, tensor in self.source.tensors.items() if name not in trained
        )
        return masks + _sinusoids(self.detected.report.config)

    @property
    def dtypes(self) -> dict[str, int]:
        """The number of tensors of each dtype."""
        return dict(Counter(str(tensor.dtype) for tensor in self.source.tensors.values()))


def _sinusoids(config: AnyConfig) -> int:
    if isinstance(config, Seq2SeqConfig):
        return _sinusoids(config.encoder) + _sinusoids(config.decoder)
    return config.position_rows * config.model_dim if config.positions_stored else 0


def _parameters(config: AnyConfig) -> int:
    return sum(leaf.size for leaf in flatten(abstract_params(config)).values()) - _sinusoids(config)


def _in_short(one: "Loaded | Inspected") -> str:
    detected = one.detected
    return (
        f"{type(one).__name__}({one.source.path}: dialect {detected.dialect.name}, "
        f"{one.parameters:,} parameters, {detected.report.summary})"
    )
