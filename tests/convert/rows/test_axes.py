import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.rows.axes import View, in_module_order, move

SIZES = {"layer": 2, "d": 30, "head": 3, "k": 5, "qkv": 3, "f": 7}
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
    return {view.at(place): rng.normal(size=view.shape(SIZES)) for place in view.places(SIZES)}


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


def test_results_never_alias_their_source() -> None:
    view = View.parse("x : d f")
    source = {"x": np.zeros((30, 7))}
    made = dict(move(view, view, SIZES, source.__getitem__))["x"]
    made += 1
    assert not source["x"].any()


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
    names = in_module_order(views, {"layer": 2, "head": 2, "qkv": 3})
    assert names[:8] == [
        *(f"b.0.h.{h}.{x}.w" for h in "01" for x in "vkq"),
        "b.0.out.w",
        "b.0.out.b",
    ]
    assert names[8:] == [name.replace("b.0.", "b.1.") for name in names[:8]] + ["last.w"]
