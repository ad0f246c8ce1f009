"""Tables of positions and scales that a class made in float32, with the precision of float64.

A class that is built in float64 makes exact ones. One that was built before has rounded ones, with
which no comparison in float64 would succeed.
"""

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from jaxgpt.model.positions import sinusoids

from ..rows.rotary_tables import DIGITS, FORMS, FREQUENCIES, Table, exact, theta_of

ROUNDED = 1e-6  # the largest error of sinusoids rounded to float32, for each position


def sharpen(module: torch.nn.Module, loaded: Collection[str] = ()) -> None:
    """Give the tables of `module` that are sinusoids or rotary ones, and numbers that are square
    roots, the precision of float64.

    Sinusoids that are `loaded` stay as they are: the model has them from the file as well.
    """
    state = module.state_dict(keep_vars=True)
    kept = {id(state[name]) for name in loaded if sinusoids_like(_plain(state[name])) is not None}
    for tensor in _untrained(module):
        if id(tensor) in kept:
            continue
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        tensor.data = tensor.data.to(wide)
        if (table := _exact(tensor.numpy())) is not None:
            tensor.data = torch.from_numpy(table)


def _untrained(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield the floating-point buffers, frozen parameters and other tensors of all modules."""
    for part in module.modules():
        for tensor in tree_leaves(vars(part)):
            untrained = isinstance(tensor, torch.Tensor) and not tensor.requires_grad
            if untrained and (tensor.is_floating_point() or tensor.is_complex()):
                yield tensor


def _exact(rounded: np.ndarray) -> np.ndarray | None:
    """The table that is `rounded` to float32, in double precision; None if it is none."""
    narrow = rounded.astype(np.complex64 if rounded.dtype.kind == "c" else np.float32)
    plain = narrow.reshape([length for length in rounded.shape if length > 1])
    if not np.array_equal(narrow, rounded):
        return None
    if plain.size == 1 and plain.dtype == np.float32:
        return None if (root := _root(float(plain))) is None else np.full(rounded.shape, root)
    if plain.size < 4:
        return None
    if (waves := sinusoids_like(plain)) is not None:
        return waves.reshape(rounded.shape)
    for form in _forms(plain):
        table = Table("", form, plain)
        theta = theta_of([table], None) if table.rotated > 2 else None
        if theta and theta == float(f"{theta:.{DIGITS}g}"):
            made = exact(form, table.twice, theta, None, table.rotated, len(plain))
            return made.reshape(rounded.shape)
    return None


def _root(rounded: float) -> float | None:
    """The square root of a whole number, or its inverse, that is `rounded` to float32."""
    if not 0 < rounded < 2**12:
        return None
    roots = (round(rounded**2) ** 0.5, max(1, round(rounded**-2)) ** -0.5)
    return next((root for root in roots if np.float32(root) == rounded), None)


def _plain(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor without axes of length 1."""
    return np.asarray(tensor.detach().squeeze())


def sinusoids_like(table: np.ndarray) -> np.ndarray | None:
    """The sinusoids that `table` has up to rounding; None if it has others."""
    if table.ndim != 2 or table.dtype.kind == "c" or table.shape[1] % 2:
        return None
    length, width = table.shape
    layouts = (sinusoids(length, width, layout) for layout in ("interleaved", "half"))
    return next((s for s in layouts if np.abs(s - table).max() < ROUNDED * len(table)), None)


def _forms(table: np.ndarray) -> list[str]:
    """The forms of rotary tables that `table` may have by its dimensions."""
    if table.dtype.kind == "c":
        return ["cis"] if table.ndim == 2 else []
    if table.ndim == 1:
        return [FREQUENCIES]
    if table.ndim == 3:
        return ["pairs"] if table.shape[-1] == 2 else []
    return [form for form in FORMS if form not in ("cis", "pairs")] if table.ndim == 2 else []
