"""How a checkpoint was trained, as settings of jaxgpt, so that training can resume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.config import Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.settings import build
from jaxgpt.training.inherit import merge_sections

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
DECAYING = ("min_lr", "warmup_iters", "lr_decay_iters")  # read only if decay_lr is true

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """The training settings of a file as sections of a config, and why others were left out."""

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def read(extras: Mapping[Any, Any], optimizer: Mapping[str, Any]) -> Recipe:
    """The recipe in `extras`, under nanoGPT's names; it overrides `optimizer`, the optimiser's
    settings."""
    words = extras.get(SECTION)
    words = dict(words) if isinstance(words, Mapping) else {}
    left: dict[str, str] = {}
    settings = merge_sections({"optim": optimizer} if optimizer else {})
    if words.get("decay_lr") is False:
        words = {word: value for word, value in words.items() if word not in DECAYING}
        settings = merge_sections(settings, {"optim": {"schedule": "constant", "warmup_steps": 0}})
    for word, sections in _meanings(words):
        if not isinstance(words[word], (bool, int, float, str)):
            left[word] = f"it is a {type(words[word]).__name__}"
            continue
        try:
            settings = _checked(merge_sections(settings, sections))
        except UserError as error:
            left[word] = str(error).rstrip(".")
    horizon, steps = words.get("lr_decay_iters"), settings.get("train", {}).get("steps")
    if isinstance(horizon, (int, float)) and horizon != steps:
        left["lr_decay_iters"] = f"it is {horizon!r}; schedules here end with train.steps, {steps}"
    return Recipe(settings, left)


def _meanings(words: Mapping[str, Any]) -> list[tuple[str, Sections]]:
    """Each word, or group of words that belong together, with the fields that it sets."""
    meanings: list[tuple[str, Sections]] = []
    if "max_iters" in words:
        meanings.append(("max_iters", {"train": {"steps": words["max_iters"]}}))
    for word, name in OPTIM.items():
        if word in words:
            meanings.append((word, {"optim": {name: words[word]}}))
    rows, parts = words.get("batch_size"), words.get("gradient_accumulation_steps", 1)
    if type(rows) is int and type(parts) is int:  # nanoGPT's batch_size is that of one part
        batch = {"batch_size": rows * parts, "accumulate": parts}
        meanings.append(("batch_size", {"train": batch}))
    return meanings


def _checked(settings: Sections) -> Sections:
    """`settings`; raises UserError if no run can have them."""
    optim = build(OptimConfig, settings.get("optim", {}), SECTION)
    train = build(TrainConfig, settings.get("train", {}), SECTION)
    Config(DataConfig("-"), RunConfig("-"), optim=optim, train=train)
    return settings
