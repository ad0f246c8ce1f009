"""What the step of GPT-2 124M, compiled for devices that need not be present, does beyond its work.

docs/scale.md explains each finding. What is listed there as none must not come back, and the rest
must not grow by more than versions of a compiler differ.
"""

import functools

import pytest

from jaxgpt.planning.plan import Plan, plan
from jaxgpt.settings import read_settings
from tests.accelerator.compiled import findings
from tests.accelerator.program import Finding, Program
from tests.helpers import ROOT, Needs

COMPILERS = {"h": "jax_plugins.xla_cuda12", "v": "libtpu"}
NONE = (
    "float32 products",
    "weights converted in the loop over layers",
    "float32 logits",
)
# Megabytes in a step, rounded up.
MOST = {
    "h100:1": {"copies into another layout": 0, "other copies": 3700, "scatters": 80},
    "h200:8": {"copies into another layout": 80, "other copies": 3700, "scatters": 80},
    # 755 MB of other copies by the compiler of jax 0.10.2, and 840 by that of jax 0.12
    "v5e:1x1": {"copies into another layout": 300, "other copies": 880, "scatters": 80},
    "v6e:1x1": {"copies into another layout": 2100, "other copies": 2600, "scatters": 80},
    "v5e:2x4": {"copies into another layout": 450, "other copies": 950, "scatters": 80},
}
SEVERAL = ("h200:8", "v5e:2x4")
EMBEDDING = 50304 * 768 * 2  # bytes in bfloat16


def step(topology: str, **compute: object) -> Plan:
    """The plan of a step with 8 x 1024 tokens on each device of `topology`."""
    several = topology in SEVERAL
    changes = {
        "train": {"batch_size": 64 if several else 8, "accumulate": 1},
        "mesh": {"data": 1, "fsdp": -1},
        "compute": compute,
    }
    settings = read_settings(ROOT / "configs" / "gpt2_124m.toml", changes)
    return plan(settings, "gpt2_124m", topology)[0]


@functools.cache
def found(topology: str) -> dict[str, Finding]:
    return findings(step(topology))


@pytest.mark.parametrize(
    "topology",
    [
        "h100:1",
        "h200:8",
        "v5e:1x1",
        pytest.param("v6e:1x1", marks=pytest.mark.slow),
        pytest.param("v5e:2x4", marks=pytest.mark.slow),
    ],
)
def test_the_step_does_little_beyond_the_necessary_work(topology: str, needs: Needs) -> None:
    needs(COMPILERS[topology[0]])
    there = found(topology)
    assert {name: there[name] for name in NONE} == dict.fromkeys(NONE, Finding())
    for name, most in MOST[topology].items():
        assert there[name].size / 1e6 <= most, (name, there[name])
    gathers = there["all-gathers of more than a block"]
    if topology in SEVERAL:  # the embedding alone, and not in float32
        assert gathers.size <= gathers.times * EMBEDDING
        assert gathers.times <= 2
    else:
        assert gathers == Finding()
        assert there["passes over parameters beyond one"].times <= 0 or topology[0] == "v"


def test_with_an_unrolled_scan_a_gpu_copies_no_part_of_a_layer(needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    unrolled = findings(step("h100:1", scan_unroll=12))["other copies"]
    assert unrolled.size < 0.1 * found("h100:1")["other copies"].size


LOOP = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: f32[12,768,768], i: s32[]) -> f32[1,768,768] {
  %p = f32[12,768,768]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %part = f32[1,768,768]{2,1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,768,768}
}

%body (t: (s32[], f32[12,768,768], f32[768,768])) -> (s32[], f32[12,768,768], f32[768,768]) {
  %t = (s32[], f32[12,768,768]{2,1,0}, f32[768,768]{1,0}) parameter(0)
  %part = f32[1,768,768]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %flat = f32[768,768]{1,0} bitcast(%part)
  %turned = f32[768,768]{0,1} copy(%flat)
  ROOT %product = f32[768,768]{1,0} dot(%flat, %turned), lhs_contracting_dims={1}
}

%condition (t: (s32[], f32[12,768,768], f32[768,768])) -> pred[] {
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (w: f32[12,768,768]) -> f32[768,768] {
  %loop = (s32[], f32[12,768,768]{2,1,0}, f32[768,768]{1,0}) while(%t0), condition=%condition, body=%body
  %bf = bf16[768,768]{1,0} convert(%x)
  %narrow = bf16[768,768]{1,0} dot(%bf, %bf), lhs_contracting_dims={1}
  %sum = f32[768,768]{1,0} scatter(%x, %ids, %y), to_apply=%add
  ROOT %gathered = f32[768,768]{1,0} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}
}
"""


def test_findings_are_counted_in_the_text_of_a_program() -> None:
    program, size = Program(LOOP), 4 * 768 * 768
    assert program.float32_products() == Finding(12, 12 * size)
    assert program.other_copies() == Finding(12, 12 * size)
    assert program.relayouts() == Finding(12, 12 * size)
    assert program.carried(12, {(12, 768, 768)}) == Finding(1, 12 * size)
    assert program.carried(12, {(768,)}) == program.carried(3, {(12, 768, 768)}) == Finding()
    assert program.scatters() == Finding(1, size)
    assert program.gathers(size - 1) == Finding(1, size)
    assert program.gathers(size) == Finding()
    # The slice, its copy and the product of each round; the scatter and the gather at the end.
    assert program.written([768 * 768]) == Finding(3 * 12 + 2, (3 * 12 + 2) * size)
