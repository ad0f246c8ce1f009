"""Converts a file by running its class, which settles the fields that no tensor shows.

The class runs because the user named it. The result is proven before it is returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxgpt.errors import UserError
from jaxgpt.system.stages import silent

from .. import api
from ..files import checkpoints
from ..loaded import Loaded

if TYPE_CHECKING:
    import torch


def to_flax(
    weights: checkpoints.Weights,
    *,
    torch: str | torch.nn.Module | None = None,
    torch_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Loaded:
    """Convert PyTorch weights to Flax parameters, and report how each field of the config is known.

    Args:
        weights: A checkpoint file, a Hugging Face folder, a state_dict, or a torch module.
        torch: The class of the weights, as "module:Class" or "path/to/model.py:Class", or a module
            of it. It is run, and settles every field that the weights do not show.
        torch_args: Arguments of that class.
        **options: Those of `api.to_flax`: `dialect` is the class that wrote the weights, where
            several fit; `dtype` to store the parameters in; `allow_nonfinite`, `ignore_config`,
            `weights_only`; and fields of ModelConfig, such as `norm="post"`.

    Returns:
        The model, its parameters and config, and a report.

    Raises:
        UserError: The weights are damaged, incomplete, ambiguous, or of another kind of model; or
            the class computes something that no model here does.
    """
    if torch is None:
        if torch_args:
            raise UserError("torch_args are arguments of the class `torch`, which is missing.")
        return api.to_flax(weights, **options)
    from ..measuring.settled_file import Request, settled
    from .prove import prove
    from .verdict import doubt_of

    how = {name: options.pop(name) for name in OF_LOADING if name in options}
    fields = {name: value for name, value in options.items() if name not in (*OF_READING, "stage")}
    request = Request(
        torch,
        torch_args or {},
        fields,
        **{name: options[name] for name in OF_READING if name in options},
    )
    file = settled(checkpoints.opened(weights), request)
    loaded = api.loaded(file.inspected, ignore_config=request.ignore_config, **how)
    loaded.conversion.params(options.get("stage", silent))
    exact = loaded
    if how.get("dtype"):
        exact = api.loaded(file.inspected, **{**how, "dtype": None})
    prove(file, exact)
    doubt = doubt_of(file.peer.answers.kept)
    return dataclasses.replace(loaded, proven_by=file.peer.about, doubt=doubt)


OF_LOADING = ("dtype", "allow_nonfinite", "weights_only")
OF_READING = ("dialect", "ignore_config")
