"""Float64 copies of both models on the CPU, differences of arrays, and training side by side.

Independent of files.
"""

import contextlib
import copy
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.overrides import TorchFunctionMode

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, assemble, params_of
from jaxgpt.pytree import Tree

from ..rows import move
from ..rows.dialect import Dialect

# Relative to the largest value in the same column; rounding stays below a hundredth of it.
TOLERANCE = 1e-10
RATE = 1e-3
GRADIENT = "gradient of "  # prefix of the names of compared gradients
TARGETS = ("targets", "target", "labels", "label", "y")  # names of the ids to predict


@dataclass(frozen=True)
class Difference:
    """The difference between two arrays of the same quantity."""

    name: str
    max: float
    mean: float
    scale: float  # the largest absolute value on torch's side
    relative: float  # to the largest value of the column: one huge value must not excuse the others

    @property
    def same(self) -> bool:
        return self.relative <= TOLERANCE  # written so that NaN is a difference

    @staticmethod
    def of(name: str, theirs: np.ndarray, ours: np.ndarray, floor: float = 0.0) -> "Difference":
        """Compare `ours` with `theirs`; columns below `floor` are mere rounding."""
        gap, size = np.abs(theirs - ours), np.abs(theirs)
        columns = size.reshape(-1, size.shape[-1] if size.ndim else 1).max(axis=0)
        usual = np.median(columns[columns > 0]) if (columns > 0).any() else np.float64(1e-300)
        relative = (gap / np.maximum(columns.reshape(size.shape[-1:]), max(usual, floor))).max()
        return Difference(
            name, float(gap.max()), float(gap.mean()), float(size.max()), float(relative)
        )


class _Float64(TorchFunctionMode):
    """Turns requests for a narrower dtype into float64.

    Many classes compute tables or a softmax in float32, whatever the dtype of their parameters.
    """

    NARROW = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func in self.NARROW else func
        if func is torch.Tensor.view:  # `view(dtype)` reinterprets bits: not a cast
            return func(*args, **(kwargs or {}))
        return func(
            *map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()}
        )


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Run the block with float64 for every floating-point tensor that torch makes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(before)


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
    """Logits (B, T, V) from whatever the forward of `module` returns for `ids`.

    That may be logits, a tuple of logits and loss, or an object or mapping with logits; with batch
    and time flattened; or for the last position only, unless targets are passed.
    """
    ids = _as_a_loader_gives(ids, module)
    words = inspect.signature(module.forward).parameters
    targets = next((word for word in words if word in TARGETS), None)
    with blamed(f"The forward of {type(module).__name__}"):
        needed = targets is not None and words[targets].default is inspect.Parameter.empty
        logits = None if needed else _in_rows(module(ids), ids)
        if targets is not None and (logits is None or logits.shape[:-1] != ids.shape):
            logits = _in_rows(module(ids, **{targets: ids}), ids)
    shape = tuple(getattr(logits, "shape", ()))
    if not isinstance(logits, torch.Tensor) or len(shape) != 3 or shape[:2] != ids.shape:
        raise UserError(
            "The torch module must return logits (batch, time, vocabulary) for ids "
            f"{tuple(ids.shape)}, but returned {shape or type(logits).__name__}; wrap it in a "
            "module that returns them alone."
        )
    return logits


