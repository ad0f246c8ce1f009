"""Training steps of GPT-2 124M in bfloat16 on one device, for every form of attention and remat.

All of them with the smallest batch, then larger ones with the form that the device picks. Weights
and ids are random. MFU is the speed at 6 N + 12 L H k T operations per token, as a share of the
data sheet's peak; temporaries are the compiler's figure.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import Config
from jaxgpt.devices.chips import chip
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, shard_array
from jaxgpt.model import flops
from jaxgpt.model.attention_kernels import FORMS, KERNELS
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import State, init_state, jitted_step
from tests.accelerator import Row
from tests.accelerator.settings import LATE, Settings, gpt2, random_ids, seconds_each

REMATS = ("none", "dots", "full")
NOTHING = dict.fromkeys(("ms a step", "tokens/s", "MFU", "temporaries, GiB"))


def measure(settings: Settings) -> Iterator[Row]:
    base, device = gpt2(settings, settings.sizes.rows[0]), jax.devices()[0]
    refusals = {
        name: kernel.refuses(device, base.compute.dtype, base.model, base.data.pack)
        for name, kernel in KERNELS.items()
    }
    forms = [name for name in reversed(FORMS) if not refusals.get(name)]
    start = init_state(base)
    for config, in_time in settings.timely(configs(settings, forms)):
        row: Row = {
            "rows": config.train.batch_size,
            "attention": config.compute.attention,
            "remat": config.compute.remat,
            "unroll": config.compute.scan_unroll,
        }
        if not in_time:
            yield row | NOTHING | {"note": LATE}
            continue
        try:
            yield row | figures(config, start, settings.sizes.timed)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            yield row | NOTHING | {"note": "the device has too little memory"}
    for form, note in refusals.items():
        if note:
            yield {"rows": "any", "attention": form} | NOTHING | {"note": note}


def configs(settings: Settings, forms: list[str]) -> Iterator[Config]:
    """The configs to time, the most interesting first, as are the `forms` of attention."""
    first, *more = settings.sizes.rows
    for remat in REMATS:
        yield gpt2(settings, first, attention=forms[0], remat=remat)
    if settings.platform == "gpu":  # whose compiler copies each layer's part of stacked arrays
        blocks = gpt2(settings, first).model.num_blocks
        yield gpt2(settings, first, attention=forms[0], scan_unroll=blocks)
    for rows in more:
        yield gpt2(settings, rows, attention=forms[0])
    for form in forms[1:]:
        yield gpt2(settings, first, attention=form)
    yield gpt2(settings, more[-1], attention=forms[0], remat="full")
    for form in forms[1:]:
        for remat in REMATS[1:]:
            yield gpt2(settings, first, attention=form, remat=remat)


def figures(config: Config, start: State, timed: int) -> Row:
    """The figures of a step of `config`, begun at a copy of the state `start`."""
    program, state, ids = compiled(config, start)
    now = [state]

    def step() -> Any:
        now[0], metrics = program(now[0], ids)
        return metrics

    seconds = seconds_each(step, timed)
    speed = config.train.batch_size * config.model.context_length / seconds
    data_sheet = chip(jax.devices()[0].device_kind)
    row: Row = {
        "ms a step": 1000 * seconds,
        "tokens/s": speed,
        "MFU": flops.per_token(config.model) * speed / data_sheet.peak if data_sheet else None,
        "temporaries, GiB": program.memory_analysis().temp_size_in_bytes / 2**30,
    }
    return row if data_sheet else row | {"note": "there is no data sheet of the device"}


def compiled(config: Config, start: State) -> tuple[Any, State, jax.Array]:
    """The compiled step of `config` on the first device, a copy of `start`, and a batch."""
    mesh = make_mesh(
        config.mesh, config.train.batch_size, config.model.model_dim, jax.devices()[:1]
    )
    step, where = jitted_step(config, mesh, Compute.of(config, mesh))
    state = jax.device_put(jax.tree.map(jnp.copy, start), where)
    ids = shard_array(random_ids(config), over_rows(mesh, axis=1))
    return step.lower(state, ids).compile(), state, ids
