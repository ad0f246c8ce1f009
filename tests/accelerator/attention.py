"""Every form of attention that the device has, against plain attention in float64 on the CPU.

Outputs, and the gradients of queries, keys and values. A column is a rule of the scores, and has
the largest difference relative to the largest value, or to 1 where that is smaller. The rule plain
is tried at several lengths and head widths, the others at one, with three queries to a key.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.model import exactly as precise
from jaxgpt.model.attention_kernels import FORMS, KERNELS
from jaxgpt.model.spec import Scores
from tests.accelerator import RIGHT, WRONG, Row
from tests.accelerator.settings import LATE, Settings
from tests.model.test_attention_forms import (
    PLAIN,
    RULES,
    exactly,
    outputs_and_gradients,
    random_parts,
)

LIMITS = {"float32": 8e-5, "bfloat16": 0.04}  # twice those of the tests on a CPU
Sizes = tuple[int, int, int]  # length, head width, queries to a key


def measure(settings: Settings) -> Iterator[Row]:
    for dtype, limit in LIMITS.items():
        for form in FORMS:
            row: Row = {"form": form, "dtype": dtype}
            notes, differences = [], []
            for name, rule, sizes in cases(settings):
                note = LATE if settings.left < 0 else refusal(form, dtype, rule, sizes)
                if note:
                    row[name] = None
                    notes.append(note)
                    continue
                row[name] = max(difference(form, dtype, rule, each) for each in sizes)
                differences.append(row[name])
            if notes:
                row["note"] = "; ".join(dict.fromkeys(notes))
            if differences:
                row["verdict"] = RIGHT if max(differences) < limit else WRONG
            yield row


def cases(settings: Settings) -> list[tuple[str, Scores, list[Sizes]]]:
    """Each rule of the scores with the sizes at which it is tried."""
    lengths = settings.sizes.lengths
    rules = list(RULES.items())[: settings.sizes.kinds]
    plain = ("plain", PLAIN, [(length, head, 1) for length, head in lengths])
    return [plain, *((name, rule, [(*lengths[-1], 3)]) for name, rule in rules)]


def refusal(form: str, dtype: str, rule: Scores, sizes: list[Sizes]) -> str:
    """The reason why the device has no such form, or an empty string."""
    if form not in KERNELS:
        return ""
    length, head, _ = max(sizes, key=lambda each: each[1])
    model = ModelConfig(
        vocab_size=2,
        context_length=length,
        model_dim=2 * head,
        num_blocks=1,
        num_heads=2,
        positions="alibi" if rule.slopes else "none",
        attention_softcap=rule.softcap,
    )
    return KERNELS[form].refuses(jax.devices()[0], dtype, model, pack="off")


def difference(form: str, dtype: str, rule: Scores, sizes: Sizes) -> float:
    """The largest difference between `form` on the device and plain attention in float64."""
    length, head, group = sizes
    parts = random_parts(length, head, dtype, group=group)
    with precise(jnp.dtype("float32")):
        ours = outputs_and_gradients(FORMS[form], *parts, head**-0.5, rule)
    expected = exactly(*parts, head**-0.5, rule)
    return max(share(mine, other) for mine, other in zip(ours, expected, strict=True))


def share(ours: Any, exact: np.ndarray) -> float:
    """The largest difference as a share of the largest value, or of 1 if that is smaller."""
    largest = max(1.0, float(np.abs(exact).max()))
    return float(np.abs(np.asarray(ours).astype("float64") - exact).max()) / largest
