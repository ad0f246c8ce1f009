"""Numbers order the norms of a block unless the class has another order; letters only if it has the same."""

import pytest

from convert.renaming.norm_places import in_order
from convert.renaming.norm_words import numbered, usual_norms

NUMBERS = [["norm_1", "norm_2"], ["norm.one", "norm.two"], ["ln_first", "ln_second"]]


@pytest.mark.parametrize("norms", [*NUMBERS, ["ln_a", "ln_b"]])
def test_numbers_and_letters_are_in_order(norms: list[str]) -> None:
    assert numbered(norms, ordered=True) == dict(zip(norms, ["norm1", "norm2"], strict=True))
    assert in_order(norms, ordered=True)[0] < in_order(norms, ordered=True)[1]


@pytest.mark.parametrize("norms", [*NUMBERS, *(norms[::-1] for norms in NUMBERS)])
def test_numbers_count_in_a_sorted_file(norms: list[str]) -> None:
    first, second = sorted(norms)
    assert numbered(norms, ordered=False) == {first: "norm1", second: "norm2"}
    ranks = dict(zip(norms, in_order(norms, ordered=False), strict=True))
    assert ranks[first] < ranks[second]


@pytest.mark.parametrize("norms", [norms[::-1] for norms in NUMBERS])
def test_numbers_that_the_order_of_the_class_contradicts_order_nothing(norms: list[str]) -> None:
    assert numbered(norms, ordered=True) == {}
    assert in_order(norms, ordered=True) == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("norms", [["b", "a"], ["a", "b"], ["ln_b", "ln_a"], ["part.a", "part.b"]])
def test_letters_that_may_be_names_order_nothing(norms: list[str], ordered: bool) -> None:
    """A class that calls the norm of attention `b` and that of the MLP `a` must not be misread."""
    assert numbered(norms, ordered) == {}
    assert in_order(norms, ordered) == []


def test_letters_order_nothing_in_a_sorted_file() -> None:
    """Any two letters are in order there: the class may use `calm_b` first."""
    assert numbered(["calm_a", "calm_b"], ordered=False) == {}
    assert in_order(["calm_a", "calm_b"], ordered=False) == []


@pytest.mark.parametrize("norms", [["calm", "after_attention"], ["ln_attn", "post_attn"]])
def test_a_norm_after_attention_may_be_that_of_the_mlp(norms: list[str]) -> None:
    assert usual_norms(norms, {}, ("attn", "mlp"), ordered=True) == {}
    both = ["after_attention", "after_mlp"]
    known = dict(zip(both, ["norm1", "norm2"], strict=True))
    assert usual_norms(both, {}, ("attn", "mlp"), ordered=True) == known
