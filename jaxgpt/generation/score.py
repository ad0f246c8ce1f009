"""Log-probabilities of given ids.

Shapes: B batch, T tokens, V vocabulary.
"""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.errors import require
from jaxgpt.model import GPT, Seq2Seq, exactly
from jaxgpt.model.precision import sum_dtype


@overload
def score(model: GPT, ids: ArrayLike) -> np.ndarray: ...
@overload
def score(
    model: Seq2Seq, ids: ArrayLike, source: ArrayLike, source_mask: ArrayLike | None = None
) -> np.ndarray: ...
def score(
    model: GPT | Seq2Seq,
    ids: ArrayLike,
    source: ArrayLike | None = None,
    source_mask: ArrayLike | None = None,
) -> np.ndarray:
    """Log-probabilities (B, T - 1) of the `ids` (B, T) given their prefixes, without the first.

    An encoder-decoder also takes the ids `source` (B, S). `source_mask` (B, S) is true where they
    are not padding; by default nothing is padding.
    """
    require_sides(model, source)
    if isinstance(model, Seq2Seq):
        assert source is not None
        logits_btv = model(source, ids, source_mask)
    else:
        logits_btv = model(ids)
    with exactly(model.dtype):
        logp_btv = jax.nn.log_softmax(logits_btv[:, :-1].astype(sum_dtype(logits_btv)))
        scores_bt = np.asarray(
            jnp.take_along_axis(logp_btv, jnp.asarray(ids)[:, 1:, None], axis=-1)[..., 0]
        )
    finite = bool(np.isfinite(scores_bt).all())
    require(finite, "The model's logits are not finite numbers: its weights are damaged.")
    return scores_bt


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The log-probabilities that `logits` define, computed on the host."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def require_sides(model: GPT | Seq2Seq, source: ArrayLike | None) -> None:
    """Require a `source` for an encoder-decoder, and none for a decoder."""
    if isinstance(model, Seq2Seq):
        require(source is not None, "An encoder-decoder reads a source: pass its ids as `source`.")
    else:
        require(source is None, "This model has no encoder to read a source: leave it out.")
