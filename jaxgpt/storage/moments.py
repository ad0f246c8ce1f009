"""AdamW's moments in the state of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import require
from jaxgpt.file_names import STATE
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree, require_same
from jaxgpt.storage import arrays
from jaxgpt.storage.config_sections import AnyConfig
from jaxgpt.storage.weights import rank_of

INSTEAD = (
    "Take the weights alone: with jaxgpt-convert to-torch --weights-only, or without --run.go_on."
)


class Moments(NamedTuple):
    """AdamW's moments of one set of parameters."""

    step: int  # the run's step, for the schedule and the order of the data
    updates: int  # AdamW's own count, for its bias correction
    mu: Tree
    nu: Tree


def read_moments(path: Path, config: AnyConfig, about: Mapping[str, Any]) -> Moments:
    """The moments in the state of the model directory `path`."""
    require(
        about.get("optim", {}).get("name", "adamw") == "adamw",
        f"{path} was trained with Muon, which has no mean of squared gradients for the kernels of "
        "the blocks: its state is not AdamW's, and cannot be written or resumed as such. "
        f"{INSTEAD}",
    )
    require(
        rank_of(about) == 0,
        f"{path} was trained with adapters: its optimiser has moments of these, not of the "
        f"parameters that they are merged into. {INSTEAD}",
    )
    state = arrays.read(path / STATE, arrays.stored_shapes(path / STATE))
    adams = _adams(state)
    counts = [np.shape(one) for one in (state.get("step"), *(adam["count"] for adam in adams))]
    require(
        len(adams) == 1 and "step" in state and counts == [(), ()],
        f"{path / STATE} is not the state of a run with AdamW: it should have one step and one set "
        f"of moments, and it has {len(adams)} sets. {INSTEAD}",
    )
    (adam,) = adams
    for moment in ("mu", "nu"):
        require_same(abstract_params(config), adam[moment], f"{path / STATE}, its {moment},")
    return Moments(int(state["step"]), int(adam["count"]), adam["mu"], adam["nu"])


def _nested(adam: dict[str, Any]) -> bool:
    return isinstance(adam["mu"], dict) and isinstance(adam["nu"], dict)


def _adams(tree: Any) -> list[dict[str, Any]]:
    """The states of AdamW within `tree`."""
    if isinstance(tree, dict) and {"count", "mu", "nu"} <= tree.keys() and _nested(tree):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [adam for part in parts for adam in _adams(part)]
