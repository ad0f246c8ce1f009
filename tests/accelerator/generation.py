"""Generation by GPT-2 124M with random weights, sampling after a prompt of one token.

The share of bandwidth is what reading all weights once for each token takes of the data sheet's
bandwidth.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import jax

import jaxgpt
from jaxgpt.devices.chips import chip
from jaxgpt.model import cast, params_of
from tests.accelerator import Row
from tests.accelerator.settings import LATE, Settings, gpt2, seconds_each


def measure(settings: Settings) -> Iterator[Row]:
    config, new = gpt2(settings, settings.sizes.rows[0]).model, settings.sizes.new
    whole, data_sheet = jaxgpt.GPT(config), chip(jax.devices()[0].device_kind)
    choices = itertools.product(("bfloat16", "float32"), settings.sizes.texts)
    for (dtype, texts), in_time in settings.timely(choices):
        row: Row = {"dtype": dtype, "texts at once": texts, "tokens each": new}
        if not in_time:
            yield row | {"tokens/s": None, "note": LATE}
            continue
        model = cast(whole, dtype)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params_of(model)))
        seconds = seconds_each(partial(write, model, texts, new), 2)
        read = size * new / seconds
        row |= {
            "tokens/s": texts * new / seconds,
            "share of bandwidth": read / data_sheet.bandwidth if data_sheet else None,
        }
        yield row if data_sheet else row | {"note": "there is no data sheet of the device"}


def write(model: jaxgpt.GPT, texts: int, new: int) -> list:
    """`new` ids of each of `texts`."""
    return list(jaxgpt.generate(model, [[0]] * texts, new))
