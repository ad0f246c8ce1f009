"""The part that encoders and decoders share: embeddings, positions, blocks, and a final norm.

Shapes: B batch, T time, D model width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.initial import INIT_STD
from jaxgpt.model.norms import Norm
from jaxgpt.model.position_spec import Learned, Sinusoids
from jaxgpt.model.positions import sinusoids
from jaxgpt.model.stack import Stack


class Embed(nnx.Module):
    """A table of vectors; unlike nnx.Embed it returns the dtype of the table, also after a cast."""

    def __init__(self, rows: int, model_dim: int, rngs: nnx.Rngs):
        shape = (rows, model_dim)
        self.embedding = nnx.Param(INIT_STD * jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(self, ids_bt: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], ids_bt, axis=0)


class Backbone(Stack):
    """A stack of blocks with what precedes and follows it; a token embedding if `owns_table`."""

    def __init__(self, s: spec.Spec, rngs: nnx.Rngs, owns_table: bool = True):
        if owns_table:
            self.token_embedding = Embed(s.vocab_size, s.model_dim, rngs)
        if s.position_rows:
            self.pos_embedding = Embed(s.position_rows, s.model_dim, rngs)
        if isinstance(s.positions, Sinusoids) and s.positions.stored:
            table = sinusoids(s.position_rows, s.model_dim, s.positions.layout)
            self.pos_embedding.embedding.set_value(jnp.asarray(table, jnp.float32))
        if s.embedding_norm:
            self.embedding_norm = Norm(s.block.norm, s.model_dim)
        super().__init__(s.block, s.model_dim, s.num_blocks, rngs)
        if s.final_norm != "none":
            self.final_norm = Norm(s.block.norm, s.model_dim)
        self.spec = s

    def embed(self, tokens_bt: jax.Array, positions_bt: jax.Array | None = None) -> jax.Array:
        """The stream (B, T, D) before the first block; `positions_bt` count from 0 by default."""
        return self.place(self.token_embedding(tokens_bt), positions_bt)

    def place(self, x_btd: jax.Array, positions_bt: jax.Array | None = None) -> jax.Array:
        """The stream of the token vectors `x_btd`: scaled, at their positions, and normalised."""
        if self.spec.embedding_scale != 1:
            x_btd = x_btd * self.spec.embedding_scale
        match self.spec.positions:
            case Learned(offset=first) | Sinusoids(offset=first):
                if positions_bt is None:
                    where: slice | jax.Array = slice(first, first + x_btd.shape[1])
                else:
                    where = first + positions_bt
                x_btd = x_btd + self.position_table()[where].astype(x_btd.dtype)
        return self.embedding_norm(x_btd) if self.spec.embedding_norm else x_btd

    def position_table(self) -> jax.Array:
        """The position vectors, one row for each position."""
        match self.spec.positions:
            case Sinusoids(rows, stored=False, layout=layout):
                return jnp.asarray(sinusoids(rows, self.spec.model_dim, layout))
            case Sinusoids():
                return jax.lax.stop_gradient(self.pos_embedding.embedding[...])
        return self.pos_embedding.embedding[...]

    def normalise(self, x_btd: jax.Array) -> jax.Array:
        """`x_btd` after the final norm, if the model applies one."""
        return self.final_norm(x_btd) if self.spec.final_norm == "applied" else x_btd
