"""Beam search: greedy with one beam, exhaustive with all, the same alone and in a batch."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.generation.beam import Beams, search
from jaxgpt.generation.beam_program import Best, Rules, Search, _can_win
from jaxgpt.generation.options import SampleOptions
from jaxgpt.model import GPT
from tests.helpers import random_model


def make_model(**fields: Any) -> GPT:
    """A model whose next token depends on all tokens before: with biases it repeats one id."""
    return random_model(
        "float64", **{"num_blocks": 2, "head_bias": False, "norm_bias": False, **fields}
    )


def options(tokens: int, **fields: Any) -> SampleOptions:
    return SampleOptions(max_new_tokens=tokens, temperature=0, **fields)


def logprobs(model: GPT, prompt: list[int], texts: list[list[int]]) -> np.ndarray:
    """The log-probability of each of `texts` after `prompt`, by the whole model."""
    longest = max(map(len, texts))
    padded = np.array([prompt + text + [0] * (longest - len(text)) for text in texts])
    logits = np.asarray(model(padded))[:, len(prompt) - 1 : -1]
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logp, padded[:, len(prompt) :, None], axis=-1)[..., 0]
    return np.where(np.arange(longest) < [[len(text)] for text in texts], chosen, 0).sum(axis=1)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
def test_with_all_beams_the_text_is_the_most_likely_of_all(penalty: float) -> None:
    """Texts of up to four ids of a vocabulary of four, of which id 3 ends one."""
    # With logits at full scale one text has nearly all the probability.
    model = make_model(vocab_size=4, context_length=8, logit_scale=0.3)
    texts = [
        [*start, last]
        for n in range(4)
        for start in itertools.product(range(3), repeat=n)
        for last in ([3] if n < 3 else range(4))
    ]
    lengths = np.array([*map(len, texts)])
    prompts = [[*ids] for ids in itertools.product(range(4), repeat=2)]
    results = search(model, prompts, options(4, stop_ids=[3]), Beams(256, penalty))
    for prompt, found in zip(prompts, results, strict=True):
        sums = logprobs(model, prompt, texts)
        scores = sums / lengths**penalty
        best = int(np.argmax(scores))
        assert found.ids == texts[best]
        assert math.isclose(found.score, scores[best], rel_tol=1e-12)
        assert math.isclose(found.logprob, sums[best], rel_tol=1e-12)


@pytest.mark.parametrize(
    ("penalty", "limit", "wins"),
    [(1.0, 4, True), (1.0, 2, False), (0.0, 4, False), (-1.0, 4, False), (-1.0, 1, True)],
)
def test_a_beam_can_win_until_no_length_helps_it(penalty: float, limit: int, wins: bool) -> None:
    """Two beams have -5 and -7 after one token; the score of the text that has ended is `ended`."""
    sums, ended = jnp.array([[-5.0, -7.0]]), -2.0 if penalty >= 0 else -6.0
    best = Best(jnp.zeros((1, 4), int), jnp.ones(1, int), jnp.full(1, ended), jnp.full(1, ended))
    state = Search(jnp.zeros((1, 2, 4), int), sums, jnp.array([1]), best, 1, jnp.ones(1, bool))  # type: ignore[arg-type]
    rules = Rules(np.float32(penalty), np.zeros(4, bool))
    assert bool(_can_win(state, jnp.array([limit]), rules)[0]) == wins


def test_one_beam_is_greedy() -> None:
    model = make_model()
    prompts = [[1, 2, 3], [4], [*range(10)], [*range(17)], []]
    chosen = options(40, stop_ids=[*range(0, 103, 9)], on_full="stop")
    greedy = np.concatenate([*jaxgpt.generate(model, prompts, **vars(chosen))], axis=1)
    texts = search(model, prompts, chosen, Beams(1, 1.7))
    for row, text in zip(greedy, texts, strict=True):
        assert text.ids == row[row >= 0].tolist()
    assert len({len(text.ids) for text in texts}) > 2  # some at a stop, some at the context's end


def test_beams_find_likelier_texts_than_greedy_search_and_no_forbidden_ids() -> None:
    model, allowed = make_model(), np.arange(103) % 5 > 0
    prompts, chosen = [[i] for i in range(12)], options(12, allowed=allowed)
    one, eight = (search(model, prompts, chosen, Beams(n, 0)) for n in (1, 8))
    gains = [wide.logprob - narrow.logprob for wide, narrow in zip(eight, one, strict=True)]
    assert np.median(gains) > 0.01
    for prompt, text in zip(prompts * 2, one + eight, strict=True):
        assert allowed[text.ids].all()
        assert len(text.ids) == 12
        assert math.isclose(text.logprob, logprobs(model, prompt, [text.ids])[0], rel_tol=1e-12)


def test_a_row_gets_the_same_text_alone_and_in_a_batch() -> None:
    model = make_model()
    prompts, chosen = [[1, 2, 3], [4], [*range(15)]], options(30, stop_ids=[*range(0, 103, 9)])
    together = search(model, prompts, chosen, Beams(3))
    for prompt, text in zip(prompts, together, strict=True):
        (alone,) = search(model, prompt, chosen, Beams(3))
        assert alone.ids == text.ids
        assert math.isclose(alone.score, text.score, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.5}, "temperature must be 0 with beams, but is 0.5"),
        ({"top_k": 3}, "top_k must be 0"),
        ({"top_p": 0.5}, "top_p must be 1"),
        ({"min_p": 0.5}, "min_p must be 0"),
        ({"samples": 2}, "samples must be 1"),
    ],
)
def test_sampling_options_are_refused(fields: Any, message: str) -> None:
    model = random_model("float32", num_blocks=1)
    with pytest.raises(UserError, match=message):
        search(model, [1], SampleOptions(**{"temperature": 0, **fields}), Beams(2))


def test_wrong_beams_and_non_finite_weights_are_refused() -> None:
    with pytest.raises(UserError, match="beams must be positive, but is 0"):
        Beams(0)
    with pytest.raises(UserError, match="length_penalty must be a number"):
        Beams(2, math.nan)
    model = random_model("float32", num_blocks=1)
    model.pos_embedding.embedding.set_value(model.pos_embedding.embedding[...].at[3].set(np.nan))
    with pytest.raises(UserError, match="its weights are damaged"):
        search(model, [1], options(5), Beams(2))
