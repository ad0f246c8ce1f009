"""Every choice a run or a checkpoint can make, declared once. Knows no array, no file format, no device."""

import difflib
import errno
import importlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


class UserError(ValueError):
    """Something the user gave is wrong; the text is one paragraph that says what, and the way out."""


class Failure(RuntimeError):
    """Something outside went wrong, a full disk for instance; the text is one paragraph that says what to do."""


SYSTEM = {  # what the system could not do, whatever the user named; all else in an OSError is the user's to mend
    errno.ENOSPC: "the disk is full: make room, or name another place",
    errno.EDQUOT: "the quota is used up: make room, or name another place",
    errno.EFBIG: "the file would be larger than the system allows: raise that limit, or name another place",
    errno.EROFS: "the file system is read-only: name another place",
    errno.EIO: "the device failed to read or write: see whether it is damaged, or name another place",
}


def explained(error: OSError, what: object = "") -> "UserError | Failure":
    """The error in our words, with exit code 1 or 2 by its errno; `what` is the file where the error names none."""
    path = error.filename or what
    where = f"{path}: " if path else ""
    if error.errno in SYSTEM:
        return Failure(f"{where}{SYSTEM[error.errno]}.")
    text = f"{where}{error.strerror or error}."
    return Failure(text) if error.errno is None else UserError(text)


def need(module: str, what: object, way_out: str = "") -> Any:
    """Import a module that need not be installed; `what` needs it, `way_out` is what to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        without = f", or {way_out}" if way_out else ""
        raise UserError(
            f"{what} needs {package}, which cannot be imported ({error}): pip install --upgrade {package}{without}."
        ) from None


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise UserError(problem)


def require_positive(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value > 0, f"{name} must be positive, but is {value}.")


def whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, but is {value!r}.") from None


def instead_of(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def in_a_row(texts: Iterable[str], separator: str = "; ", most: int = 8) -> str:
    """The first `most` texts in one line, safe to print: hostile names hold line breaks and terminal commands."""
    plain = [text if text.isprintable() else ascii(text)[1:-1] for text in texts]
    return separator.join(
        plain[:most] + ([f"and {len(plain) - most} more"] if len(plain) > most else [])
    )


@dataclass(frozen=True)
class ModelConfig:
    """The function that a GPT computes: every choice in which real checkpoints differ has a field."""

    vocab_size: int = 0  # 0 in a training config: as many as the tokenizer has
    context_length: int = 128
    model_dim: int = 252
    num_blocks: int = 6
    num_heads: int = 6
    head_dim: int = 0  # 0: model_dim / num_heads
    mlp_dim: int = 0  # 0: 4 * model_dim
    norm: Literal["pre", "post", "residual"] = (
        "pre"  # "residual": pre, and what is added to is normalised too
    )
    final_norm: bool | Literal["unused"] = True  # "unused": it is in the file, and never applied
    activation: Literal["relu", "gelu", "gelu_tanh"] = "relu"
    attention_scale: Literal["head_dim", "model_dim", "none"] = "head_dim"
    attention_scale_by_layer: bool = False  # True: divided by (layer + 1) as well
    positions: Literal["learned", "sinusoidal"] = "learned"
    positions_stored: bool = (
        False  # a sinusoidal table that lies in the file is used as it is, and never trained
    )
    positions_offset: int = 0  # rows of the position table before that of position 0, as OPT has
    qkv_bias: bool = False
    attention_out: bool = True
    attention_out_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = True
    norm_bias: bool = True
    norm_eps: float = 1e-5
    tied: bool = False
    dropout: float = 0.2

    def __post_init__(self) -> None:
        require(self.vocab_size >= 0, f"vocab_size must not be negative, but is {self.vocab_size}.")
        require_positive(self, "context_length", "model_dim", "num_blocks", "num_heads", "norm_eps")
        if not self.head_dim:
            require(
                self.model_dim % self.num_heads == 0,
                f"model_dim {self.model_dim} does not divide into num_heads {self.num_heads}; head counts that "
                f"fit are {divisors(self.model_dim)}, or set head_dim.",
            )
            object.__setattr__(self, "head_dim", self.model_dim // self.num_heads)
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.model_dim)
        require_positive(self, "head_dim", "mlp_dim")
        require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), but is {self.dropout}.")
        require(
            self.positions == "sinusoidal" or not self.positions_stored,
            "positions_stored is for sinusoidal positions: those that are learned always lie in the file.",
        )
        require(
            self.positions_offset >= 0,
            f"positions_offset must not be negative, but is {self.positions_offset}.",
        )
        require(
            not self.positions_offset or bool(self.position_rows),
            f"positions_offset is {self.positions_offset}, but there is no table that it could be an offset in: set "
            "positions_stored, or learn the positions.",
        )
        heads = self.num_heads * self.head_dim
        require(
            self.attention_out or heads == self.model_dim,
            f"without attention_out the heads' joint width {self.num_heads} * {self.head_dim} = {heads} must be "
            f"model_dim {self.model_dim}.",
        )
        if not self.attention_out:  # a bias belongs to the projection
            object.__setattr__(self, "attention_out_bias", False)

    @property
    def position_rows(self) -> int:
        """Of the table among the parameters; 0 where it is computed."""
        held = self.positions == "learned" or self.positions_stored
        return self.context_length + self.positions_offset if held else 0


@dataclass(frozen=True)
class DataConfig:
    """What it learns from."""

    path: str = ""  # a prepared directory; or a text file or python-docs, which are prepared in the run's directory
    tokenizer: str = (
        "char"  # for a text that is prepared here: char, byte, bpe, or a tokenizer.json
    )

    def __post_init__(self) -> None:
        require(
            bool(self.path),
            "path is missing: a directory from jaxgpt prepare, a text file, or python-docs.",
        )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    final_learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: Literal["matrices", "kernels", "all"] = (
        "matrices"  # kernels: not embeddings; torch's AdamW decays all
    )
    clip_norm: float = 1.0  # 0: no clipping
    ema: float = 0.0  # of the weights; 0: none, otherwise the share that stays at each step

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "eps")
        for name in ("warmup_steps", "final_learning_rate", "weight_decay", "clip_norm"):
            require(
                getattr(self, name) >= 0,
                f"{name} must not be negative, but is {getattr(self, name)}.",
            )
        for name in ("beta1", "beta2", "ema"):
            require(
                0 <= getattr(self, name) < 1,
                f"{name} must lie in [0, 1), but is {getattr(self, name)}.",
            )
        require(
            self.final_learning_rate <= self.learning_rate,
            f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}.",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, how often to look."""

    steps: int = 2000
    batch_size: int = 32  # sequences in a step, all devices together
    accumulate: int = 1  # parts in which a step's batch is computed one after the other
    seed: int = 0
    log_every: int = 10
    eval_every: int = 250
    eval_batches: int = 50  # batches of the validation split, always the same ones; 0: all
    sample_tokens: int = 100  # of text that is written at each evaluation, to look at; 0: none
    save_every: int = (
        0  # a checkpoint is saved at each evaluation, and, unless 0, each so many steps
    )
    keep: int = 2  # newest checkpoints that are kept, besides the best
    skip_nonfinite: int = (
        0  # steps in a row that may be passed over because their loss or gradient is no number
    )

    def __post_init__(self) -> None:
        require_positive(
            self, "steps", "batch_size", "accumulate", "log_every", "eval_every", "keep"
        )
        for name in ("eval_batches", "sample_tokens", "save_every", "skip_nonfinite"):
            require(
                getattr(self, name) >= 0,
                f"{name} must not be negative, but is {getattr(self, name)}.",
            )
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size {self.batch_size} does not divide into accumulate {self.accumulate} parts.",
        )
        require(0 <= self.seed < 2**32, f"seed must lie in [0, 2**32), but is {self.seed}.")


