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

PLAIN = Scores()
RULES = {"groups": PLAIN, "window": Scores(window=200), "window of one": Scores(window=1)}
CAPS = {"softcap": Scores(softcap=30.0), "softcap and window": Scores(softcap=30.0, window=200)}


def compiled(
    form: str, topology: str, sizes: tuple[int, int, int], dtype: str, rule: Scores = PLAIN
) -> str:
    """The compiled text of outputs and gradients on one device; `sizes` are length, head and group."""
    mesh = Mesh(np.array(devices_of(topology)[:1]), ("x",))
    length, head, group = sizes

    def both(*parts: jax.Array) -> tuple[jax.Array, ...]:
        mixed, pull = jax.vjp(lambda *parts: FORMS[form](*parts, 0.125, rule), *parts)
        return mixed, *pull(mixed)

    part = jax.ShapeDtypeStruct((2, length, 3, head), dtype)
    queries = jax.ShapeDtypeStruct((2, length, 3, group, head), dtype)
    step = jax.jit(both, in_shardings=NamedSharding(mesh, PartitionSpec()))
    return step.lower(queries, part, part).compile().as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splash_compiles_for_every_length_and_head_size(dtype: str, needs: Needs) -> None:
    needs("libtpu")
    for length, head in CASES:
        text = compiled("splash", "v5e:1x1", (length, head, 1), dtype)
        for kernel in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
            assert kernel in text, (length, head)


def test_cudnn_compiles_for_every_length_and_head_size(needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    for length, head in CASES:
        text = compiled("cudnn", "h200:1", (length, head, 1), "bfloat16")
        for kernel in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"):
            assert f'"{kernel}"' in text, (length, head)


@pytest.mark.parametrize("rule", RULES | CAPS)
def test_splash_compiles_for_grouped_queries_windows_and_caps(rule: str, needs: Needs) -> None:
    needs("libtpu")
    for length, head in ((129, 42), (1025, 128)):
        text = compiled("splash", "v5e:1x1", (length, head, 3), "bfloat16", (RULES | CAPS)[rule])
        for kernel in ("splash_mqa_fwd", "splash_mqa_dq", "splash_mqa_dkv"):
            assert kernel in text, (length, head)


@pytest.mark.parametrize("rule", RULES)
def test_cudnn_compiles_for_grouped_queries_and_windows(rule: str, needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    for length, head in ((129, 42), (1025, 128)):
        text = compiled("cudnn", "h200:1", (length, head, 3), "bfloat16", RULES[rule])
        assert '"__cudnn$fmhaSoftmaxBackward"' in text, (length, head)
