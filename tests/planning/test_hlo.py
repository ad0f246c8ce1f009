"""Figures read from compiled programs: from texts of each compiler, and from a program compiled here."""

import json
import os
import subprocess
import sys

import pytest

from jaxgpt.planning.hlo import Traffic, collectives
from tests.helpers import PROGRAMS

# A loop of five rounds, each gathering 4 x 16 numbers of 16 bits from 8 devices; once, a sum of 10 in pairs.
ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""
PLAIN = f"""HloModule jit_step
{ADD}
%body.1 (p: (s32[], bf16[4,2])) -> (s32[], bf16[4,2]) {{
  %p = (s32[], bf16[4,2]{{1,0}}) parameter(0)
  %x = bf16[4,2]{{1,0}} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[4,16]{{1,0}} all-gather(%x), channel_id=1, replica_groups=[1,8]<=[8], dimensions={{1}}
  ROOT %t = (s32[], bf16[4,2]{{1,0}}) tuple(%i, %y)
}}

%condition.1 (p: (s32[], bf16[4,2])) -> pred[] {{
  %p = (s32[], bf16[4,2]{{1,0}}) parameter(0)
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}}

ENTRY %main (p0: bf16[4,2], p1: f32[10]) -> f32[10] {{
  %p1 = f32[10]{{0}} parameter(1)
  %w = (s32[], /*index=1*/bf16[4,2]{{1,0}}) while(%t0), condition=%condition.1, body=%body.1
  ROOT %all-reduce = f32[10]{{0}} all-reduce(%p1), replica_groups={{{{0,1}},{{2,3}},{{4,5}},{{6,7}}}}, to_apply=%add
}}
"""
GATHERED, SUMMED = Traffic(5, 5 * 128 * 7 / 8), Traffic(1, 2 * 40 * 1 / 2)


def test_the_body_of_a_loop_counts_once_per_iteration() -> None:
    assert collectives(PLAIN) == {"all-gather": GATHERED, "all-reduce": SUMMED}


def test_an_iteration_count_that_the_compiler_states_is_used() -> None:
    said = PLAIN.replace(
        "body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert collectives(said)["all-gather"] == Traffic(7, 7 * 112.0)


@pytest.mark.parametrize(
    ("groups", "n"),
    [
        ("[2,4]<=[8]", 4),
        ("{{0,1,2,3}}", 4),
        ("mesh['a'=2,'b'=4] {'b'}", 4),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("mesh['a'=8] {'a':(1)2}", 2),
    ],
)
def test_groups_are_written_in_several_ways(groups: str, n: int) -> None:
    found = collectives(PLAIN.replace("[1,8]<=[8]", groups))
    assert found["all-gather"] == Traffic(5, pytest.approx(5 * 128 * (n - 1) / n))


STARTED = f"""{ADD}
ENTRY %main (p: bf16[8]) -> bf16[64] {{
  %p = bf16[8]{{0}} parameter(0)
  %all-gather-start = (bf16[8]{{0}}, bf16[64]{{0}}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={{0}}
  %all-gather-done = bf16[64]{{0}} all-gather-done(%all-gather-start)
  %rs-start = ((bf16[64]{{0}}), (bf16[8]{{0}})) reduce-scatter-start(%q), replica_groups=[1,8]<=[8], to_apply=%add
  %rs-done = bf16[8]{{0}} reduce-scatter-done(%rs-start)
  %all-reduce-start = bf16[64]{{0}} all-reduce-start(%q), replica_groups=[1,8]<=[8], to_apply=%add
  %all-reduce-done = bf16[64]{{0}} all-reduce-done(%all-reduce-start)
  %permute-start = (bf16[64]{{0}}, bf16[64]{{0}}) collective-permute-start(%q), source_target_pairs={{{{0,1}},{{1,0}}}}
  ROOT %permute-done = bf16[64]{{0}} collective-permute-done(%permute-start)
}}
"""


def test_an_asynchronous_collective_counts_once() -> None:
    assert collectives(STARTED) == {
        "all-gather": Traffic(1, pytest.approx(112)),
        "reduce-scatter": Traffic(1, pytest.approx(112)),
        "all-reduce": Traffic(1, pytest.approx(224)),
        "collective-permute": Traffic(1, 128),
    }


FUSED = """
%started (p: bf16[8]) -> bf16[64] {
  %all-gather.1 = bf16[64]{0:T(8,128)(2,1)S(1)} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
}

%meanwhile (p: bf16[8]) -> bf16[64] {
  %all-gather.2 = bf16[64]{0:T(8,128)(2,1)S(1)} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
}

ENTRY %main (p: bf16[8]) -> bf16[64] {
  %async-collective-start = (bf16[8]{0}, bf16[64]{0}) fusion(%p), kind=kCustom, calls=%started
  %fusion.1 = (bf16[64]{0}) fusion(%q), kind=kOutput, calls=%meanwhile
  ROOT %async-collective-done = bf16[64]{0} fusion(%r), kind=kCustom, calls=%meanwhile
}
"""


def test_on_a_tpu_a_collective_during_a_product_counts_once() -> None:
    assert collectives(FUSED) == {"all-gather": Traffic(1, pytest.approx(112))}


def test_collectives_of_a_program_compiled_here() -> None:
    """Four devices with 8 numbers each: 128 bytes are gathered and 32 summed, three times."""
    four = {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "NPROC": "8",
        "JAX_PLATFORMS": "cpu",
    }
    code = [sys.executable, PROGRAMS / "collectives_of_a_scan.py"]
    done = subprocess.run(
        code, capture_output=True, text=True, env={**os.environ, **four}, check=True
    )
    assert json.loads(done.stdout) == {
        "all-gather": [3, 3 * 128 * 3 / 4],
        "all-reduce": [3, 3 * 2 * 32 * 3 / 4],
    }
