"""Odd prompts and options of generation."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.torture.odd_settings import FLOATS
from tests.torture.situations import require

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
    """An odd prompt with odd options gives finite numbers, or a UserError of one line."""
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
    """The refusal of `use`, or "" if it gives finite numbers; errors name `what`."""
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
