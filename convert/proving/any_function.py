"""Runs any JAX function in float64: its logits, its gradients, and its training."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.errors import UserError, require

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Function:
    """A function of (params, tokens (B, T)) that returns logits (B, T, V), and its parameters."""

    call: Callable[[Any, jax.Array], Any]
    leaves: dict[str, Any]  # of the pytree of parameters, by path; including those not arrays
    structure: Any

    @staticmethod
    def of(call: Callable[[Any, jax.Array], Any], params: Any) -> "Function":
        """The function `call` with the pytree `params`, its floating-point arrays in float64."""
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): _exact(leaf)
            for path, leaf in paths
        }
        require(
            any(isinstance(leaf, np.ndarray) for leaf in leaves.values()),
            "params has no array of floating-point numbers: pass the pytree of parameters that the "
            "function takes.",
        )
        return Function(call, leaves, structure)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The floating-point arrays by path, with layer 2 before layer 10."""
        paths = sorted(self.leaves, key=lambda path: [*map(_number, re.split(r"(\d+)", path))])
        leaves = {path: self.leaves[path] for path in paths}
        return {path: leaf for path, leaf in leaves.items() if isinstance(leaf, np.ndarray)}

    def __call__(self, arrays: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
        """The logits with `arrays` in place of those of the function; traceable."""
        params = jax.tree_util.tree_unflatten(self.structure, {**self.leaves, **arrays}.values())
        logits = self.call(params, tokens)
        shape = tuple(getattr(logits, "shape", ()))
        require(
            len(shape) == 3 and shape[:2] == tokens.shape,
            "The JAX function must return logits (batch, time, vocabulary) for tokens "
            f"{tokens.shape}, but returned {shape or type(logits).__name__}.",
        )
        if logits.dtype != jnp.float64:
            raise UserError(
                f"The JAX function returns {logits.dtype} for parameters in float64: something in "
                "it casts. Let its dtype follow that of its parameters (dtype=None in Linen and "
                "NNX), so that rounding hides no difference."
            )
        return logits

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """The logits (B, T, V) of `tokens` (B, T)."""
        with jax.enable_x64(True):
            return np.asarray(
                jax.jit(lambda *inputs: self(*inputs))(self.arrays, jnp.asarray(tokens, jnp.int32))
            )

    def gradients(self, tokens: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The mean cross-entropy of `tokens` (B, T + 1), and its gradient by each array."""
        with jax.enable_x64(True):
            loss, gradients = self._slope(self.arrays, jnp.asarray(tokens, jnp.int32))
        return float(loss), {path: np.asarray(x) for path, x in gradients.items()}

    def trained(
        self,
        tokens: np.ndarray,
        steps: int,
        optimizer: optax.GradientTransformation,
        frozen: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """The arrays after `steps` steps on `tokens`, in which the `frozen` numbers do not
        change."""
        with jax.enable_x64(True):
            batch = jnp.asarray(tokens, jnp.int32)
            arrays = jax.tree.map(jnp.asarray, self.arrays)
            state = optimizer.init(arrays)
            for _ in range(steps):
                _, gradients = self._slope(arrays, batch)
                updates, state = optimizer.update(gradients, state, arrays)
                moved = optax.apply_updates(arrays, updates)
                arrays = {
                    path: jnp.where(frozen[path], arrays[path], moved[path]) for path in arrays
                }
        return {path: np.asarray(array) for path, array in arrays.items()}

    @functools.cached_property
    def _slope(self) -> Callable[..., Any]:
        """The loss and its gradients as a compiled function of (arrays, tokens)."""

        def loss(arrays: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
            logits = self(arrays, tokens[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            mean: jax.Array = losses.mean()
            return mean

        return jax.jit(jax.value_and_grad(loss))


def _number(part: str) -> tuple[int, str]:
    """A key that sorts numbers within names by their value."""
    return (int(part), "") if part.isdigit() else (0, part)


def _exact(leaf: Any) -> Any:
    """`leaf` in float64 on the host, if it is an array of floating-point numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return leaf
    return np.asarray(leaf).astype(np.float64)