@dataclass(frozen=True)
class ComputeConfig:
    """How the model is computed: nothing here changes what it computes, rounding aside."""

    attention: Literal["auto", "xla", "chunked", "cudnn", "splash"] = (
        "auto"  # the form of attention
    )
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of the products; weights and optimiser stay float32
    )
    remat: Literal["none", "dots", "full"] = (
        "none"  # the backward pass recomputes: nothing, all but products, all
    )
    scan_unroll: int = 1  # blocks compiled as one: a little faster, longer to compile
    loss_chunks: int = (
        1  # parts of the context whose logits are computed one after the other, to save memory
    )

    def __post_init__(self) -> None:
        require_positive(self, "scan_unroll", "loss_chunks")


@dataclass(frozen=True)
class MeshConfig:
    """How devices share the work; on a CPU every core is a device. One of the three may be -1: what is left."""

    data: int = (
        -1
    )  # groups of devices that each have weights of their own and share a batch; 1 if another is -1
    fsdp: int = 1  # devices that share a batch, and the weights and the optimiser's state too
    tensor: int = 1  # devices that share each matrix product, by heads and by the width of the MLP
    coordinator: str = (
        ""  # of several processes: HOST:PORT of the first; auto under SLURM, Open MPI, on a TPU pod
    )
    processes: int = 0  # how many there are, where nothing tells
    process: int = -1  # which of them this one is, from 0, where nothing tells
    timeout: int = 120  # seconds to wait for the others

    def __post_init__(self) -> None:
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for name, value in sizes.items():
            require(
                value == -1 or value > 0,
                f"{name} must be positive, or -1 for what is left, but is {value}.",
            )
        require(
            -1 not in (self.fsdp, self.tensor) or self.fsdp != self.tensor,
            "only one of fsdp and tensor can be -1.",
        )
        if -1 in (self.fsdp, self.tensor) and self.data == -1:
            object.__setattr__(self, "data", 1)
        require_positive(self, "timeout")
        alone = self.process < 0 and not self.processes
        require(
            bool(self.coordinator) or alone,
            "processes and process need coordinator: where they find each other.",
        )
        require(
            self.coordinator in ("", "auto")
            or (0 <= self.process < self.processes and ":" in self.coordinator),
            f"coordinator {self.coordinator} needs a port, as in HOST:PORT, and process from 0 to one less than "
            f"processes; processes and process are {self.processes} and {self.process}.",
        )


@dataclass(frozen=True)
class RunConfig:
    """Where it lies."""

    dir: str = ""
    init: str = ""  # a model directory to start from instead of random weights
    go_on: bool = (
        False  # from init's optimiser and step too, so that a run begun elsewhere goes on here
    )
    tensorboard: bool = False  # metrics to DIR/tensorboard as well
    wandb: str = ""  # a project of Weights & Biases that gets the metrics as well

    def __post_init__(self) -> None:
        require(bool(self.dir), "dir is missing: the directory that the run shall be written to.")
        require(
            bool(self.init) or not self.go_on,
            "go_on needs init: the model directory to go on from.",
        )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: DataConfig
    run: RunConfig
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        require(
            self.optim.warmup_steps < self.train.steps,
            f"warmup_steps {self.optim.warmup_steps} must be fewer than steps {self.train.steps}.",
        )
        require(
            self.model.context_length % self.compute.loss_chunks == 0,
            f"compute.loss_chunks {self.compute.loss_chunks} does not divide model.context_length "
            f"{self.model.context_length}; these do: {divisors(self.model.context_length)}.",
        )
