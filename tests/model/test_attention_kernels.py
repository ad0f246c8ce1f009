"""The forms of attention that a CPU cannot run, compiled for devices that need not be there."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.model.attention_kernels import FORMS
from jaxgpt.model.spec import Scores
from jaxgpt.planning.topologies import devices_of
from tests.helpers import Needs
from tests.model.test_attention_forms import CASES


def compiled(form: str, topology: str, length: int, head: int, dtype: str) -> str:
    """The text of its outputs and gradients, on one device."""
    mesh = Mesh(np.array(devices_of(topology)[:1]), ("x",))

    def both(*parts: jax.Array) -> tuple[jax.Array, ...]:
        mixed, pull = jax.vjp(lambda *parts: FORMS[form](*parts, 0.125, Scores()), *parts)
        return mixed, *pull(mixed)

    part = jax.ShapeDtypeStruct((2, length, 3, head), dtype)
    queries = jax.ShapeDtypeStruct((2, length, 3, 1, head), dtype)
    step = jax.jit(both, in_shardings=NamedSharding(mesh, PartitionSpec()))
    return step.lower(queries, part, part).compile().as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splash_compiles_for_every_length_and_head_size(dtype: str, needs: Needs) -> None:
    needs("libtpu")
    for length, head in CASES:
        text = compiled("splash", "v5e:1x1", length, head, dtype)
        for kernel in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
            assert kernel in text, (length, head)


def test_cudnn_compiles_for_every_length_and_head_size(needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    for length, head in CASES:
        text = compiled("cudnn", "h200:1", length, head, "bfloat16")
        for kernel in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"):
            assert f'"{kernel}"' in text, (length, head)
