"""A user's program with the public names; `mypy --strict` accepts it, and it runs.

    python library_user.py FOLDER WEIGHTS

trains a model in FOLDER, and converts the PyTorch checkpoint WEIGHTS.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax  # type: ignore[import-untyped]

import jaxgpt
from jaxgpt import convert

folder, weights = Path(sys.argv[1]), Path(sys.argv[2])
config = jaxgpt.ModelConfig(
    vocab_size=11, context_length=8, model_dim=16, num_blocks=2, num_heads=2, dropout=0.0
)
model = jaxgpt.GPT(config, seed=0)
rows = np.random.default_rng(0).integers(0, 11, (4, 9))


def loss(model: jaxgpt.GPT, ids: jax.Array) -> jax.Array:
    logits = model.logits(ids[:, :-1])
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
    return losses.mean()


gradients = jax.jit(jax.grad(loss))(model, jax.numpy.asarray(rows))
optimizer = optax.adamw(1e-3)
updates, _ = optimizer.update(gradients, optimizer.init(model), model)
updated: jaxgpt.GPT = optax.apply_updates(model, updates)

step, state = jaxgpt.compiled_step(updated, train={"steps": 2, "batch_size": 4})
for _ in range(2):
    state, metrics = step(state, rows)
trained: jaxgpt.GPT = jaxgpt.assemble(config, state.params)
jaxgpt.save(folder / "model", trained)
loaded = jaxgpt.load(folder / "model", jaxgpt.GPT)

pieces = [piece.tolist() for piece in jaxgpt.generate(loaded, [1, 2], max_new_tokens=3, top_k=2)]
logprobs = jaxgpt.score(loaded, [[1, 2, 3]])
inside = jaxgpt.look(loaded, [[1, 2, 3]])
print(float(metrics.loss), len(pieces), logprobs.shape, inside.logits.shape)

decoder = dataclasses.replace(config, cross_attention=True)
pair = jaxgpt.Seq2Seq(config, decoder)
pair_step, pair_state = jaxgpt.compiled_step(pair, train={"steps": 2, "batch_size": 4})
pair_state, metrics = pair_step(pair_state, source=rows[:, :8], ids=rows)
jaxgpt.save(folder / "pair", jaxgpt.assemble(pair.config, pair_state.params))
either = jaxgpt.load(folder / "pair")  # a GPT or a Seq2Seq, as the directory has it
if isinstance(either, jaxgpt.Seq2Seq):
    seen = jaxgpt.look(either, [[1, 2, 3]], [[4, 5, 6, 7]])
    given_source = jaxgpt.score(either, [[1, 2, 3]], [[4, 5, 6, 7]])
    written = [*jaxgpt.translate(either, [[4, 5]], start=1, end=2, top_k=2)]
    print(len(written), given_source.shape, seen.cross_attention.shape)

if TYPE_CHECKING:  # what a type checker refuses, since no result is Any
    jaxgpt.generate(loaded, [1], top_kk=2)  # type: ignore[call-arg]
    jaxgpt.generate(pair, [1])  # type: ignore[arg-type]
    jaxgpt.translate(pair, [[1]], start=1, end=2, stop_ids=[3])  # type: ignore[call-arg]
    jaxgpt.score(pair, [[1]])  # type: ignore[call-overload]
    print(jaxgpt.look(loaded, [[1]]).cross_attention.shape)  # type: ignore[union-attr]
    step(state, rows, rows)  # type: ignore[call-arg]
    loaded = jaxgpt.load(folder)  # type: ignore[assignment]
    loaded = jaxgpt.load(folder, jaxgpt.Seq2Seq)  # type: ignore[assignment]
    print(convert.to_flax(weights).config.vocabulary)  # type: ignore[union-attr]
    print(convert.verify(weights, folder).verdict.proven)  # type: ignore[union-attr]

converted = convert.to_flax(weights)
if isinstance(converted.model, jaxgpt.GPT):
    print(converted.model([[1, 2]]).shape, converted.report.assumed)
state_dict = convert.to_torch(converted.params, converted.config, dialect=converted.dialect)
converted.save(folder / "converted")
verification = convert.verify(weights, folder / "converted")
print(verification.verdict, verification.first_difference, len(state_dict))
try:
    jaxgpt.load(folder / "nothing")
except jaxgpt.UserError as error:
    print(error)
