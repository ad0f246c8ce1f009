"""Counts what the compiled training step of GPT-2 124M does beyond the necessary work.

docs/scale.md says what each finding is.
"""

import math
from collections.abc import Iterator

import jax

from jaxgpt.devices.sharding import shardings
from jaxgpt.planning.plan import Plan, plan_by_compiling
from jaxgpt.pytree import flatten
from jaxgpt.training.step import init_state
from tests.accelerator import Row
from tests.accelerator.program import LARGE, Finding, Program
from tests.accelerator.settings import Settings, gpt2


def measure(settings: Settings) -> Iterator[Row]:
    plan = plan_by_compiling(gpt2(settings, settings.sizes.rows[0]), jax.devices()[:1])
    yield {"finding": "temporaries", "times": 1, "MB": plan.memory.temporaries / 1e6}
    for name, finding in findings(plan).items():
        yield {"finding": name, "times": finding.times, "MB": finding.size / 1e6}


def findings(plan: Plan) -> dict[str, Finding]:
    """The findings in the compiled step of `plan`, by name; they are those of one device."""
    program, model = Program(plan.text), plan.config.model
    params = jax.eval_shape(lambda: init_state(plan.config)).params
    leaves, where = flatten(params), flatten(shardings(params, plan.mesh))
    stored = {name: where[name].shard_shape(leaf.shape) for name, leaf in leaves.items()}
    blocks = {name: leaf for name, leaf in leaves.items() if name.startswith("blocks/")}
    kernels = [name for name in blocks if name.endswith("kernel")]
    block = sum(leaf.size for leaf in blocks.values()) // model.num_blocks
    large = [math.prod(shape) for shape in stored.values() if 4 * math.prod(shape) >= LARGE]
    tokens = plan.config.train.batch_size // plan.mesh.size * model.context_length
    passes = program.written(large)
    return {
        "float32 products": program.float32_products(),
        "copies into another layout": program.relayouts(),
        "other copies": program.other_copies(),
        "weights converted in the loop over layers": program.carried(
            model.num_blocks,
            {shape for name in kernels for shape in (stored[name], leaves[name].shape)},
        ),
        "passes over parameters beyond one": Finding(
            passes.times - len(large), passes.size - 3 * 4 * sum(large)
        ),
        "all-gathers of more than a block": program.gathers(2 * block),
        "scatters": program.scatters(),
        "float32 logits": program.written([tokens * model.vocab_size]),
    }
