"""Generated text equals the torch reference's; streaming, batches and stops do not change it."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.generation import programs, reading
from jaxgpt.generation import stream as streaming
from jaxgpt.generation.batch import Request, make_batch
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.weights import Weights
from jaxgpt.model import GPT, exactly
from jaxgpt.model.extend import Text
from tests.helpers import EIGHT, LYRIC_SIZES, PRIMES, PROGRAMS, ROOT, random_model

CONTEXT = PRIMES["context_length"]


@pytest.fixture(scope="module")
def model() -> GPT:
    """A model of one block: nothing here depends on their number, but compiling takes longer."""
    return random_model("float32", num_blocks=1)


def text(*arguments: Any, **options: Any) -> np.ndarray:
    return np.concatenate(list(jaxgpt.generate(*arguments, **options)), axis=-1)


def greedy_as_torch(
    sizes: dict[str, int], make_reference: Any, folder: Path, prompts: list[list[int]], tokens: int
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert import to_flax
    from convert.reference import generate

    module = make_reference(sizes, seed=1)
    with torch.no_grad():  # one token leads to another, else the text soon repeats one
        others = torch.randperm(sizes["vocab_size"])
        module.token_embedding.weight *= 1.5 * sizes["model_dim"] ** 0.5
        module.vocab_projection.weight.copy_(
            module.token_embedding.weight[others] / sizes["model_dim"] ** 0.5
        )
    names = [chr(256 + i) for i in range(sizes["vocab_size"])]
    torch.save(module.state_dict(), folder / "weights.pt")
    loaded = to_flax(folder / "weights.pt", num_heads=sizes["num_heads"])
    for prompt in prompts:
        theirs = generate(
            module, tokens, torch.tensor([prompt]), sizes["context_length"], names, greedy=True
        )
        ours = text(loaded.model, prompt, tokens, temperature=0)
        assert "".join(names[i] for i in ours) == theirs
        assert len({*ours.tolist()}) > 2, ours


def test_greedy_text_is_torchs_while_the_window_slides(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    greedy_as_torch(
        PRIMES, make_reference, tmp_path, [[0], [5, 7, 11], [*range(17)], [*range(40)]], 100
    )


@pytest.mark.slow
def test_greedy_text_is_torchs_at_the_released_sizes(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    starts = [[0], [29, 59], [*range(20, 60)], [*range(100)], [*range(104), *range(50)]]
    greedy_as_torch(LYRIC_SIZES, make_reference, tmp_path, starts, 500)


def test_a_row_is_the_same_alone_and_in_a_batch(model: GPT) -> None:
    """Until the longest of them is full, rows of different lengths are at different positions."""
    prompts = [[1, 2, 3], [4, 5, 6, 7]]
    together = text(model, prompts, 40, temperature=0)
    assert together.shape == (2, 40)
    for row, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(row, text(model, prompt, 40, temperature=0))


def texts_of_some_kinds() -> list[list[int]]:
    """Texts of one row, of three rows of which one is full, and of four short rows."""
    model, full = random_model("float64", num_blocks=1), [*range(CONTEXT)]
    every = [
        text(model, full, 40, temperature=0),
        text(model, full, 21, seed=3),
        text(model, [full[1:], full[:2], full], 40, temperature=0),
        text(model, [[1, 2], [3], [4, 5, 6, 7], [8]], 40, seed=5, stop_ids=[7]),
    ]
    return [row.tolist() for rows in every for row in np.atleast_2d(rows)]


def test_devices_that_share_the_work_change_no_text() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAMS / "share_generation.py")],
        capture_output=True,
        text=True,
        env={**os.environ, **EIGHT, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout)
    assert printed["offsets"] == [0] * 8  # one memory, read by all
    # Groups, and devices in each: to read the prompts, with a cache, past the window. Where a
    # prompt is full, there is a window for the first token already.
    one, three, four = [[1, 8]], [[3, 2]], [[4, 1], [4, 1], [4, 2]]
    assert printed["meshes"] == [*one, *three, *four]
    assert printed["texts"] == texts_of_some_kinds()


def test_a_short_text_gets_a_small_cache_and_stays_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, steps = random_model("float64", num_blocks=2, window=[None, 6]), programs.cached_steps
    slots: list[list[int]] = []

    def noted(weights: Any, rows: Any, kv_cache: Any, *arguments: Any) -> Any:
        slots.append([keys.shape[2] for keys in kv_cache.keys_bmsh])
        return steps(weights, rows, kv_cache, *arguments)

    prompts = [[1, 2, 3], [4]]
    whole = text(model, prompts, 12, seed=3)
    monkeypatch.setattr(programs, "cached_steps", noted)
    monkeypatch.setattr("jaxgpt.generation.prompt.FEWEST_SLOTS", 4)
    for tokens, expected in ((2, 4), (3, 8), (6, 8), (7, 16), (60, CONTEXT)):
        slots.clear()
        new = text(model, prompts, tokens, seed=3)
        assert slots
        assert all(each == [expected, min(expected, 6)] for each in slots)
        shorter = min(tokens, 12)
        np.testing.assert_array_equal(new[:, :shorter], whole[:, :shorter])


def test_prompts_read_in_pieces_with_a_shared_prefix_give_the_same_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, start = random_model("float64", num_blocks=1), [*range(11)]
    kinds = {
        "long": [*range(CONTEXT - 2)],
        "alike": [start, start, start],
        "beginning": [[*start, 5], [*start, 6, 7, 8, 9, 10], start],
        "apart": [[1, *start], [2, *start]],
    }
    whole = {name: text(model, prompt, 8, seed=3) for name, prompt in kinds.items()}
    read: list[tuple[int, ...]] = []

    def noted(name: str) -> None:
        program = getattr(programs, name)

        def called(*arguments: Any) -> Any:
            read.extend(part.tokens_bt.shape for part in arguments if isinstance(part, Text))
            return program(*arguments)

        monkeypatch.setattr(programs, name, called)

    monkeypatch.setattr(reading, "PIECE_POSITIONS", 4)
    noted("read")
    noted("read_on")
    for name, prompt in kinds.items():
        np.testing.assert_array_equal(text(model, prompt, 8, seed=3), whole[name])
    prefix = [(1, 4), (1, 4), (1, 2)]  # ten tokens of one row
    long, apart = [*prefix[:2], *prefix[1:]], [(2, 4)] * 3
    assert read == [*long, *prefix, *prefix, (3, 4), (3, 1), *apart]


def test_the_seed_determines_the_texts_and_samples_differ(model: GPT) -> None:
    one, again, other = (text(model, [1, 2], 30, seed=seed, samples=3) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({tuple(row) for row in one}) == 3
    assert text(model, [1, 2], 30, seed=2**32 - 1).shape == (30,)


def test_pieces_arrive_as_computed_and_the_text_does_not_depend_on_its_length(model: GPT) -> None:
    pieces = [len(piece) for piece in jaxgpt.generate(model, [3], 100, seed=1)]
    assert pieces[0] == 1
    assert max(pieces) <= streaming.PIECE_TOKENS
    assert sum(pieces) == 100
    whole = text(model, [3], 100, seed=1)
    for tokens in (1, 2, 23, 50):
        np.testing.assert_array_equal(text(model, [3], tokens, seed=1), whole[:tokens])


def test_no_piece_waits_for_a_program_that_may_need_compiling(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def noted(name: str) -> None:
        program = getattr(programs, name)
        monkeypatch.setattr(
            programs, name, lambda *arguments: begun.append(name) or program(*arguments)
        )

    noted("window_moves")
    pieces, done = jaxgpt.generate(model, [*range(10)], 20), 0
    for piece in pieces:
        done += len(piece)
        if done == CONTEXT + 1 - 10:  # the last that sees the whole text
            assert "window_moves" not in begun
    assert done == 20
    assert begun[-1] == "window_moves"


def test_nothing_is_recompiled_for_another_prompt_or_temperature(model: GPT) -> None:
    text(model, [1, 2, 3, 4, 5, 6], 30)
    before = [
        program._cache_size()
        for program in (programs.read, programs.cached_steps, programs.window_moves)
    ]
    text(model, [*range(8)], 33, temperature=0.3, top_k=5, top_p=0.9, min_p=0.1, seed=4)
    text(model, [*range(7)], 2, temperature=0)
    assert before == [
        program._cache_size()
        for program in (programs.read, programs.cached_steps, programs.window_moves)
    ]


def test_padded_ids_are_never_chosen(model: GPT) -> None:
    allowed = np.arange(PRIMES["vocab_size"]) < 3
    assert set(text(model, [1], 60, temperature=5.0, allowed=allowed).tolist()) == {0, 1, 2}


def test_a_row_ends_after_a_stop_and_at_a_full_context(model: GPT) -> None:
    free = text(model, [[1], [2]], 60, seed=3)
    stop = int(free[0, 5])
    ended = text(model, [[1], [2]], 60, seed=3, stop_ids=[stop])
    for row, whole in zip(ended, free, strict=True):
        length = next((i + 1 for i, token in enumerate(whole) if token == stop), 60)
        np.testing.assert_array_equal(row[:length], whole[: min(length, ended.shape[1])])
        assert (row[length:] == streaming.NOTHING).all()
    full = text(model, [[1], [*range(10)]], 60, seed=3, on_full="stop")
    unlimited = text(model, [[1], [*range(10)]], 60, seed=3)
    for row, length, whole in zip(full, (CONTEXT, CONTEXT - 9), unlimited, strict=True):
        assert (row != streaming.NOTHING).sum() == length
        np.testing.assert_array_equal(row[:length], whole[:length])
    assert len(text(model, [1], 3, on_full="stop")) == 3


MODERN = {
    "rotary": {"positions": "rotary", "num_kv_heads": 1, "window": [7, None]},
    "alibi": {"positions": "alibi", "num_kv_heads": 1, "window": 7},
    "none": {"positions": "none", "qk_norm": "before_rotary"},
}


@pytest.mark.parametrize("positions", MODERN)
def test_the_context_may_exceed_the_trained_one(positions: str) -> None:
    """Greedy text follows from the last 29 tokens, with positions from 0 in each window."""
    fields = {"head_dim": 8, "num_blocks": 2, "mlp_gated": True, "norm_kind": "rms"}
    gpt, context = random_model("float64", **fields, **MODERN[positions]), 29
    assert gpt.config.context_length < context
    logits_of = jax.jit(lambda tokens: gpt.logits(tokens))

    def by_hand(row: list[int], tokens: int) -> list[int]:
        for _ in range(tokens):
            seen = row[-context:]
            padded = np.array([seen + [0] * (context - len(seen))], np.int32)
            row = [*row, int(logits_of(padded)[0, len(seen) - 1].argmax())]
        return row[-tokens:]

    prompts = [[1, 2, 3], [*range(20)]]
    slid, stopped = (
        text(gpt, prompts, 35, temperature=0, context=context, on_full=on_full).tolist()
        for on_full in ("slide", "stop")
    )
    with exactly(gpt.dtype):
        assert slid == [by_hand(prompt, 35) for prompt in prompts]
    for row, whole, prompt in zip(stopped, slid, prompts, strict=True):
        tokens = min(35, context + 1 - len(prompt))
        assert row[:tokens] == whole[:tokens]
        assert row[tokens:] == [streaming.NOTHING] * (len(row) - tokens)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_position_table_limits_the_context(positions: str) -> None:
    gpt = random_model("float32", num_blocks=1, positions=positions)
    message = f"context is 18, but the model's {positions} positions are a table of 17"
    with pytest.raises(UserError, match=message):
        jaxgpt.generate(gpt, [1], context=18)


def test_the_context_may_be_shorter_than_the_trained_one(model: GPT) -> None:
    short = text(model, [*range(12)], 20, temperature=0, context=5)
    np.testing.assert_array_equal(short, text(model, [*range(7, 12)], 20, temperature=0, context=5))
    assert (short != text(model, [*range(12)], 20, temperature=0)).any()


def test_logprobs_are_the_models_own(model: GPT) -> None:
    prompt, new = [3, 1, 4], 9
    pieces = list(streaming.stream(model, prompt, SampleOptions(new, temperature=0.7, top_k=40)))
    ids, logprobs = (np.concatenate([piece[i][0] for piece in pieces]) for i in (0, 1))
    whole = np.array([[*prompt, *ids]])
    scored = jaxgpt.score(model, whole)
    logits = np.asarray(model(whole), np.float64)[0]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    by_hand = expected[np.arange(len(whole[0]) - 1), whole[0, 1:]]
    np.testing.assert_allclose(scored[0], by_hand, atol=1e-5)
    np.testing.assert_allclose(logprobs, by_hand[len(prompt) - 1 :], atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logprobs_of_narrow_models_are_taken_in_float32(dtype: str) -> None:
    narrow, ids = random_model(dtype, num_blocks=1), [3, 1, 4, 1, 5]
    logits = np.asarray(narrow(np.array([ids])), np.float64)[0, :-1]
    expected = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(4), ids[1:]]
    np.testing.assert_allclose(jaxgpt.score(narrow, np.array([ids]))[0], expected, atol=1e-5)


def test_greedy_text_is_the_same_in_float64(model: GPT) -> None:
    ids = text(random_model("float64", num_blocks=1), [1, 2], 40, temperature=0)
    np.testing.assert_array_equal(ids, text(model, [1, 2], 40, temperature=0))


def test_non_finite_weights_are_an_error_and_yield_no_token(model: GPT) -> None:
    broken = random_model("float32", num_blocks=1)
    broken.pos_embedding.embedding.set_value(broken.pos_embedding.embedding[...].at[6].set(np.nan))
    with pytest.raises(
        UserError, match=r"At new token 6 the model's logits are not finite numbers"
    ):
        list(jaxgpt.generate(broken, [1, 2], 30, seed=5))
    whole = text(model, [1, 2], 4, seed=5)
    ended = text(broken, [1, 2], 30, seed=5, stop_ids=jnp.asarray(whole[3:]))
    np.testing.assert_array_equal(ended[:4], whole)  # what comes after the end is not looked at


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([103], {}, "A prompt must be ids from 0 to 102, but is [103]"),
        ([-1], {}, "must be ids"),
        ([0.5], {}, "must be ids"),
        (3, {}, "A prompt is a list of ids, or a list of such lists, but is 3"),
        ([1, [2, 3]], {}, "A prompt is a list of ids, or a list of such lists, but is [1, [2, 3]]"),
        (
            [[[1]]],
            {},
            "A prompt is a list of ids, or a list of such lists, but has a row of shape (1, 1)",
        ),
        ([1], {"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, but is 2.5"),
        ([1], {"seed": None}, "seed must be a whole number, but is None"),
        ([1], {"max_new_tokens": 0}, "number of new tokens must be positive, but is 0"),
        ([1], {"samples": 0}, "samples must be positive"),
        ([1], {"seed": 2**32}, "seed must lie in [0, 2**32)"),
        ([1], {"context": -1}, "context must not be negative, but is -1"),
        ([1], {"on_full": "halt"}, "on_full is slide or stop, but got 'halt'"),
        ([1], {"temperature": -0.1}, "temperature must be"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    prompt: Any, options: Any, message: str, model: GPT
) -> None:
    with pytest.raises(UserError) as refusal:
        jaxgpt.generate(model, prompt, **options)
    assert message in str(refusal.value)


def test_an_empty_prompt_is_id_0(model: GPT) -> None:
    np.testing.assert_array_equal(text(model, [], 20, seed=2), text(model, [0], 20, seed=2))


def test_the_signature_names_every_option() -> None:
    signature = str(inspect.signature(jaxgpt.generate))
    assert "max_new_tokens: int = 500, temperature: float = 1.0, *" in signature
    names = {field.name for field in dataclasses.fields(SampleOptions)}
    assert names <= inspect.signature(jaxgpt.generate).parameters.keys()


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="no field max_tokens. Did you mean max_new_tokens"):
        jaxgpt.generate(random_model(), [1], max_tokens=3)


def test_the_blocks_of_a_cpu_share_the_memory_of_their_model() -> None:
    model = GPT(jaxgpt.ModelConfig(11, 16, 32, 3, 2))
    whole = model.blocks.mlp.up.kernel[...]
    _, blocks = Weights.prepare(model, model.dtype).modules()
    parts = [block.mlp.up.kernel[...] for block in blocks]
    start = whole.unsafe_buffer_pointer()
    distances = [part.unsafe_buffer_pointer() - start for part in parts]
    assert distances == [layer * whole[0].nbytes for layer in range(3)]


def test_requests_in_one_batch_get_the_texts_they_get_alone(model: GPT) -> None:
    """Other lengths, seeds, temperatures and truncations in the batch change no text, nor do devices."""
    requests = [
        Request([[5, 6, 7]], SampleOptions(9, temperature=0, on_full="stop")),
        Request([[1], [2, 3]], SampleOptions(20, seed=7, samples=2, on_full="stop")),
        Request([[9] * 12], SampleOptions(20, 0.5, top_k=5, seed=8, on_full="stop")),
        Request([[8]], SampleOptions(3, 2.0, top_p=0.7, min_p=0.1, seed=7, on_full="stop")),
    ]
    weights = Weights.prepare(model, model.dtype)
    pieces = list(streaming.stream_batch(weights, make_batch(requests, model.config)))
    together = np.concatenate([piece.ids for piece in pieces], axis=1)
    first = 0
    for prompts, options in requests:
        alone = np.concatenate([p.ids for p in streaming.stream(model, prompts, options)], axis=1)
        rows = together[first : first + len(alone)]
        np.testing.assert_array_equal(rows[:, : alone.shape[1]], alone)
        assert (rows[:, alone.shape[1] :] == -1).all()
        first += len(alone)
    assert first == len(together) == 7
    # One row fills the context with its sixth token; the others go on with the cache.
    assert (together != -1).sum(axis=1).tolist() == [9, 17, 17, 16, 16, 6, 3]


def test_a_batch_has_one_context_and_one_set_of_stops(model: GPT) -> None:
    requests = [Request([[1]], SampleOptions(9, context=context)) for context in (3, 4)]
    with pytest.raises(UserError, match="together must have the same context"):
        make_batch(requests, model.config)
