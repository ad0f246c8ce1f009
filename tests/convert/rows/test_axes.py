import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.rows.axes import View
from convert.rows.order import in_module_order
from convert.rows.regroup import move
from jaxgpt.errors import UserError

SIZES = {"layer": 2, "d": 30, "kv": 3, "group": 1, "k": 5, "f": 7}
SPELLING = {"qkv": {"value": "v", "key": "k", "query": "q"}}
KERNELS = View.parse("attn/{qkv}/kernel : layer d head k")
TORCH_VIEWS = [
    "blocks.{layer}.heads.{head}.{qkv}.weight : k d",
    "h.{layer}.c_attn.weight : d (qkv head k)",
    "h.{layer}.c_attn.weight : (qkv head k) d",
    "h.{layer}.c_attn.weight : (head qkv k) d",
    "attn.{qkv} : (layer head) (d k)",
    "all : layer qkv head k d",
]


def arrays(view: View) -> dict[str, np.ndarray]:
    """Every element of every array different from every other."""
    rng = np.random.default_rng(0)
    return {
        view.at(place): rng.normal(size=view.shape(SIZES, place)) for place in view.places(SIZES)
    }


@pytest.mark.parametrize("text", TORCH_VIEWS)
def test_there_and_back_is_identity(text: str) -> None:
    torch = View.parse(text, SPELLING)
    before = arrays(KERNELS)
    there = dict(move(KERNELS, torch, SIZES, before.__getitem__))
    assert all(
        value.shape == torch.shape(SIZES) and value.flags.c_contiguous for value in there.values()
    )
    back = dict(move(torch, KERNELS, SIZES, there.__getitem__))
    assert back.keys() == before.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(back[path], value)


def test_the_fused_matrix_is_what_people_mean_by_it() -> None:
    """Thirds q, k, v on the output axis; heads contiguous inside each third."""
    kernels = arrays(KERNELS)
    fused = dict(move(KERNELS, View.parse(TORCH_VIEWS[2]), SIZES, kernels.__getitem__))[
        "h.1.c_attn.weight"
    ]
    query, key, value = np.split(fused, 3)
    for third, name in ((query, "query"), (key, "key"), (value, "value")):
        np.testing.assert_array_equal(third.T.reshape(30, 3, 5), kernels[f"attn/{name}/kernel"][1])


GROUPED = {"layer": 2, "d": 30, "kv": 2, "group": 3, "k": 5}
FLAX = View.parse("attn/qkv/kernel : layer d head qkv k")


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("h.{layer}.{qkv}_proj : (head k) d", {"q": (30, 30), "k": (10, 30), "v": (10, 30)}),
        ("h.{layer}.c_attn : d (qkv head k)", {"c_attn": (30, 50)}),
        ("h.{layer}.c_attn : (head qkv k) d", {"c_attn": (50, 30)}),
    ],
)
def test_grouped_queries_are_there_and_back(text: str, shapes: dict[str, tuple]) -> None:
    """Queries have more heads than keys and values, in one matrix or in three."""
    torch, kernel = (
        View.parse(text, SPELLING),
        np.random.default_rng(0).normal(size=(2, 30, 2, 5, 5)),
    )
    there = dict(move(FLAX, torch, GROUPED, {"attn/qkv/kernel": kernel}.__getitem__))
    assert {
        name.split(".")[2].removesuffix("_proj"): a.shape for name, a in there.items()
    } == shapes
    assert torch.size(GROUPED) == FLAX.size(GROUPED) == kernel.size
    back = dict(move(torch, FLAX, GROUPED, there.__getitem__))
    np.testing.assert_array_equal(back["attn/qkv/kernel"], kernel)


