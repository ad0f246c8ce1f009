"""The settings of the optimiser, and of the learning rate."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.errors import require, require_below_one, require_not_negative, require_positive
from jaxgpt.fields import explained, require_choices, setting


@explained
@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "muon"] = setting(
        "adamw",
        "Optimiser: AdamW for all parameters, or Muon for the kernels of the blocks and AdamW for "
        "the rest.",
    )
    learning_rate: float = setting(1e-3, "Highest learning rate, reached when warm-up ends.")
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = setting(
        "cosine",
        "How the learning rate goes on: cosine and linear fall to final_learning_rate, constant "
        "stays, and inverse_sqrt falls with the inverse square root of the step.",
    )
    warmup_steps: int = setting(
        -1, "Steps in which the learning rate rises; -1 is a fifth of train.steps, at most 100."
    )
    final_learning_rate: float = setting(
        -1.0,
        "Learning rate of the last step; -1 is 1e-4, or a tenth of a learning_rate below 1e-4.",
    )
    beta1: float = setting(0.9, "Decay of AdamW's mean of gradients.")
    beta2: float = setting(0.99, "Decay of AdamW's mean of squared gradients.")
    eps: float = setting(1e-8, "Number that AdamW adds to the root of the mean square.")
    muon_learning_rate: float = setting(
        0.02,
        "Highest learning rate of the kernels that Muon trains; it rises and falls as "
        "learning_rate does.",
    )
    muon_momentum: float = setting(0.95, "Decay of Muon's mean of gradients.")
    weight_decay: float = setting(
        0.1, "Fraction of a weight, times the learning rate, by which each step shrinks it."
    )
    decay: Literal["matrices", "kernels", "all"] = setting(
        "matrices",
        "Weights that decay: matrices, kernels (without embeddings), or all, as in torch's AdamW.",
    )
    clip_norm: float = setting(
        1.0, "Norm to which larger gradients are scaled down; 0 does not clip."
    )
    label_smoothing: float = setting(
        0.0, "Share of each target's probability that training spreads over all tokens."
    )
    ema: float = setting(
        0.0,
        "Decay of a moving average of the weights, evaluated and saved in their place; 0 is none.",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "learning_rate", "eps", "muon_learning_rate")
        if self.final_learning_rate == -1:
            usual = 1e-4 if self.learning_rate >= 1e-4 else self.learning_rate / 10
            object.__setattr__(self, "final_learning_rate", usual)
        require_not_negative(self, "final_learning_rate", "weight_decay", "clip_norm")
        require_below_one(self, "beta1", "beta2", "muon_momentum", "ema", "label_smoothing")
        for field in ("muon_learning_rate", "muon_momentum"):
            value = getattr(self, field)
            require(
                self.name == "muon" or value == getattr(OptimConfig, field),
                f"{field} is {value}, but name is {self.name}, which has no use for it: set "
                "--optim.name muon, or leave it out.",
            )
        require(
            self.warmup_steps >= -1,
            f"warmup_steps must be at least 0, or -1, but is {self.warmup_steps}.",
        )
        require(
            self.final_learning_rate <= self.learning_rate,
            f"final_learning_rate {self.final_learning_rate} is above learning_rate "
            f"{self.learning_rate}.",
        )
