"""The dtypes of tensors: the name of each in numpy and torch, and its code in safetensors files."""

from typing import NamedTuple

import ml_dtypes
import numpy as np


class Kind(NamedTuple):
    """A dtype with its names in numpy, torch and safetensors."""

    name: str  # the name in numpy and torch
    code: str = ""  # the code in safetensors; "" if it is not supported there
    weights: bool = False  # whether weights of a model may have this dtype

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16 if self.name == "bfloat16" else self.name)


KINDS = (
    Kind("float16", "F16", weights=True),
    Kind("bfloat16", "BF16", weights=True),
    Kind("float32", "F32", weights=True),
    Kind("float64", "F64", weights=True),
    Kind("bool", "BOOL"),
    *(Kind(f"int{bits}", f"I{bits}") for bits in (8, 16, 32, 64)),
    *(Kind(f"uint{bits}", f"U{bits}") for bits in (8, 16, 32, 64)),
    Kind("complex64", "C64"),
    Kind("complex128"),
)
BY_NAME = {kind.name: kind.dtype for kind in KINDS}
BY_CODE = {kind.code: kind.dtype for kind in KINDS if kind.code}
CODES = {dtype: code for code, dtype in BY_CODE.items()}
OF_WEIGHTS = {kind.name: kind.dtype for kind in KINDS if kind.weights}
