"""Plain values as JSON and back."""

import json
import math

import pytest

from convert.extras.plain_values import decode, encode, split

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        math.inf,
        "ü",
        [1, [2, "three"]],
        (0.9, (0.95,)),
        {"a": (1, 2), 3: {4: []}, "tuple": [1], "dict": {}},
        {},
        [],
        (),
    ],
)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool], ids=str
)
def test_a_number_in_a_tensor_comes_back_in_one(dtype: torch.dtype) -> None:
    value = torch.tensor(1.1).to(dtype)
    back = decode(json.loads(json.dumps(encode(value))))
    assert back.dtype == dtype
    assert torch.equal(back, value)


def test_what_cannot_be_kept_is_named() -> None:
    knot: list[object] = []
    knot.append(knot)
    kept, left = split(
        {"a": 1, "b": torch.zeros(2), "c": knot, "d": "x" * 2**24, 5: {6: 7}, "e": torch.tensor(1j)}
    )
    assert [decode(pair) for pair in kept] == [["a", 1], [5, {6: 7}]]
    assert left == ["b", "c", "d", "e"]


def test_lists_that_contain_each_other_cost_nothing() -> None:
    """Written out, these forty lists would be a million millions."""
    laughs: list[object] = []
    for _ in range(40):
        laughs = [laughs, laughs]
    assert split({"laughs": laughs, "note": "short"}) == ([["note", "short"]], ["laughs"])


@pytest.mark.parametrize("levels", [50, 100, 400])
def test_what_is_nested_deeper_than_json_can_be_is_left(levels: int) -> None:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    kept, left = split({"nested": value})
    assert left == (["nested"] if levels > 64 else [])
    assert [decode(json.loads(json.dumps(pair, indent=2))) for pair in kept] == [["nested", value]][
        : len(kept)
    ]
