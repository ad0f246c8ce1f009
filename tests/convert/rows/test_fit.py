"""Sizes are solved from shapes, where heads share keys and values too."""

from dataclasses import replace

import pytest

from convert.rows.dialect import Dialect
from convert.rows.fit import fit
from convert.rows.kinds import linear, row
from convert.rows.solve import solve

EMBEDDING = row("token_embedding/embedding : v d", "wte : v d")
OUT = linear("blocks/attn/out : layer head k d", "h.{layer}.o : d (head k)", "no")
SEPARATE = Dialect(
    "separate", "",
    (EMBEDDING, *linear("blocks/attn/qkv : layer d head qkv k", "h.{layer}.{qkv} : (head k) d", "no"), *OUT),
    words={"qkv": ("q k v",)},
)  # fmt: skip
FUSED = Dialect(
    "fused", "",
    (EMBEDDING, *linear("blocks/attn/qkv : layer d head qkv k", "h.{layer}.qkv : (qkv head k) d", "no"), *OUT),
)  # fmt: skip
SHAPES = {"wte": (11, 30), "h.0.o.weight": (30, 42)}
GROUPS = SHAPES | {"h.0.q.weight": (42, 30), "h.0.k.weight": (14, 30), "h.0.v.weight": (14, 30)}


@pytest.mark.parametrize("known", [{"head": 6}, {"k": 7}])
def test_one_number_tells_how_queries_are_grouped(known: dict[str, int]) -> None:
    fitted = fit(SEPARATE, GROUPS, known)
    assert not fitted.problems
    assert fitted.sizes == {"v": 11, "d": 30, "layer": 1, "kv": 2, "group": 3, "k": 7}


def test_groups_are_seen_without_a_number_but_not_heads() -> None:
    sizes = fit(SEPARATE, GROUPS).sizes
    assert sizes["group"] == 3
    assert "kv" not in sizes


@pytest.mark.parametrize("known", [{"head": 6}, {"kv": 2}, {"head": 6, "kv": 2}, {"k": 7}])
def test_what_queries_leave_of_a_fused_matrix_are_keys_and_values(known: dict[str, int]) -> None:
    thirds = SHAPES | {"h.0.qkv.weight": (126, 30)}
    assert fit(FUSED, thirds, {"head": 6}).sizes["group"] == 1
    grouped = SHAPES | {"h.0.qkv.weight": (70, 30)}
    fitted = fit(FUSED, grouped, known)
    assert not fitted.problems
    assert fitted.sizes == {"v": 11, "d": 30, "layer": 1, "kv": 2, "group": 3, "k": 7}


def test_without_an_output_matrix_queries_are_as_wide_as_the_model() -> None:
    bare = replace(FUSED, rows=FUSED.rows[:2])
    fitted = fit(bare, {"wte": (11, 30), "h.0.qkv.weight": (50, 30)}, {"head": 6})
    assert not fitted.problems
    assert (fitted.sizes["group"], fitted.sizes["kv"], fitted.sizes["k"]) == (3, 2, 5)


def test_a_key_of_another_width_is_reported_alone() -> None:
    wrong = GROUPS | {"h.0.v.weight": (13, 30)}
    assert fit(SEPARATE, wrong, {"head": 6, "k": 7}).problems == [
        "h.0.v.weight is (13, 30), expected (head k) d = (14, 30)"
    ]


def test_an_equation_of_one_unknown_axis_gives_its_size_in_turn() -> None:
    equations = [(("d",), 12), (("qkv", "kv", "k"), 36)]
    assert solve(equations, {"head": 3}) == {"d": 12, "group": 1, "kv": 3, "k": 4}
