import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten, require_same, unflatten

names = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.dictionaries(names, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
)


@settings(deadline=None)
@given(trees)
def test_unflatten_undoes_flatten(tree: dict[str, object]) -> None:
    assert unflatten(flatten(tree)) == tree


def test_all_differences_are_named_at_once() -> None:
    expected = {"a": {"x": np.zeros((2, 3)), "y": np.zeros(1)}, "b": np.zeros(4)}
    got = {"a": {"x": np.zeros((3, 2))}, "b": np.zeros(4), "c": np.zeros(5)}
    with pytest.raises(
        UserError, match=r"a/y is missing; c is not expected; a/x is \(3, 2\), expected \(2, 3\)"
    ):
        require_same(expected, got, "This")
    require_same(expected, {**expected}, "This")
