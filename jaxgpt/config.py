"""The settings of a run: sections of fields, each with its default and a sentence of help."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.errors import (
    divisors,
    require,
    require_below_one,
    require_not_negative,
    require_positive,
)
from jaxgpt.fields import explained, require_choices, setting
from jaxgpt.mesh_config import MeshConfig as MeshConfig
from jaxgpt.model_config import ModelConfig as ModelConfig
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
        "Whether windows hold whole documents that see none of each other: off; restart, with "
        "positions from 0 in each; or continue, with those of the window.",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        takes = "a directory from jaxgpt prepare, a text file, or python-docs"
        require(bool(self.path), f"path is missing: --data.path takes {takes}.")


@explained
@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = setting(1e-3, "Highest learning rate, reached when warm-up ends.")
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = setting(
        "cosine",
        "How the learning rate falls from there to final_learning_rate; inverse_sqrt, by the root "
        "of the step, goes on below it.",
    )
    warmup_steps: int = setting(
        -1, "Steps in which the learning rate rises; -1 is a fifth of train.steps, at most 100."
    )
    final_learning_rate: float = setting(
        -1.0,
        "Learning rate of the last step; -1 is 1e-4, or a tenth of a learning_rate below that.",
    )
    beta1: float = setting(0.9, "Decay of AdamW's mean of gradients.")
    beta2: float = setting(0.99, "Decay of AdamW's mean of squared gradients.")
    eps: float = setting(1e-8, "Number that AdamW adds to the root of the mean square.")
    weight_decay: float = setting(
        0.1, "Fraction of a weight, times the learning rate, by which each step shrinks it."
    )
    decay: Literal["matrices", "kernels", "all"] = setting(
        "matrices",
        "Weights that decay: matrices, kernels (without embeddings), or all, as in torch's AdamW.",
    )
    clip_norm: float = setting(
        1.0, "Norm of the gradient above which it is scaled down; 0 never scales."
    )
    label_smoothing: float = setting(
        0.0, "Share of each target's probability that training spreads over all tokens."
    )
    ema: float = setting(
        0.0, "Decay of an average of the weights, which is evaluated and saved instead; 0 has none."
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "learning_rate", "eps")
        if self.final_learning_rate == -1:
            usual = 1e-4 if self.learning_rate >= 1e-4 else self.learning_rate / 10
            object.__setattr__(self, "final_learning_rate", usual)
        require_not_negative(self, "final_learning_rate", "weight_decay", "clip_norm")
        require_below_one(self, "beta1", "beta2", "ema", "label_smoothing")
        require(
            self.warmup_steps >= -1,
            f"warmup_steps must be at least 0, or -1, but is {self.warmup_steps}.",
        )
        require(
            self.final_learning_rate <= self.learning_rate,
            f"final_learning_rate {self.final_learning_rate} is above learning_rate "
            f"{self.learning_rate}.",
        )


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

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch_size", "accumulate")
        require_positive(self, "log_every", "eval_every", "keep")
        require_not_negative(self, "eval_batches", "sample_tokens", "save_every", "skip_nonfinite")
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size {self.batch_size} does not divide into accumulate {self.accumulate} "
            "parts.",
        )
        require(0 <= self.seed < 2**32, f"seed must lie in [0, 2**32), but is {self.seed}.")


@explained
@dataclass(frozen=True)
class ComputeConfig:
    """Means of the computation, which change its result by rounding alone."""

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
    scan_unroll: int = setting(1, "Blocks compiled as one: a little faster, longer to compile.")
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

    def __post_init__(self) -> None:
        require(bool(self.dir), "dir is missing: --run.dir OUT says where to write the run.")
        require(
            bool(self.init) or not self.go_on,
            "go_on needs --init DIR: the model directory to resume from.",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    encoder: ModelConfig | None = None  # if there is one, `model` is the decoder
    data: DataConfig = dataclasses.field(kw_only=False)
    optim: OptimConfig = OptimConfig()
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
