import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.pytree import Deferred, Tree, flatten, unflatten
from jaxgpt.storage import arrays

SHAPES = {f"{side}/{name}": (3, 5 + i) for side in "ab" for i, name in enumerate("uvwxyz")}
FLOAT = np.dtype("float32")


def filled(path: str) -> np.ndarray:
    return np.full(SHAPES[path], ord(path[-1]), FLOAT)


def deferred() -> Tree:
    return unflatten(
        {
            path: Deferred(shape, FLOAT, lambda path=path: filled(path))
            for path, shape in SHAPES.items()
        }
    )


def test_deferred_arrays_are_stored_like_others(tmp_path: Path) -> None:
    arrays.write(tmp_path / "deferred", deferred())
    arrays.write(tmp_path / "whole", unflatten({path: filled(path) for path in SHAPES}))
    names = ("_METADATA", "_CHECKPOINT_METADATA")
    written = [(tmp_path / folder / names[0]).read_bytes() for folder in ("deferred", "whole")]
    assert written[0] == written[1]
    read = flatten(arrays.read(tmp_path / "deferred", unflatten(dict.fromkeys(SHAPES, 0))))
    assert read.keys() == SHAPES.keys()
    assert all(np.array_equal(read[path], filled(path)) for path in SHAPES)


def test_few_deferred_arrays_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is made while another is written."""
    monkeypatch.setattr(arrays, "FILE_BYTES", 60)  # of the smallest array
    living: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    most = 0

    def make(path: str) -> np.ndarray:
        nonlocal most
        gc.collect()
        array = filled(path).view(Watched)
        living.add(array)
        most = max(most, len(living))
        return array

    tree = {
        path: Deferred(shape, FLOAT, lambda path=path: make(path)) for path, shape in SHAPES.items()
    }
    arrays.write(tmp_path / "weights", unflatten(tree))
    assert 1 <= most <= 3


class Watched(np.ndarray):
    """An array whose end can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_an_error_while_an_array_is_made_is_raised(
    error: type[BaseException], tmp_path: Path
) -> None:
    def fail() -> np.ndarray:
        raise error("while it was made")

    tree = flatten(deferred())
    tree["b/w"] = Deferred(SHAPES["b/w"], FLOAT, fail)
    with pytest.raises(error, match="while it was made"):
        arrays.write(tmp_path / "weights", unflatten(tree))
    assert not (tmp_path / "weights").exists()
