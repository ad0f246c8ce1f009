"""Settings that a person left out: those of the run that resumes, or of the model that it starts from."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import ModelConfig, OptimConfig, TrainConfig
from jaxgpt.settings import typed
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.training.progress import Say

Sections = Mapping[str, Mapping[str, Any]]
TOKENIZER = "tokenizer.json"
FINE_TUNING: Sections = {
    "optim": {"learning_rate": 1e-4},
    "train": {"steps": 500, "eval_every": 100},
}
TOKENS_AT_ONCE = 4096  # in a part of a batch, so that the logits of a large vocabulary find room


def recorded(source: ModelDirectory) -> Sections:
    """Training settings that `source` records: those of its run, or else those of the file it came from."""
    if "optim" in source.about:
        return {section: source.about[section] for section in ("optim", "train")}
    return (source.about.get("source") or {}).get("settings", {})


def kept(stopped: ModelDirectory, given: Sections, config_file: bool) -> Sections:
    """Settings of the run that stopped at `stopped`, for what `given` leaves out: all of them where there is no
    config file, else those whose defaults depend on something else."""
    own = layered(recorded(stopped), {"data": stopped.about["data"]})
    derived = {"optim": ("warmup_steps",), "data": ("tokenizer",)}
    if config_file:
        own = {
            section: {name: own[section][name] for name in names}
            for section, names in derived.items()
        }
    return fitting(own, given)


def for_fine_tuning(source: ModelDirectory, given: Sections, say: Say) -> Sections:
    """Settings for a run from `source` without a config file, for what `given` leaves out; they are listed."""
    own = fitting(recorded(source), given)
    usual = _fine_tuning(source.config, layered(own, given))
    is_run = "optim" in source.about
    origin = source.path if is_run else f"the file {source.about.get('source', {}).get('file')}"
    shown = _unusual(own) if is_run else own
    for name, sections in ((f"From {origin}", shown), ("Usual for fine-tuning", usual)):
        words = [
            f"{section}.{field} {typed(value)}"
            for section, fields in sections.items()
            for field, value in fields.items()
            if field not in given.get(section, {})
        ]
        if words:
            say(f"{name}: {', '.join(words)}.")
    return layered(usual, own)


def tokenizer_of(source: ModelDirectory) -> Sections:
    """The tokenizer of `source`, to read a text with; nothing where it has none."""
    own = source.path / TOKENIZER
    return {"data": {"tokenizer": str(own)}} if own.exists() else {}


def layered(*layers: Sections) -> dict[str, dict[str, Any]]:
    """Sections in which later layers override earlier ones, field by field."""
    made: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, fields in layer.items():
            made[section] = {**made.get(section, {}), **fields}
    return made


def fitting(sections: Sections, given: Sections) -> dict[str, dict[str, Any]]:
    """`sections` without the fields that are impossible beside what is `given`."""
    made = layered(sections)
    optim, train = ({**made.get(name, {}), **given.get(name, {})} for name in ("optim", "train"))
    impossible = [
        (
            "optim",
            "warmup_steps",
            optim.get("warmup_steps", 0) >= train.get("steps", TrainConfig.steps),
        ),
        (
            "optim",
            "final_learning_rate",
            optim.get("final_learning_rate", 0)
            > optim.get("learning_rate", OptimConfig.learning_rate),
        ),
        (
            "train",
            "accumulate",
            train.get("batch_size", TrainConfig.batch_size) % train.get("accumulate", 1) != 0,
        ),
    ]
    for section, field, wrong in impossible:
        if wrong:
            made.get(section, {}).pop(field, None)
    return made


def _unusual(sections: Sections) -> Sections:
    """The fields of `sections` that differ from their defaults."""
    defaults = {"optim": vars(OptimConfig()), "train": vars(TrainConfig())}
    return {
        section: {
            field: value for field, value in fields.items() if value != defaults[section].get(field)
        }
        for section, fields in sections.items()
    }


def _fine_tuning(model: ModelConfig, known: Sections) -> Sections:
    """FINE_TUNING without what is `known`, and parts of a batch that are not too large for `model`."""
    batch = known.get("train", {}).get("batch_size", TrainConfig.batch_size)
    fits = max(1, TOKENS_AT_ONCE // model.context_length)
    parts = next(
        n for n in range(1, batch + 1) if batch % n == 0 and (batch // n <= fits or n == batch)
    )
    sections = layered(FINE_TUNING, {"train": {"accumulate": parts}} if parts > 1 else {})
    return {
        section: {
            field: value for field, value in fields.items() if field not in known.get(section, {})
        }
        for section, fields in sections.items()
    }
