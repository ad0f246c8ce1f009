"""One table of dtypes serves every format and command."""

import typing

import numpy as np
import pytest

from convert import dtypes
from convert.commands.to_flax import to_flax

torch = pytest.importorskip("torch")


def test_each_name_is_torchs_and_numpys() -> None:
    for kind in dtypes.KINDS:
        assert isinstance(getattr(torch, kind.name), torch.dtype)
        assert str(kind.dtype) == kind.name
        assert np.zeros(1, kind.dtype).itemsize == getattr(torch, kind.name).itemsize


def test_parameters_can_be_stored_in_every_dtype_that_weights_may_have() -> None:
    choices = typing.get_args(typing.get_args(typing.get_type_hints(to_flax)["dtype"])[0])
    assert choices == tuple(dtypes.OF_WEIGHTS)
