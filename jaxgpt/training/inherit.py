"""Defaults of a run that come from the run that it resumes, or from the model it starts from."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import ModelConfig, OptimConfig, TrainConfig
from jaxgpt.file_names import TOKENIZER
from jaxgpt.settings import Sections, typed
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.training.progress import Say

FINE_TUNING: Sections = {
    "optim": {"learning_rate": 1e-4},
    "train": {"steps": 500, "eval_every": 100},
}
# Settings whose defaults depend on other settings. A resumed run keeps their values, or changing
# another setting would change these too.
DERIVED = {"optim": ("warmup_steps",), "data": ("tokenizer",)}
TOKENS_AT_ONCE = 4096  # in a part of a batch, so that the logits of a large vocabulary fit


def recorded_settings(source: ModelDirectory) -> Sections:
    """The training settings in `source`: those of its run, or of the file it was converted from."""
    if "optim" in source.about:
        return {section: source.about[section] for section in ("optim", "train")}
    return (source.about.get("source") or {}).get("settings", {})


def for_resuming(stopped: ModelDirectory, settings: Sections, config_file: bool) -> Sections:
    """The values that the stopped run had for the settings that `settings` leaves out.

    If there is a config file, it decides all settings except those whose defaults depend on
    others; the result then holds only these.
    """
    own = merge_sections(recorded_settings(stopped), {"data": stopped.about["data"]})
    if config_file:
        own = {
            section: {name: own[section][name] for name in names}
            for section, names in DERIVED.items()
        }
    return possible(own, settings)


def for_fine_tuning(source: ModelDirectory, settings: Sections, say: Say) -> Sections:
    """Settings for fine-tuning `source`, in place of those that `settings` leaves out; `say` lists
    them."""
    own = possible(recorded_settings(source), settings)
    usual = _usual(source.config, merge_sections(own, settings))
    is_run = "optim" in source.about
    file = source.about.get("source", {}).get("file")
    origin = str(source.path) if is_run else f"the file {file}"
    _say_fields(f"From {origin}", _unlike_defaults(own) if is_run else own, settings, say)
    _say_fields("Usual for fine-tuning", usual, settings, say)
    return merge_sections(usual, own)


def _say_fields(name: str, sections: Sections, settings: Sections, say: Say) -> None:
    """Say `name` and the fields of `sections` that `settings` leaves out, if there are any."""
    words = [
        f"{section}.{field} {typed(value)}"
        for section, fields in sections.items()
        for field, value in fields.items()
        if field not in settings.get(section, {})
    ]
    if words:
        say(f"{name}: {', '.join(words)}.")


def tokenizer_of(source: ModelDirectory) -> Sections:
    """The setting that reads a text with the tokenizer of `source`; empty if it has none."""
    own = source.path / TOKENIZER
    return {"data": {"tokenizer": str(own)}} if own.exists() else {}


def merge_sections(*layers: Sections) -> dict[str, dict[str, Any]]:
    """Sections in which later layers override earlier ones, field by field."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, fields in layer.items():
            merged[section] = {**merged.get(section, {}), **fields}
    return merged


def possible(sections: Sections, settings: Sections) -> dict[str, dict[str, Any]]:
    """`sections` without the fields that are impossible together with `settings`."""
    both = merge_sections(sections, settings)
    optim, train = both.get("optim", {}), both.get("train", {})
    steps = train.get("steps", TrainConfig.steps)
    rate = optim.get("learning_rate", OptimConfig.learning_rate)
    muon = optim.get("name") == "muon" and not train.get("lora_rank")
    batch, parts = train.get("batch_size", TrainConfig.batch_size), train.get("accumulate", 1)
    wrong = {
        ("optim", "warmup_steps"): optim.get("warmup_steps", 0) >= steps,
        ("optim", "final_learning_rate"): optim.get("final_learning_rate", 0) > rate,
        ("train", "accumulate"): parts > 0 and batch % parts != 0,
        ("optim", "muon_learning_rate"): not muon,
        ("optim", "muon_momentum"): not muon,
        ("optim", "name"): bool(train.get("lora_rank")),
        ("train", "lora_alpha"): not train.get("lora_rank"),
    }
    left = merge_sections(sections)
    for (section, field), impossible in wrong.items():
        if impossible:
            left.get(section, {}).pop(field, None)
    return left


def _unlike_defaults(sections: Sections) -> Sections:
    """The fields of `sections` that differ from their defaults."""
    defaults = {"optim": vars(OptimConfig()), "train": vars(TrainConfig())}
    return {
        section: {
            field: value for field, value in fields.items() if value != defaults[section].get(field)
        }
        for section, fields in sections.items()
    }


def _usual(model: ModelConfig, stated: Mapping[str, Mapping[str, Any]]) -> Sections:
    """FINE_TUNING without the fields in `stated`, with a number of batch parts that suits
    `model`."""
    batch = max(1, stated.get("train", {}).get("batch_size", TrainConfig.batch_size))
    rows = max(1, TOKENS_AT_ONCE // model.context_length)
    parts = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= rows)
    sections = merge_sections(FINE_TUNING)
    if parts > 1:
        sections["train"]["accumulate"] = parts
    return {
        section: {
            field: value for field, value in fields.items() if field not in stated.get(section, {})
        }
        for section, fields in sections.items()
    }
