"""Scenes with odd settings, options and prompts, and encoder-decoders of odd sizes."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.torture.scenes import call, refusal_of, require

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
# Sizes and counts that would only be slow, or fill the memory.
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
    """A number among the settings is an odd one: training ends with finite numbers, or refuses it."""
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


PROMPTS: tuple[Any, ...] = (
    [], [[]], [[], [1]], [0], [6], [7], [-1], [2**31], [2**63], [2**64], [0.0], [1.5], [math.nan], ["1"], "1", b"1",
    None,
    [None], [True], [[0, 1], [2]], [[0], 1], [[[0]]], np.zeros((2, 3), np.uint64), np.zeros((0, 3), int),
    np.zeros((2, 0), int), np.array(3), np.array([1, 2], np.int8), np.array([250], np.uint8), [0] * 40, {}, {0: 1}, {1},
    range(3), iter([1, 2]), 5, np.array([2**63], np.uint64),
)  # fmt: skip
OPTIONS: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (0, -1, 1, 3, 2.5, None, math.nan, 2**63, "3", True),
    "temperature": (*FLOATS, None, "1", 2),
    "top_k": (0, -1, 1, 7, 8, 2**40, 1.0, math.nan, None),
    "top_p": (*FLOATS, None),
    "min_p": (*FLOATS, None),
    "seed": (0, -1, 2**32, 2**64, 1.5, None),
    "samples": (0, -1, 1, 2, 1.0),
    "stop_ids": ((), (0,), (7,), (-1,), (2**70,), 3, None, ("a",), (math.nan,)),
    "context": (0, -1, 1, 5, 6, 2.0),
    "on_full": ("slide", "stop", "x", None),
    "allowed": (None, [], [True] * 7, [False] * 7, [1] * 6, "x", [math.nan] * 7),
}
SLOW = 1000  # new tokens


def prompts(random: Random, path: Path) -> str:
    """Odd prompts and options: ids that the model has, or a UserError that is one line."""
    import jaxgpt
    from tests.helpers import random_model

    model = random_model(
        "float32", vocab_size=7, context_length=5, model_dim=6, num_heads=2, num_blocks=1,
        positions=random.choice(("learned", "rotary", "alibi")), head_dim=4,
    )  # fmt: skip
    prompt = random.choice(PROMPTS)
    names = random.sample(list(OPTIONS), random.choice((0, 1, 1, 2)))
    options = {name: random.choice(OPTIONS[name]) for name in names}
    if not isinstance(count := options.setdefault("max_new_tokens", 3), int) or count < SLOW:
        uses: tuple[Callable[[], Any], ...] = (
            lambda: jaxgpt.generate(model, prompt, **options),
            lambda: [np.exp(jaxgpt.score(model, prompt))],
            lambda: [jaxgpt.look(model, prompt).logits],
            lambda: [model(prompt)],
        )
    else:
        uses = (lambda: itertools.islice(jaxgpt.generate(model, prompt, **options), 3),)
    return _answer(random.choice(uses), f"{prompt!r} with {options}")


def _answer(use: Callable[[], Any], what: str) -> str:
    """The refusal of `use`, or "" where all of its numbers are finite."""
    from jaxgpt.errors import UserError

    try:
        arrays = [np.asarray(each) for each in use()]
    except UserError as error:
        require(
            str(error).isprintable(), f"{what}: a refusal of several lines: {str(error)[:300]!r}"
        )
        return str(error)
    except Exception as error:
        raise type(error)(f"{what}: {error}").with_traceback(error.__traceback__) from None
    require(
        all(np.isfinite(array).all() for array in arrays), f"{what}: numbers that are not finite"
    )
    return ""


def pairs(random: Random, path: Path) -> str:
    """An encoder-decoder of sizes such as 1: greedy text is its logits', from memory and from disk."""
    import jaxgpt
    from jaxgpt.config import ModelConfig
    from jaxgpt.errors import UserError
    from jaxgpt.model import exactly
    from jaxgpt.seq2seq_config import Seq2SeqConfig
    from tests.helpers import CONFIGS, _random

    width, heads = random.choice((1, 2, 4, 6, 7)), random.choice((1, 1, 2))
    common = {
        **CONFIGS[random.choice(list(CONFIGS))],
        "model_dim": width,
        "num_heads": heads,
        "dropout": 0.0,
    }
    common |= {
        "head_dim": random.choice((1, 2, 4)),
        "num_kv_heads": random.choice((0, 1)),
        "rotary_theta": 100.0,
    }
    sides = [
        {
            **common, "vocab_size": random.choice((1, 2, 5)), "context_length": random.choice((1, 2, 3, 6)),
            "num_blocks": random.choice((1, 2)), "window": None,
        }
        for _ in range(2)
    ]  # fmt: skip
    try:
        encoder = ModelConfig(**sides[0])
        config = Seq2SeqConfig(encoder, ModelConfig(**{**sides[1], "cross_attention": True}))
        model = _random(config, "float64")
    except UserError as error:
        return str(error)
    generator = np.random.default_rng(random.randrange(2**32))
    source = generator.integers(
        0, encoder.vocab_size, random.randint(1, encoder.context_length)
    ).tolist()
    decoder = config.decoder
    start, end = 0, decoder.vocab_size - 1
    jaxgpt.save(path / "model", model)
    for each in (model, jaxgpt.load(path / "model")):
        (ours,) = jaxgpt.translate(each, [source], start=start, end=end)
        text = [start]
        with exactly(np.dtype("float64")):
            while len(text) <= decoder.context_length:
                logits = np.asarray(model(np.array([source]), np.array([text])))[0, -1]
                new = ours[len(text) - 1] if len(text) <= len(ours) else end
                tie = 1e-9 * max(1.0, float(np.abs(logits).max()))
                require(np.isfinite(logits).all(), f"logits of {common} are not finite")
                require(
                    logits[new] >= logits.max() - tie,
                    f"greedy text has {new} at {len(text)}: {ours}",
                )
                if new == end:
                    break
                text.append(new)
    written = call(
        "jaxgpt",
        "sample",
        path / "model",
        "--source",
        " ".join(map(str, source)),
        f"--start={start}",
        f"--end={end}",
    )
    if refusal := refusal_of(written, (2,)):
        return refusal
    ended = call("jaxgpt-convert", "to-torch", path / "model", path / "w.safetensors")
    return refusal_of(ended, (2,))
