"""Runs the forward of a foreign torch module, and takes the logits from what it returns."""

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from jaxgpt.errors import UserError

TARGETS = ("targets", "target", "labels", "label", "y")  # names of the parameter for targets

NORMALISED = 1e-9  # the most by which the sum of probabilities may differ from 1

LOG_PROBABILITIES = (
    "the class returns probabilities or their logarithms; compared with them is the log_softmax of "
    "the logits, which this model returns"
)


@contextlib.contextmanager
def blamed(doing: str, way_out: str = "") -> Iterator[None]:
    """Run foreign code: send its output to stderr and turn its exceptions into UserError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{doing} raised {type(error).__name__}: {message}. {way_out}".rstrip()
        ) from error


def logits_of(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The logits (B, T, V) in whatever the forward of `module` returns for `ids`.

    Forward may return logits, a tuple of logits and loss, or an object or mapping with logits;
    batch and time may be flattened; and without targets there may be only the last position. If it
    returns probabilities, the result is their logarithm.
    """
    logits = returned_for(module, ids)
    shape = tuple(getattr(logits, "shape", ()))
    if not isinstance(logits, torch.Tensor) or len(shape) != 3 or shape[:2] != ids.shape:
        raise UserError(
            "The torch module must return logits (batch, time, vocabulary) for ids "
            f"{tuple(ids.shape)}, but returned {shape or type(logits).__name__}; wrap it in a "
            "module that returns them alone."
        )
    return logits.log() if are_probabilities(logits) else logits


def returned_for(module: torch.nn.Module, ids: torch.Tensor) -> Any:
    """The logits in whatever the forward of `module` returns for `ids`, given as targets if need
    be; another object if there are none."""
    ids = _as_a_loader_gives(ids, module)
    words = inspect.signature(module.forward).parameters
    targets = next((word for word in words if word in TARGETS), None)
    with blamed(f"The forward of {type(module).__name__}"):
        needed = targets is not None and words[targets].default is inspect.Parameter.empty
        logits = None if needed else in_rows(module(ids), ids)
        if targets is not None and (logits is None or logits.shape[:-1] != ids.shape):
            logits = in_rows(module(ids, **{targets: ids}), ids)
    return logits


def are_probabilities(logits: torch.Tensor) -> bool:
    """Whether `logits`, which a class returned, are probabilities."""
    values = logits.detach()
    return bool((values >= 0).all()) and bool(((values.sum(-1) - 1).abs() < NORMALISED).all())


def are_log_probabilities(logits: torch.Tensor) -> bool:
    """Whether `logits`, which a class returned, are logarithms of probabilities."""
    return bool((logits.detach().logsumexp(-1).abs() < NORMALISED).all())


def _as_a_loader_gives(ids: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    """`ids` as a data loader would yield them: contiguous int64 on the device of `module`.

    A forward that takes `targets.view(-1)` relies on this.
    """
    device = next((parameter.device for parameter in module.parameters()), ids.device)
    return ids.to(device, torch.int64).contiguous()


def in_rows(returned: Any, ids: torch.Tensor) -> Any:
    """The logits in `returned`, in the rows of `ids`; another object if there are none."""
    logits = getattr(returned, "logits", returned)
    if isinstance(logits, Mapping):
        logits = logits.get("logits")
    if isinstance(logits, (tuple, list)):
        logits = next(
            (item for item in logits if isinstance(item, torch.Tensor) and item.ndim > 1), None
        )
    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == ids.numel():
        return logits.unflatten(0, tuple(ids.shape))
    return logits
