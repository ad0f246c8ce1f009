"""The options of generation, with their defaults and checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.errors import require, whole
from jaxgpt.fields import suggesting
from jaxgpt.generation.sampling import Sampling
from jaxgpt.model_config import ModelConfig

# The positions with which a model can see more than the context that it was trained with.
UNLIMITED = ("rotary", "alibi", "none")


@suggesting
@dataclass(frozen=True, eq=False)
class SampleOptions:
    """How tokens are chosen, how many, and where a row ends.

    Attributes:
        max_new_tokens: Number of new tokens.
        temperature: 0 always takes the most likely token.
        top_k: Number of most likely ids to choose from; 0 takes all.
        top_p: Choose from the fewest most likely ids whose probabilities reach this sum.
        min_p: Lowest probability, as a share of the highest one.
        seed: The same seed draws the same tokens.
        samples: Number of rows for each prompt.
        stop_ids: A row ends after one of these.
        on_full: Once the text fills the context: "slide" moves the window on, and "stop" ends with
            the last token for which the model sees the whole text.
        context: Number of tokens that the model sees at once; 0 is its context_length. It may be
            larger where positions are rotary, alibi or none.
        allowed: Mask (V,) of the ids that may be chosen; None allows all.
    """

    max_new_tokens: int = 500
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    samples: int = 1
    stop_ids: Iterable[int] = ()
    on_full: Literal["slide", "stop"] = "slide"
    context: int = 0
    allowed: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed", "samples", "context"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        object.__setattr__(self, "stop_ids", frozenset(map(int, self.stop_ids)))
        require(
            self.max_new_tokens > 0,
            f"The number of new tokens must be positive, but is {self.max_new_tokens}.",
        )
        require(self.samples > 0, f"samples must be positive, but is {self.samples}.")
        require(0 <= self.seed < 2**32, f"seed must lie in [0, 2**32), but is {self.seed}.")
        require(
            self.on_full in ("slide", "stop"),
            f"on_full is slide or stop, but got {self.on_full!r}.",
        )
        require(self.context >= 0, f"context must not be negative, but is {self.context}.")
        # Beyond these limits a division of float32 logits overflows or loses them.
        require(
            self.temperature == 0 or 1e-30 <= self.temperature <= 1e30,
            "temperature must be 0 (the most likely token) or lie in [1e-30, 1e30], "
            f"but is {self.temperature}.",
        )
        require(0 < self.top_p <= 1, f"top_p must lie in (0, 1], but is {self.top_p}.")
        require(0 <= self.min_p <= 1, f"min_p must lie in [0, 1], but is {self.min_p}.")

    def context_of(self, config: ModelConfig) -> int:
        """The context that a model of `config` can have and these options ask for."""
        require(
            self.context <= config.context_length or config.positions in UNLIMITED,
            f"context is {self.context}, but the model's {config.positions} positions are a table "
            f"of {config.context_length}: ask for at most {config.context_length}. Only models "
            f"whose positions are {', '.join(UNLIMITED[:-1])} or {UNLIMITED[-1]} can use more.",
        )
        return self.context or config.context_length

    def sampling(self, vocab_size: int) -> Sampling:
        """The options of the choice as arrays, checked against the model's `vocab_size`.

        They are NumPy arrays, because reading a jax array waits until its device has computed it.
        """
        require(
            0 <= self.top_k <= vocab_size,
            f"top_k must lie between 1 and the {vocab_size} ids there are, but is {self.top_k}.",
        )
        mask = np.ones(vocab_size, bool)
        if self.allowed is not None:
            mask = np.asarray(self.allowed, bool)
        require(
            mask.shape == (vocab_size,),
            f"allowed must have shape ({vocab_size},), but has {mask.shape}.",
        )
        require(bool(mask.any()), "allowed leaves no id to choose.")
        return Sampling(
            temperature=np.asarray(self.temperature, np.float32),
            top_k=np.asarray(self.top_k or vocab_size, np.int32),
            top_p=np.asarray(self.top_p, np.float32),
            min_p=np.asarray(self.min_p, np.float32),
            allowed_v=mask,
        )


class Choices(TypedDict, total=False):
    """Fields of SampleOptions as keywords of a function: how tokens are chosen."""

    top_k: int
    top_p: float
    min_p: float
    seed: int
    samples: int
    context: int
    allowed: ArrayLike | None


class Keywords(Choices, total=False):
    """All fields of SampleOptions as keywords, except the two that functions name themselves."""

    stop_ids: Iterable[int]
    on_full: Literal["slide", "stop"]
