"""Numbers order the norms of a block; letters only where the file has the same order."""

import pytest

from convert.renaming.norm_places import in_order
from convert.renaming.norm_words import numbered


@pytest.mark.parametrize(
    "norms",
    [["norm_1", "norm_2"], ["ln_a", "ln_b"], ["norm.one", "norm.two"], ["ln_first", "ln_second"]],
)
def test_numbers_and_letters_are_in_order(norms: list[str]) -> None:
    assert numbered(norms) == dict(zip(norms, ["norm1", "norm2"], strict=True))
    assert in_order(norms)[0] < in_order(norms)[1]


@pytest.mark.parametrize("norms", [["norm_2", "norm_1"], ["ln_second", "ln_first"]])
def test_numbers_count_in_any_order_of_the_file(norms: list[str]) -> None:
    assert numbered(norms) == dict(zip(norms, ["norm2", "norm1"], strict=True))
    assert in_order(norms)[0] > in_order(norms)[1]


@pytest.mark.parametrize("norms", [["b", "a"], ["a", "b"], ["ln_b", "ln_a"], ["part.a", "part.b"]])
def test_letters_that_may_be_names_order_nothing(norms: list[str]) -> None:
    """A class that calls the norm of attention `b` and that of the MLP `a` must not be misread."""
    assert numbered(norms) == {}
    assert in_order(norms) == []
