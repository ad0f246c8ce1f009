"""Odd settings of a run."""

import dataclasses
import math
import typing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.torture.situations import call, refusal_of, require

TINY = {
    "model": {"context_length": 4, "model_dim": 4, "num_heads": 1, "num_blocks": 1},
    "train": {
        "steps": 2,
        "batch_size": 2,
        "eval_every": 1,
        "eval_batches": 1,
        "sample_tokens": 2,
        "save_every": 1,
    },
}
FLOATS = (
    math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1.0, 0.5, 1e-320, 1e-38, 1e308, 3e38, -1e-320, 1e18, 1e-7,
)  # fmt: skip
WHOLE = (0, -1, 1, 2, 3)
LARGE = (-(2**63), 2**31, 2**32, 2**63, 2**64)
# Settings whose large values would only be slow, or fill the memory.
SMALL_ONLY = (
    "steps",
    "model_dim",
    "num_blocks",
    "vocab_size",
    "context_length",
    "mlp_dim",
    "head_dim",
    "batch_size",
)


def settings_of_a_run(random: Random, path: Path) -> str:
    """One or two settings are odd numbers: training ends with finite numbers, or refuses them."""
    from jaxgpt.settings import sections_of_a_run

    (path / "text.txt").write_text("a woodchuck would " * 9)
    names = [
        (section, field.name, hint)
        for section, kind in sections_of_a_run().items()
        if section in ("model", "optim", "train", "compute")
        for field, hint in zip(
            dataclasses.fields(kind),
            map(typing.get_type_hints(kind).get, _names(kind)),
            strict=True,
        )
        if set(typing.get_args(hint) or (hint,)) & {int, float}
    ]
    chosen = {
        f"{section}.{name}": value for section, part in TINY.items() for name, value in part.items()
    }
    for section, name, hint in random.sample(names, random.choice((1, 1, 2))):
        kinds = set(typing.get_args(hint) or (hint,))
        numbers: tuple[Any, ...] = FLOATS if float in kinds else WHOLE
        if int in kinds and name not in SMALL_ONLY and not name.startswith("num_"):
            numbers += LARGE
        chosen[f"{section}.{name}"] = random.choice(numbers)
    run = path / "run"
    words = [f"--{name}={value}" for name, value in chosen.items()]
    ended = call(
        "jaxgpt",
        "train",
        "quickstart",
        f"--data.path={path / 'text.txt'}",
        f"--run.dir={run}",
        *words,
    )
    if (run / "checkpoints").exists():
        require_sound(run)
    return refusal_of(ended, (2,))


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def require_sound(run: Path) -> None:
    """Require finite weights and moments in all checkpoints of `run`, and finite losses."""
    from jaxgpt.pytree import flatten
    from jaxgpt.storage import run_directory
    from jaxgpt.storage.model_directory import ModelDirectory

    for line in run_directory.read_metrics(run):
        odd = [
            name
            for name, value in line.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        require(not odd, f"{odd} of step {line['step']} are not finite")
    for checkpoint in run_directory.checkpoints(run):
        opened = ModelDirectory(checkpoint)
        arrays = flatten(opened.params())
        if opened.about.get("optim", {}).get("name") == "adamw" and (found := opened.moments()):
            arrays |= {
                f"moments/{name}": leaf
                for name, leaf in flatten({"mu": found.mu, "nu": found.nu}).items()
            }
        odd = [
            name for name, array in arrays.items() if not np.isfinite(np.asarray(array, "f8")).all()
        ]
        require(not odd, f"{checkpoint.name} has NaN or infinity in {odd[:3]}")
