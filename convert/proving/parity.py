"""Compares a torch module with a jaxgpt model, stage by stage.

Both run in float64 on the CPU, where the two frameworks differ by 1e-12, and different functions
by a million times that.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch

from jaxgpt.errors import UserError
from jaxgpt.generation.score import log_softmax
from jaxgpt.model import Seq2Seq, States, check_tokens

from ..foreign.float64 import exact_module, in_float64
from ..foreign.forward import LOG_PROBABILITIES, are_log_probabilities, logits_of
from ..rows.dialect import Dialect
from ..rows.pair import AnyDialect, Pair
from .difference import Difference, of_logits
from .exact_model import exact_model
from .example import Example, decoder_of

ENCODER_BLOCK = "encoder block"


@dataclass(frozen=True)
class Comparison:
    """The differences of two models on the same tokens."""

    stages: list[Difference]  # in the order of the computation; the last is the logits
    kl: float  # mean KL divergence, in nats
    top1: float  # fraction of the positions at which both predict the same token
    notes: list[str] = field(default_factory=list)  # sentences on what was compared

    @property
    def logits(self) -> Difference:
        return self.stages[-1]

    @property
    def first_difference(self) -> str | None:
        return next((stage.name for stage in self.stages if not stage.same), None)


def compare(
    module: torch.nn.Module,
    model: Any,
    example: Example | np.ndarray,
    dialect: AnyDialect | None = None,
) -> Comparison:
    """Compare logits, and the output of each block that `dialect` can name.

    `example` may be its tokens alone.
    """
    example = Example.of(example)
    decoder = model.decoder if isinstance(model, Seq2Seq) else model
    check_tokens(example.tokens, decoder.config)
    theirs = _torch_stages(exact_module(example.given_to(module)), example.tokens, dialect)
    ours = flax_stages(exact_model(model), example)
    if theirs["logits"].shape != ours["logits"].shape:
        raise UserError(_unlike_shapes(theirs["logits"], ours["logits"], decoder.config.model_dim))
    logits = of_logits(theirs["logits"], ours["logits"])
    stages = [
        Difference.of(name, theirs[name], value)
        for name, value in ours.items()
        if name != "logits" and getattr(theirs.get(name), "shape", None) == value.shape
    ]
    # If the logits agree, a stage that differs is another quantity in the torch class, such as a
    # sum before its norm.
    stages = [stage for stage in stages if stage.same or not logits.same]
    rows = [agreement(*pair) for pair in zip(theirs["logits"], ours["logits"], strict=True)]
    kl, top1 = (float(value) for value in np.mean(rows, axis=0))
    ends_so = are_log_probabilities(torch.from_numpy(theirs["logits"]))
    return Comparison([*stages, logits], kl, top1, [LOG_PROBABILITIES] if ends_so else [])


def _unlike_shapes(theirs: np.ndarray, ours: np.ndarray, width: int) -> str:
    """The error for logits of another shape, `theirs` of the class."""
    text = f"The logits are {theirs.shape} in torch and {ours.shape} in jaxgpt."
    if theirs.shape[-1] != width:
        return text
    return (
        f"{text} The class returns the stream before its head, which is {width} wide, and has no "
        "head as one of its modules that could be applied to it. Wrap the class in a module whose "
        "forward returns logits."
    )


def compare_prefix(module: torch.nn.Module, example: Example | np.ndarray) -> Difference | None:
    """Compare the logits of a short prefix alone with those of the same tokens in a longer text.

    They are equal in every causal model, hence in ours. A class whose scale or positions depend on
    the length of its input differs. None if the class takes inputs of full length only.
    """
    example = Example.of(example)
    tokens = example.tokens
    exact, length = exact_module(example.given_to(module)), max(1, tokens.shape[1] // 3)
    ids = torch.from_numpy(tokens[:1].astype(np.int64))
    with torch.no_grad(), in_float64():
        whole = logits_of(exact, ids)[:, :length].numpy()
        try:
            alone = logits_of(exact, ids[:, :length]).numpy()
        except UserError:
            return None
    return Difference.of(f"logits of {length} tokens alone", alone, whole)


def _torch_stages(
    module: torch.nn.Module, tokens: np.ndarray, dialect: AnyDialect | None
) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(value, torch.Tensor):
            stages[name] = value.detach().numpy().copy()

    if isinstance(dialect, Pair):
        for layer, block in enumerate(_blocks(module, dialect.encoder)):
            name = f"{ENCODER_BLOCK} {layer}"
            block.register_forward_hook(lambda _, __, y, name=name: keep(name, y))
        dialect = dialect.decoder
    for layer, block in enumerate(_blocks(module, dialect) if dialect else []):
        if layer == 0:
            block.register_forward_pre_hook(
                lambda _, args, named: keep("embedding", args or tuple(named.values())),
                with_kwargs=True,
            )
        block.register_forward_hook(lambda _, __, y, name=f"block {layer}": keep(name, y))
    with torch.no_grad(), in_float64():
        keep("logits", logits_of(module, torch.from_numpy(tokens.astype(np.int64))))
    return stages


def _blocks(module: torch.nn.Module, dialect: Dialect) -> list[torch.nn.Module]:
    """The blocks, by the names of their tensors; [] where the class has other names."""
    names = [view.name for _, view in dialect.views if "{layer}" in view.name]
    before = names[0].partition("{layer}")[0] if names else "."
    modules = {f".{name}": part for name, part in module.named_modules()}
    first = next((name for name in modules if name.endswith(f".{before}0")), "")
    blocks = (modules.get(f"{first[:-1]}{layer}") for layer in range(len(modules)))
    return [part for part in blocks if part is not None] if first else []


@jax.jit
def _states(model: Any, example: Example) -> tuple[States, jax.Array | None]:
    """The states of the decoder, and the outputs of the encoder's blocks if there is one."""
    decoder, memory, blocks = decoder_of(model, example)
    return decoder.states(example.tokens, memory), blocks


def flax_stages(model: Any, example: Example) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        states, encoder = _states(model, example.on_device())
    of_encoder = () if encoder is None else encoder
    blocks = {f"{ENCODER_BLOCK} {layer}": np.asarray(x) for layer, x in enumerate(of_encoder)}
    decoder = {f"block {layer}": np.asarray(x) for layer, x in enumerate(states.blocks)}
    return {
        **blocks,
        "embedding": np.asarray(states.embedding),
        **decoder,
        "logits": np.asarray(states.logits),
    }


def agreement(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """KL divergence and top-1 agreement of one row; one at a time, as logits are large."""
    p, q = log_softmax(theirs), log_softmax(ours)
    kl = np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    # Rounding can make a KL of zero negative.
    return np.maximum(0.0, kl), np.mean(p.argmax(-1) == q.argmax(-1))