def test_query_head_j_belongs_to_group_j_over_the_size_of_a_group() -> None:
    kernel = np.random.default_rng(0).normal(size=(2, 30, 2, 5, 5))
    flat = View.parse("h.{layer}.c_attn : (qkv head k) d")
    fused = dict(move(FLAX, flat, GROUPED, {"attn/qkv/kernel": kernel}.__getitem__))["h.1.c_attn"]
    queries, keys, values = np.split(fused, [30, 40])
    for head in range(6):
        own = queries[5 * head : 5 * head + 5].T
        np.testing.assert_array_equal(own, kernel[1, :, head // 3, head % 3])
    for group in range(2):
        np.testing.assert_array_equal(keys[5 * group : 5 * group + 5].T, kernel[1, :, group, 3])
        np.testing.assert_array_equal(values[5 * group : 5 * group + 5].T, kernel[1, :, group, 4])
    by_group = View.parse("h.{layer}.c_attn : (head qkv k) d")
    mixed = dict(move(FLAX, by_group, GROUPED, {"attn/qkv/kernel": kernel}.__getitem__))
    np.testing.assert_array_equal(
        mixed["h.1.c_attn"].T, kernel[1].reshape(30, 50)
    )  # as the array has them


def test_one_module_for_each_head_has_no_place_for_groups() -> None:
    view = View.parse("h.{layer}.{head}.{qkv} : k d", SPELLING)
    kernel = np.random.default_rng(0).normal(size=(2, 30, 2, 5, 5))
    with pytest.raises(UserError, match="different values along the heads that share a key"):
        dict(move(FLAX, view, GROUPED, {"attn/qkv/kernel": kernel}.__getitem__))


def test_results_never_alias_their_source() -> None:
    view = View.parse("x : d f")
    source = {"x": np.zeros((30, 7))}
    made = dict(move(view, view, SIZES, source.__getitem__))["x"]
    made += 1
    assert not source["x"].any()


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.sampled_from(["query", "key", "value"]))
def test_a_name_is_matched_by_the_place_that_writes_it(layer: int, head: int, label: str) -> None:
    view = View.parse(TORCH_VIEWS[0], SPELLING)
    place = view.match(f"blocks.{layer}.heads.{head}.{SPELLING['qkv'][label]}.weight")
    assert place is not None
    assert place["layer"] == layer
    assert view.match(view.at(place)) == place


@pytest.mark.parametrize(
    "name",
    [
        "blocks.01.heads.0.q.weight",
        "blocks.-1.heads.0.q.weight",
        "blocks.0.heads.0.query.weight",
        "blocks.0.heads.0.q.weightx",
        "xblocks.0.heads.0.q.weight",
    ],
)
def test_other_names_are_not_matched(name: str) -> None:
    assert View.parse(TORCH_VIEWS[0], SPELLING).match(name) is None


def test_names_come_in_the_order_of_a_torch_module() -> None:
    views = [
        View.parse(text, SPELLING)
        for text in (
            "b.{layer}.h.{head}.{qkv}.w : k d",
            "b.{layer}.out.w : d d",
            "b.{layer}.out.b : d",
            "last.w : d",
        )
    ]
    names = in_module_order(views, {"layer": 2, "kv": 2})
    assert names[:8] == [
        *(f"b.0.h.{h}.{x}.w" for h in "01" for x in "vkq"),
        "b.0.out.w",
        "b.0.out.b",
    ]
    assert names[8:] == [name.replace("b.0.", "b.1.") for name in names[:8]] + ["last.w"]


def test_the_key_of_each_group_is_cut_from_the_middle_of_its_rows() -> None:
    fused = np.arange(50 * 30).reshape(50, 30)
    part, axes = View.parse("x : (head qkv k) d").cut(fused, {"qkv": 1}, GROUPED)
    assert axes == ["kv", "k", "d"]
    np.testing.assert_array_equal(part, np.stack([fused[15:20], fused[40:45]]))
    assert np.shares_memory(part, fused)


CUT = {"layer": 2, "d": 30, "kv": 8, "group": 1, "k": 5}
QUARTERS = View.parse(
    "h.{layer}.qkv : (4 qkv head/4 k) d", {"qkv": {"query": "q", "value": "v", "key": "k"}}
)


@pytest.mark.parametrize("group", [1, 3])
def test_heads_can_lie_in_quarters_with_queries_keys_and_values_each(group: int) -> None:
    """In each of the four parts are the queries of two key heads, their values, their keys."""
    sizes = {**CUT, "group": group}
    flax = View.parse("attn/qkv/kernel : layer d (4 head/4) qkv k")
    kernel = np.random.default_rng(0).normal(size=(2, 30, 8, group + 2, 5))
    assert flax.shape(sizes) == kernel.shape
    there = dict(move(flax, QUARTERS, sizes, {"attn/qkv/kernel": kernel}.__getitem__))
    rows = 2 * 5
    quarter = there["h.1.qkv"].reshape(4, (group + 2) * rows, 30)[3]  # of the key heads 6 and 7
    queries, values, keys = np.split(quarter, [group * rows, (group + 1) * rows])
    np.testing.assert_array_equal(queries.T.reshape(30, 2, group, 5), kernel[1][:, 6:, :group])
    np.testing.assert_array_equal(values.T.reshape(30, 2, 5), kernel[1][:, 6:, group + 1])
    np.testing.assert_array_equal(keys.T.reshape(30, 2, 5), kernel[1][:, 6:, group])
    back = dict(move(QUARTERS, flax, sizes, there.__getitem__))
    np.testing.assert_array_equal(back["attn/qkv/kernel"], kernel)


def test_heads_that_do_not_divide_into_parts_are_told() -> None:
    assert QUARTERS.undivided(CUT) == []
    assert QUARTERS.undivided({**CUT, "kv": 6}) == ["6 of kv do not divide into 4 parts"]
    assert QUARTERS.undivided({}) == []
