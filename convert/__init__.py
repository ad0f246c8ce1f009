"""Converts PyTorch checkpoints of Transformers to jaxgpt and back, and proves each conversion.

The public names, each loaded when it is first used, so that the import costs nothing:

    to_flax      converts a checkpoint file or a Hugging Face folder to a Loaded
    Loaded       what to_flax returns: model, params, config, and a report on each field
    to_torch     a state_dict for load_state_dict(strict=True), from parameters and their config
    inspect      says what to_flax would do with a file, without reading all of it
    verify       runs the class of a file and a model directory, and reports where they differ
    probe        ranks the values that a file leaves open by their loss on a text
    assert_same  compares a torch module with a model of ours or any JAX function, for test suites

For example:

    from jaxgpt import convert

    loaded = convert.to_flax("weights.pt")
    print(loaded.config, loaded.report.assumed)
    logits = loaded.model([[0, 29, 59]])
    state_dict = convert.to_torch(loaded.params, loaded.config, dialect="gpt")

The command line is `jaxgpt-convert --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors, which run nothing
    from .api import Loaded as Loaded
    from .api import inspect as inspect
    from .api import to_torch as to_torch
    from .probing.probe import probe as probe
    from .proving.by_class import to_flax as to_flax
    from .proving.same import assert_same as assert_same
    from .proving.verify import verify as verify

_HOMES = {
    "Loaded": "loaded",
    "assert_same": "proving.same",
    "inspect": "api",
    "probe": "probing.probe",
    "to_flax": "proving.by_class",
    "to_torch": "api",
    "verify": "proving.verify",
}
__all__ = ["Loaded", "assert_same", "inspect", "probe", "to_flax", "to_torch", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, which is what `help` and completion show."""
    return [*__all__]
