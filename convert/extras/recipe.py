"""How a checkpoint was trained, in the words of jaxgpt's settings, so that training can continue alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.config import Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.settings import build
from jaxgpt.training.inherit import layered

SECTION = "config"  # where nanoGPT's train.py keeps its settings in a checkpoint
OPTIM = {
    "learning_rate": "learning_rate",
    "min_lr": "final_learning_rate",
    "warmup_iters": "warmup_steps",
    "beta1": "beta1",
    "beta2": "beta2",
    "weight_decay": "weight_decay",
    "grad_clip": "clip_norm",
}
DECAYING = (
    "min_lr",
    "warmup_iters",
    "lr_decay_iters",
)  # nanoGPT reads these only where decay_lr is true


@dataclass(frozen=True)
class Recipe:
    """The training settings of a file, as sections of a config, and why some of its words were left out."""

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def read(extras: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Recipe:
    """The recipe in nanoGPT's words beside the weights, over `optimizer`, what the optimiser itself was set to."""
    words = extras.get(SECTION)
    words = dict(words) if isinstance(words, Mapping) else {}
    left: dict[str, str] = {}
    settings = layered({"optim": optimizer} if optimizer else {})
    if words.get("decay_lr") is False:
        words = {word: value for word, value in words.items() if word not in DECAYING}
        settings = layered(settings, {"optim": {"schedule": "constant", "warmup_steps": 0}})
    for word, sections in _meanings(words):
        try:
            settings = _checked(layered(settings, sections))
        except UserError as error:
            left[word] = str(error).rstrip(".")
    horizon, steps = words.get("lr_decay_iters"), settings.get("train", {}).get("steps")
    if horizon is not None and horizon != steps:
        left["lr_decay_iters"] = (
            f"it is {horizon!r}, and the schedule here always ends with train.steps, {steps}"
        )
    return Recipe(settings, left)


def _meanings(words: Mapping[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Each word, or those that only mean something together, with the fields that it sets."""
    found: list[tuple[str, dict[str, dict[str, Any]]]] = []
    if "max_iters" in words:
        found.append(("max_iters", {"train": {"steps": words["max_iters"]}}))
    found += [
        (word, {"optim": {name: words[word]}}) for word, name in OPTIM.items() if word in words
    ]
    rows, parts = words.get("batch_size"), words.get("gradient_accumulation_steps", 1)
    if type(rows) is int and type(parts) is int:  # nanoGPT counts the rows of one part
        found.append(("batch_size", {"train": {"batch_size": rows * parts, "accumulate": parts}}))
    return found


def _checked(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`settings`, which a run can have; UserError otherwise."""
    optim = build(OptimConfig, settings.get("optim", {}), SECTION)
    train = build(TrainConfig, settings.get("train", {}), SECTION)
    Config(DataConfig("-"), RunConfig("-"), optim=optim, train=train)
    return settings
