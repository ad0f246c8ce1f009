"""The settings of a run: sections of fields, each with its default and a sentence of help."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.errors import (
    divisors,
    require,
    require_not_negative,
    require_positive,
)
from jaxgpt.fields import explained, require_choices, setting
from jaxgpt.mesh_config import MeshConfig as MeshConfig
from jaxgpt.model_config import ModelConfig as ModelConfig
from jaxgpt.optim_config import OptimConfig as OptimConfig
from jaxgpt.seq2seq_config import Seq2SeqConfig


@explained
@dataclass(frozen=True)
class DataConfig:
    """Training data."""

    path: str = setting(
        "",
        "A directory from jaxgpt prepare; or a text, or python-docs, prepared in run.dir.",
    )
    tokenizer: str = setting(
        "char",
        "Tokenizer of a text: char, byte, bpe, or a file; with --init, the model's own.",
    )

    target_tokenizer: str = setting(
        "", "Tokenizer of the targets of pairs, if it is not that of the sources."
    )
    pack: Literal["off", "restart", "continue"] = setting(
        "off",
        "Whether windows keep documents whole and hidden from each other: off; restart, with "
        "positions from 0 in each; or continue, with those of the window.",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        takes = "a directory from jaxgpt prepare, a text file, or python-docs"
        require(bool(self.path), f"path is missing: --data.path takes {takes}.")


@explained
@dataclass(frozen=True)
class TrainConfig:
    """Length, batch and logging."""

    steps: int = setting(2000, "Steps of the whole run.")
    batch_size: int = setting(32, "Sequences in a step, over all devices.")
    accumulate: int = setting(
        1, "Parts of a step's batch that are computed one by one, to save memory."
    )
    seed: int = setting(0, "Seed of weights, dropout and the order of the data.")
    log_every: int = setting(10, "Steps from one line of metrics.jsonl to the next.")
    eval_every: int = setting(250, "Steps from one evaluation, and its checkpoint, to the next.")
    eval_batches: int = setting(
        50, "Batches of the validation split in an evaluation, always the same; 0 takes all."
    )
    sample_tokens: int = setting(100, "Tokens of sample text at each evaluation; 0 writes none.")
    save_every: int = setting(
        0, "Steps from one additional checkpoint to the next; 0 saves only after evaluations."
    )
    keep: int = setting(2, "Number of newest checkpoints to keep, in addition to the best.")
    skip_nonfinite: int = setting(
        0, "Consecutive steps that may be skipped because loss or gradient is non-finite."
    )
    lora_rank: int = setting(
        0, "Rank of adapters that are trained instead of the model of init; 0 trains the model."
    )
    lora_alpha: float = setting(
        16.0, "The product of two adapters is scaled by lora_alpha / lora_rank."
    )

    @property
    def lora_scale(self) -> float:
        """The number that products of adapters are multiplied by."""
        return self.lora_alpha / self.lora_rank

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch_size", "accumulate")
        require_positive(self, "log_every", "eval_every", "keep")
        require_not_negative(self, "eval_batches", "sample_tokens", "save_every", "skip_nonfinite")
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size {self.batch_size} does not divide into accumulate {self.accumulate} "
            "parts.",
        )
        require_not_negative(self, "lora_rank")
        require_positive(self, "lora_alpha")
        require(
            self.lora_rank > 0 or self.lora_alpha == TrainConfig.lora_alpha,
            f"lora_alpha is {self.lora_alpha}, but there are no adapters to scale: set "
            "--train.lora_rank, or leave it out.",
        )
        require(0 <= self.seed < 2**32, f"seed must lie in [0, 2**32), but is {self.seed}.")


@explained
@dataclass(frozen=True)
class ComputeConfig:
    """How the model is computed; these settings change the result by rounding alone."""

    attention: Literal["auto", "xla", "chunked", "tiled", "cudnn", "splash"] = setting(
        "auto", "Implementation of attention; auto takes the fastest on the device."
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Precision of the computation; weights and optimiser stay float32. A CPU computes in "
        "float32, which is faster there.",
    )
    remat: Literal["none", "dots", "full"] = setting(
        "none", "What the backward pass recomputes: nothing, all but matrix products, or all."
    )
    scan_unroll: int = setting(
        1, "Number of blocks compiled as one; more run a little faster, but compile longer."
    )
    loss_chunks: int = setting(
        1, "Parts of the context whose logits are computed one by one, to save memory."
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "scan_unroll", "loss_chunks")


@explained
@dataclass(frozen=True)
class RunConfig:
    """Output directory and starting point."""

    dir: str = setting("", "Directory that the run is written to.")
    init: str = setting(
        "",
        "Model directory or run to start from instead of random weights; --init DIR says the same.",
    )
    go_on: bool = setting(
        False, "Whether init's optimiser and step are resumed too, for a run that began in torch."
    )
    tensorboard: bool = setting(False, "Whether metrics are written to DIR/tensorboard as well.")
    wandb: str = setting("", "Project of Weights & Biases that gets the metrics as well.")
    profile: str = setting(
        "", "Steps FIRST:LAST whose trace is written to DIR/profile, as in 10:15, both included."
    )

    @property
    def profiled(self) -> tuple[int, int]:
        """The first and the last step of `profile`."""
        start, _, last = self.profile.partition(":")
        return int(start), int(last)

    def __post_init__(self) -> None:
        require(bool(self.dir), "dir is missing: --run.dir OUT says where to write the run.")
        require(
            bool(self.init) or not self.go_on,
            "go_on needs --init DIR: the model directory to resume from.",
        )
        if self.profile:
            require(
                bool(re.fullmatch(r"[0-9]+:[0-9]+", self.profile))
                and 1 <= self.profiled[0] <= self.profiled[1],
                "profile takes the first and the last step to trace, counted from 1, as in 10:15, "
                f"but got {self.profile!r}.",
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    encoder: ModelConfig | None = None  # if there is one, `model` is the decoder
    data: DataConfig = dataclasses.field(kw_only=False)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = TrainConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    run: RunConfig = dataclasses.field(kw_only=False)

    @property
    def architecture(self) -> ModelConfig | Seq2SeqConfig:
        """The model of the run."""
        return Seq2SeqConfig(self.encoder, self.model) if self.encoder else self.model

    def sections(self) -> dict[str, dict[str, Any]]:
        """The settings as plain values, without the section of an encoder if there is none."""
        return {name: part for name, part in dataclasses.asdict(self).items() if part is not None}

    def __post_init__(self) -> None:
        if self.optim.warmup_steps == -1:
            usual = min(100, self.train.steps // 5)
            object.__setattr__(self, "optim", dataclasses.replace(self.optim, warmup_steps=usual))
        require(
            not self.run.profile or self.run.profiled[1] <= self.train.steps,
            f"run.profile {self.run.profile} names steps after the last one: train.steps is "
            f"{self.train.steps}.",
        )
        if self.train.lora_rank:
            self._require_adapters_possible()
        require(
            not self.run.go_on or self.optim.name == "adamw",
            "run.go_on resumes the state of AdamW: set --optim.name adamw, or leave run.go_on out.",
        )
        require(
            self.optim.warmup_steps < self.train.steps,
            f"optim.warmup_steps {self.optim.warmup_steps} must be fewer than steps "
            f"{self.train.steps}: set --optim.warmup_steps lower, or leave it out.",
        )
        require(
            self.encoder is None or self.compute.loss_chunks == 1,
            "compute.loss_chunks is for texts: the batches of an encoder-decoder have several "
            "lengths.",
        )
        require(
            self.encoder is None or self.data.pack == "off",
            f"data.pack is {self.data.pack}, but that is for texts: each row of an encoder-decoder "
            "is one pair. Leave it out.",
        )
        require(
            self.encoder is not None or not self.model.cross_attention,
            "model.cross_attention needs an encoder to attend to: a section [encoder].",
        )
        require(
            self.model.context_length % self.compute.loss_chunks == 0,
            f"compute.loss_chunks {self.compute.loss_chunks} does not divide model.context_length "
            f"{self.model.context_length}; these do: {divisors(self.model.context_length)}.",
        )

    def _require_adapters_possible(self) -> None:
        """Require settings of a run that can train adapters."""
        require(
            bool(self.run.init),
            "train.lora_rank trains adapters of a model that exists: name it with --init DIR.",
        )
        require(
            self.optim.name == "adamw",
            "train.lora_rank trains adapters with AdamW, and leaves no matrices to optim.name "
            f"{self.optim.name}: set --optim.name adamw.",
        )
        require(
            not self.run.go_on,
            "train.lora_rank begins with a fresh optimiser, of adapters: leave run.go_on out.",
        )
