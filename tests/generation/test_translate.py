"""Greedy texts for sources are the model's own, whatever the batch, its padding and the devices."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.generation import programs
from jaxgpt.generation.beam import Beams, search
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.translate import BATCH, encode, padded
from jaxgpt.model import Seq2Seq
from tests.helpers import EIGHT, ROOT, random_model, random_pair

START, END = 7, 40


def make_pair() -> Seq2Seq:
    """A model whose texts depend on their sources: with biases it repeats one id."""
    return random_pair("float64", head_bias=False, norm_bias=False)


@pytest.fixture(scope="module")
def pair() -> Seq2Seq:
    return make_pair()


def sources(count: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(61, size=1 + i * 5 % 13).tolist() for i in range(count)]


def uncached(pair: Seq2Seq, source: list[int], end: int = END) -> list[int]:
    """The greedy text by the whole model, one source, padded, and one token at a time."""
    source_bs, mask_bs = np.zeros((1, 13), int), np.arange(13)[None] < len(source)
    source_bs[mask_bs] = source
    ids = [START]
    while len(ids) <= pair.config.decoder.context_length:
        padded_ids = np.zeros((1, pair.config.decoder.context_length), int)
        padded_ids[0, : len(ids)] = ids
        logits = pair(source_bs, padded_ids, mask_bs)
        ids.append(int(np.argmax(logits[0, len(ids) - 1])))
        if ids[-1] == end:
            return ids[1:-1]
    return ids[1:]


def test_greedy_texts_are_those_of_the_model_without_a_cache(pair: Seq2Seq) -> None:
    every = sources(5)
    free = [uncached(pair, source) for source in every]
    end = free[0][4]  # an id with which some text ends early
    expected = [uncached(pair, source, end) for source in every]
    assert len({*map(tuple, expected)}) > 2
    assert len({len(text) for text in expected}) > 1
    assert [*jaxgpt.translate(pair, every, start=START, end=end)] == expected
    with_one_beam = jaxgpt.translate(pair, every, start=START, end=end, beams=1)
    assert [*with_one_beam] == expected
    memory = encode(pair, *padded(every, 13))
    options = SampleOptions(max_new_tokens=17, temperature=0, stop_ids=[end])
    texts = search(pair.decoder, [[START]] * 5, options, Beams(1), *memory)
    assert [
        text.ids[: text.ids.index(end)] if end in text.ids else text.ids for text in texts
    ] == expected


def test_batches_change_no_text(pair: Seq2Seq) -> None:
    every = sources(BATCH + 3)
    options = {"start": START, "end": END, "max_new_tokens": 6}
    together = [*jaxgpt.translate(pair, every, **options)]
    assert together[:3] == [
        *jaxgpt.translate(pair, every[:3], start=START, end=END, max_new_tokens=6)
    ]
    assert together[-3:] == [
        *jaxgpt.translate(pair, every[-3:], start=START, end=END, max_new_tokens=6)
    ]
    assert all(len(text) <= 6 for text in together)


def test_all_beams_find_the_most_likely_text_for_a_source() -> None:
    model = random_pair("float64", vocab_size=3, context_length=4, num_blocks=1)
    source = [5, 6, 7]
    (found,) = jaxgpt.translate(
        model, [source], start=0, end=2, beams=27, length_penalty=0.0, max_new_tokens=3,
        allowed=[True, True, False],
    )  # fmt: skip
    likeliest = max(
        ([a, b, c] for a in range(2) for b in range(2) for c in range(2)),
        key=lambda text: logprob(model, source, text),
    )
    assert found == likeliest


def logprob(model: Seq2Seq, source: list[int], text: list[int]) -> float:
    logits = np.asarray(model(np.array([source]), np.array([[0, *text[:-1]]])))[0]
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return float(logp[np.arange(len(text)), text].sum())


def test_a_target_is_scored_given_its_source() -> None:
    model = random_pair("float64")
    scored = jaxgpt.score(model, [[0, 1, 2, 1]], [[5, 6, 7, 9]], [[True, True, True, False]])
    assert scored.shape == (1, 3)
    assert scored.sum() == pytest.approx(logprob(model, [5, 6, 7], [1, 2, 1]), rel=1e-10)
    with pytest.raises(UserError, match="reads a source"):
        jaxgpt.score(model, [[0, 1]])  # type: ignore[call-overload]
    with pytest.raises(UserError, match="no encoder to read a source"):
        jaxgpt.score(random_model(), [[0, 1]], [[5]])  # type: ignore[call-overload]


def test_sampled_texts_depend_on_the_seed_and_the_source_alone(pair: Seq2Seq) -> None:
    kwargs: dict[str, Any] = {"start": START, "end": END, "temperature": 1.0, "samples": 2}
    one, again, other = (
        [*jaxgpt.translate(pair, sources(3), seed=seed, **kwargs)] for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len(one) == 6
    assert one[0] != one[1]


def test_a_decoder_generates_with_an_external_memory(pair: Seq2Seq) -> None:
    every = sources(3)
    memory, mask = encode(pair, *padded(every, 13))
    pieces = jaxgpt.generate(
        pair.decoder, [[START]] * 3, 17, temperature=0, memory=memory, memory_mask=mask
    )
    ids = np.concatenate([*pieces], axis=1)
    assert [row.tolist() for row in ids] == [uncached(pair, source, -1) for source in every]
    # Past the context the window moves, as for any decoder.
    longer = jaxgpt.generate(pair.decoder, [START], 25, memory=memory[:1], memory_mask=mask[:1])
    assert len(np.concatenate([*longer])) == 25
    with pytest.raises(UserError, match="This model attends to a memory"):
        jaxgpt.generate(pair.decoder, [START], 5)
    with pytest.raises(UserError, match="must have the shape .1, length, 35., but has .3, "):
        jaxgpt.generate(pair.decoder, [START], 5, memory=memory)


def test_nothing_of_the_memory_is_copied_in_the_loop(pair: Seq2Seq) -> None:
    """Neither a copy in the compiled program nor a donated buffer does so."""
    keys: list[Any] = []

    def spy(weights: Any, rows: Any, kv_cache: Any, conditions: Any, *rest: Any) -> Any:
        shards = [
            shard for x in jax.tree.leaves(conditions.cross) for shard in x.addressable_shards
        ]
        keys.append([shard.data.unsafe_buffer_pointer() for shard in shards])
        return real(weights, rows, kv_cache, conditions, *rest)

    real, programs.cached_steps = programs.cached_steps, spy  # type: ignore[assignment]
    try:
        [*jaxgpt.translate(pair, sources(2), start=START, end=END)]
    finally:
        programs.cached_steps = real
    assert len(keys) > 2
    assert all(each == keys[0] for each in keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": [[1], []]}, "Source 2 is empty"),
        ({"sources": [[1] * 14]}, "Source 1 has 14 tokens, but the encoder reads at most 13"),
        ({"sources": [1, 2]}, "Sources are lists of ids, but source 1 is 1"),
        ({"sources": [[61]]}, "outside the vocabulary of 61"),
        ({"start": 103}, "start is 103, which is not an id of the decoder"),
        ({"beams": 2, "temperature": 0.5}, "temperature must be 0 with beams"),
        ({"beams": 0}, "beams must be positive"),
    ],
)
def test_invalid_input_is_refused(pair: Seq2Seq, arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        [*jaxgpt.translate(pair, **{"sources": [[1]], "start": START, "end": END, **arguments})]


def test_devices_that_share_the_rows_change_no_text(pair: Seq2Seq) -> None:
    code = (
        "import json, jaxgpt; from tests.generation.test_translate import *; "
        "pair = make_pair(); call = lambda **o: "
        "[*jaxgpt.translate(pair, sources(6), start=START, end=END, **o)]; "
        "print(json.dumps([call(), call(beams=3)]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **EIGHT, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    here = [[*jaxgpt.translate(pair, sources(6), start=START, end=END, beams=n)] for n in (1, 3)]
    assert json.loads(done.stdout) == here
