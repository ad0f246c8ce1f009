"""Tensors anywhere in a torch file, and which of them claim more than they have."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert.files.torch_tensors import spelled, tensors_within, unbacked  # noqa: E402


def nested(levels: int, key: str) -> dict[str, Any]:
    """A sparse tensor under so many times `key`."""
    root: dict[str, Any] = {}
    inner = root
    for _ in range(levels):
        inner[key] = {}
        inner = inner[key]
    inner["tensor"] = torch.ones(1).to_sparse()
    return root


def test_settings_within_settings_cost_no_more_than_their_keys() -> None:
    """The paths to all of these levels, written out, would have 2 TB."""
    (problem,) = unbacked(torch, nested(50_000, "k" * 1000), 0)
    assert problem.startswith("...." + "k" * 1000 + ".k")
    assert problem.endswith(
        "k.tensor is a sparse tensor (torch.sparse_coo), which has no plain array"
    )
    assert len(problem) < 10_000


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (torch.ones(1), "the root"),
        ({"a": [0, {"b": torch.ones(1)}]}, "a.1.b"),
        ({"a": (torch.ones(1),)}, "a.0"),
    ],
    ids=["root", "list", "tuple"],
)
def test_a_tensor_is_found_wherever_it_is(root: Any, path: str) -> None:
    assert [spelled(where) for where, _ in tensors_within(torch, root)] == [path]
