"""Copies by blocks are copies."""

import itertools

import numpy as np
import pytest

from convert.rows.regroup import BLOCK, _copy

SHAPE = (BLOCK + 1, 3, 2 * BLOCK, 5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_a_transposed_copy_has_every_number(order: tuple[int, ...]) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE).transpose(order)
    room = np.full((2, *values.shape), -1, np.float32)[0]
    _copy(values, room)
    np.testing.assert_array_equal(room, values)


@pytest.mark.parametrize("shape", [(), (0, 5), (1, 200), (200, 1)], ids=str)
def test_a_transposed_copy_of_few_or_no_numbers_is_complete(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape[::-1]).T
    room = np.empty(shape)
    _copy(values, room)
    np.testing.assert_array_equal(room, values)


def test_repeated_values_are_copied() -> None:
    values = np.broadcast_to(np.arange(100.0)[:, None], (100, 80))
    room = np.empty((100, 80))
    _copy(values, room)
    np.testing.assert_array_equal(room, values)