def _as_a_loader_gives(ids: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    """Convert `ids` to what a data loader yields: contiguous int64 on the device of `module`.

    A forward that takes `targets.view(-1)` relies on this.
    """
    device = next((parameter.device for parameter in module.parameters()), ids.device)
    return ids.to(device, torch.int64).contiguous()


def _in_rows(returned: Any, ids: torch.Tensor) -> Any:
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


def exact_module(module: torch.nn.Module) -> torch.nn.Module:
    """A float64 copy of `module` on the CPU, in evaluation mode."""
    return copy.deepcopy(module).to("cpu", torch.float64).eval()


def exact_model(model: GPT) -> GPT:
    """A float64 copy of `model` on the CPU."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params_of(model))
    with jax.enable_x64(True):
        return assemble(model.config, jax.device_put(params, jax.devices("cpu")[0]))


def compare_training(
    module: torch.nn.Module,
    model: GPT,
    tokens: np.ndarray,
    dialect: Dialect,
    steps: int,
    decay: float = 0.01,
) -> list[Difference]:
    """Compare the loss, each gradient, and each parameter after `steps` AdamW steps.

    The loss is the mean cross-entropy; AdamW has torch's defaults, but for the learning rate.
    """
    module, model = exact_module(module), exact_model(model)
    tokens = _without_padding(tokens, module)
    their_loss, their_gradients = _torch_training(module, tokens, steps, decay)
    our_loss, our_gradients, params = flax_training(model, tokens, steps, decay)

    def named(tree: Tree) -> dict[str, np.ndarray]:
        """The arrays of `tree` by the names in `module`, which may be nested in another one."""
        ours = move.to_torch(dialect, model.config, tree)
        pairs = (
            (name, next((n for n in ours if f".{name}".endswith(f".{n}")), None))
            for name in their_gradients
        )
        return {name: ours[suffix] for name, suffix in pairs if suffix}

    gradients, stepped = named(our_gradients), named(params)
    after = {name: value.detach().numpy() for name, value in module.named_parameters()}
    # A key bias does not change the softmax: its gradient is rounding, a billionth of the others,
    # and so are its steps.
    floor = 1e-5 * float(np.median([np.abs(value).max() for value in their_gradients.values()]))
    return [
        Difference.of("loss", np.asarray(their_loss), np.asarray(our_loss)),
        *(
            Difference.of(GRADIENT + n, their_gradients[n], ours, floor)
            for n, ours in gradients.items()
        ),
        *(
            Difference.of(f"{name} after {steps} steps", after[name], ours, RATE)
            for name, ours in stepped.items()
        ),
    ]


def _without_padding(tokens: np.ndarray, module: torch.nn.Module) -> np.ndarray:
    """Replace each padding_idx in `tokens`: torch does not train that row of an embedding."""
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
            tokens = np.where(
                tokens == part.padding_idx, (part.padding_idx + 1) % part.num_embeddings, tokens
            )
    return tokens


def _torch_training(
    module: torch.nn.Module, tokens: np.ndarray, steps: int, decay: float
) -> tuple[float, dict[str, np.ndarray]]:
    """Train `module` for `steps` steps; return the first loss and its gradients."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=decay)
    first: tuple[float, dict[str, np.ndarray]] | None = None
    for _ in range(steps):
        optimizer.zero_grad()
        with in_float64():
            logits = logits_of(module, ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
        first = first or (loss.item(), _gradients(module))
        optimizer.step()
    assert first is not None
    return first


def _gradients(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Gradients of the parameters that have one; torch skips the others too."""
    gradients = ((name, value.grad) for name, value in module.named_parameters())
    return {name: gradient.numpy().copy() for name, gradient in gradients if gradient is not None}


def flax_training(
    model: GPT, tokens: np.ndarray, steps: int, decay: float
) -> tuple[float, Tree, Tree]:
    """Train a copy of `model`; return the first loss, its gradients, and the last parameters."""
    optimizer = optax.adamw(RATE, weight_decay=decay)
    with jax.enable_x64(True):
        ids = jnp.asarray(tokens, jnp.int32)
        params = params_of(model)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        first = _value_and_grad(params, model.config, ids)
        for _ in range(steps):
            updates, state = update(_value_and_grad(params, model.config, ids)[1], state, params)
            params = optax.apply_updates(params, updates)
    return float(first[0]), first[1], params


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def _value_and_grad(params: Tree, config: ModelConfig, ids: jax.Array) -> jax.Array:
    logits = assemble(config, params).logits(ids[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()
