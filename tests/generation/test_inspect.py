import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.generation import inspect, inspect_pair
from jaxgpt.generation.attention_map import map_table
from jaxgpt.model import cache
from jaxgpt.storage import plots
from tests.helpers import CONFIGS, random_model, random_pair
from tests.model.test_cache import ACROSS

# Every scale and rule of the scores, every place of a norm, and every kind of position.
RULES = [*ACROSS, "llama", "neox", "bloom, one norm", "norms without weights"]


@pytest.mark.parametrize("name", RULES)
def test_attention_weights_are_those_the_model_uses(name: str) -> None:
    """Each row sums to 1 and sees no later token; the log-probabilities are those of the model's logits."""
    gpt = random_model("float64", **CONFIGS[name])
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    weights, logprobs = inspect.inside(gpt, ids)
    assert weights.shape == (3, gpt.config.num_heads, 8, 8)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert not np.triu(weights, k=1).any()
    logits = np.asarray(gpt(np.array([ids])))[0]
    np.testing.assert_allclose(
        logprobs, logits - np.log(np.exp(logits).sum(-1, keepdims=True)), atol=1e-10
    )


def test_weights_of_one_head_by_hand() -> None:
    gpt = random_model("float64")
    block = gpt.unstacked()[0]
    ids = np.array([[3, 1, 4]])
    with jaxgpt.model.exactly(gpt.dtype):
        q, k, _ = block.attn.project(block.norm1(gpt.embed(ids)), 0, jnp.arange(3))
    scores = np.asarray(q)[0, 2, 1, 0] @ np.asarray(k)[0, :, 1].T / 7**0.5
    weights, _ = inspect.inside(gpt, ids[0].tolist())
    np.testing.assert_allclose(weights[0, 1, 2], np.exp(scores) / np.exp(scores).sum(), rtol=1e-10)


def test_the_command_shows_tables_and_writes_a_picture(
    model: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    outcome = command(
        "jaxgpt", "look", model, "--text", "abc a".replace(" ", "h"), "--out", tmp_path / "a.png"
    )
    assert outcome.code == 0, outcome
    assert "layer 1, mean of all heads, in hundredths" in outcome.out
    assert "most likely others" in outcome.out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "There is no layer 2: they are 0 to 1." in refused(
        "jaxgpt", "look", model, "--text", "ab", "--layer", "2"
    )
    assert "The text has 17 tokens, and the model sees 16" in refused(
        "jaxgpt", "look", model, "--text", "a" * 17
    )
    assert "There is no text" in refused("jaxgpt", "look", model, "--text", "")
    assert "does not end like a picture: ." in refused(
        "jaxgpt", "look", model, "--text", "a", "--out", "a.xyz"
    )
    assert "--top must not be negative" in refused(
        "jaxgpt", "look", model, "--text", "ab", "--top", "-1"
    )
    assert "does not know: 'Z'" in refused("jaxgpt", "look", model, "--text", "aZ")
    assert command("jaxgpt", "look", model, "--text", "aZ", "--errors", "skip").code == 0


def test_non_finite_weights_are_reported() -> None:
    gpt = random_model("float32", num_blocks=1)
    gpt.pos_embedding.embedding.set_value(gpt.pos_embedding.embedding[...].at[1].set(np.nan))
    with pytest.raises(UserError, match="its weights are damaged"):
        inspect.inside(gpt, [1, 2])


def test_tokens_are_shown_verbatim(tmp_path: Path) -> None:
    """Neither rich nor matplotlib interprets them as markup."""
    names = ["[/b]", "[red]", "$^$", ":smile:"]
    seen = inspect.Seen(
        [0, 1, 2, 3], names, np.full((1, 1, 4, 4), 0.25), np.log(np.full((4, 4), 0.25))
    )
    for table in (map_table(inspect.map_of(seen), 0, None, 80), inspect.token_table(seen, 4)):
        assert all(name in shown(table, 80) for name in names)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plots.draw_attention(seen.weights_lnts, names, tmp_path / "a.png")


def shown(table: Any, width: int) -> str:
    page = Console(width=width, file=io.StringIO())
    page.print(table)
    return page.file.getvalue()  # type: ignore[attr-defined]


def test_tables_say_what_they_show() -> None:
    weights = np.tril(np.ones((1, 2, 3, 3))) / np.arange(1, 4)[:, None]
    weights[0, 1, 2] = [1, 0, 0]
    logprobs = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]]))
    seen = inspect.Seen([0, 1, 2], ["M", "y", "␣"], weights, logprobs)
    rows = [
        line.split()
        for line in shown(map_table(inspect.map_of(seen), 0, None, 80), 80).splitlines()
    ]
    assert rows[1:] == [["M", "y", "␣"], ["M", "100"], ["y", "50", "50"], ["␣", "67", "17", "17"]]
    one = shown(map_table(inspect.map_of(seen), -1, 1, 80), 80)
    assert "head 1" in one
    assert ["␣", "100", "0", "0"] in [line.split() for line in one.splitlines()]
    narrow = shown(map_table(inspect.map_of(seen), 0, None, 8), 80).splitlines()
    assert narrow[1:2] == ["The last 1 of 3 tokens: a pipe, or a picture (--out), shows all."]
    assert [line.split() for line in narrow[2:]] == [["\N{OPEN BOX}"], ["\N{OPEN BOX}", "17"]]
    tokens = [line.split() for line in shown(inspect.token_table(seen, 2), 80).splitlines()]
    assert tokens[2] == ["y", "0.3000", "2", "M", "0.50"]
    assert tokens[3][:3] == ["␣", "0.8000", "1"]
    with pytest.raises(UserError, match="There is no head 2: they are 0 to 1"):
        map_table(inspect.map_of(seen), 0, 2, 80)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_column_is_dropped_silently(width: int) -> None:
    """Not even if shares of 100 and wide characters make columns wider."""
    length = 81
    names = [f"{i:02}" if i % 3 else "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 2 for i in range(length)]
    weights = np.broadcast_to(np.eye(length), (1, 1, length, length))
    seen = inspect.Seen([*range(length)], names, weights, np.zeros((length, length)))
    rows = shown(map_table(inspect.map_of(seen), 0, None, width), width).splitlines()
    assert all(cell_len(row) <= width for row in rows)
    (count,) = [int(row.split()[2]) for row in rows if "of 81 tokens" in row]
    table = rows[-count - 1 :]
    assert table[0].split() == names[-count:]
    assert [row.split()[-1] for row in table[1:]] == ["100"] * count
    everything = shown(map_table(inspect.map_of(seen), 0, None), 1000).splitlines()
    assert everything[1].split() == names
    assert len(everything) == 2 + length


def test_a_pipe_gets_all_columns(
    model: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxgpt.generation.inspect.visible_text", lambda token: token * 20)
    outcome = command("jaxgpt", "look", model, "--text", "abcabcabcabcabca")
    assert outcome.out.splitlines()[1].split() == [letter * 20 for letter in "abcabcabcabcabca"]


@pytest.mark.parametrize("name", ACROSS)
def test_cross_attention_weights_are_those_the_model_uses(name: str) -> None:
    """Each row of weights sums to 1; log-probabilities are the model's."""
    pair = random_pair("float64", **CONFIGS[name])
    source, tokens = [3, 1, 4, 1, 5], [9, 2, 6]
    encoder, decoder, across, logprobs = inspect_pair.inside_pair(pair, source, tokens)
    heads = pair.config.decoder.num_heads
    shapes = (2, 5, 5, 5), (3, heads, 3, 3), (3, heads, 3, 5), (3, 103)
    assert (encoder.shape, decoder.shape, across.shape, logprobs.shape) == shapes
    for weights in (encoder, decoder, across):
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert encoder.min() > 0
    assert not np.triu(decoder, k=1).any()
    logits = np.asarray(pair(np.array([source]), np.array([tokens])))[0]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(logprobs, expected, atol=1e-10)
    mixed = values_mixed_by(across, pair, source, tokens)
    np.testing.assert_allclose(*mixed, rtol=0, atol=1e-12 * abs(mixed[1]).max())


def values_mixed_by(
    across: np.ndarray, pair: Any, source: list[int], tokens: list[int]
) -> tuple[Any, Any]:
    """The first layer's cross-attention with the weights `across`, and as the model computes it."""
    mask = jnp.ones((1, len(source)), bool)

    @jax.jit
    def both(pair: Any, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        block, computed = pair.decoder.unstacked()[0], []
        real = type(block.cross_attn).across

        def watched(attention: Any, *parts: Any) -> Any:
            computed.append(real(attention, *parts))
            return computed[-1]

        memory_bsd = pair.encode(jnp.asarray([source]), mask)
        memory = cache.remember(pair.decoder, memory_bsd, mask).memory(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(block.cross_attn), "across", watched)
            block(pair.decoder.embed(jnp.asarray([tokens])), 0, jnp.arange(3), memory=memory)
        weights = weights.reshape(1, memory.values_bsmh.shape[2], -1, *weights.shape[1:])
        mixed_btmgh = jnp.einsum("bmgts,bsmh->btmgh", weights, memory.values_bsmh)
        return block.cross_attn._joined(mixed_btmgh), computed[0][0]

    with jaxgpt.model.exactly(pair.dtype):
        mine, real = both(pair, jnp.asarray(across[0]))
    return np.asarray(mine), np.asarray(real)


def test_the_command_shows_an_encoder_decoder_and_draws_the_alignment(
    pair: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    look, picture = ("jaxgpt", "look", pair, "--source", "abc"), tmp_path / "a.png"
    outcome = command(*look, "--text", "ba", "--layer", "0", "--out", picture)
    assert outcome.code == 0, outcome
    lines = [line.split() for line in outcome.out.splitlines()]
    titles = [i for i, line in enumerate(lines) if line[-2:] == ["in", "hundredths"]]
    assert [" ".join(lines[i][:3]) for i in titles] == [
        "encoder, layer 0,",
        "decoder, layer 0,",
        "from text to",
    ]
    encoder, decoder, across = (lines[i + 1 : i + 5] for i in titles)
    assert [row[0] for row in encoder[1:]] == encoder[0] == ["a", "b", "c"]
    assert [row[0] for row in decoder[1:]] == decoder[0] == ["[start]", "b", "a"]
    assert [len(row) for row in decoder[1:]] == [2, 3, 4]
    assert across[0] == ["a", "b", "c"]
    assert [row[0] for row in across[1:]] == ["b", "a", "[end]"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    its_own = command("jaxgpt", "sample", pair, "--source", "abc").out.strip()
    shown_text = command(*look).out.split("most likely others")[1].splitlines()[2:]
    assert [line.split()[0] for line in shown_text if line][: len(its_own)] == [*its_own]
    assert "The text has 16 tokens, and the decoder sees 16 at a time" in refused(
        *look, "--text", "a" * 16
    )
    assert "needs a source to read" in refused("jaxgpt", "look", pair, "--text", "a")
    assert "is a decoder that attends to a memory" in refused(
        "jaxgpt", "look", pair.with_name("alone"), "--text", "1"
    )


def test_look_returns_what_the_model_computes_for_every_row() -> None:
    gpt = random_model("float64")
    ids = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])
    inside = jaxgpt.look(gpt, ids)
    with jaxgpt.model.exactly(gpt.dtype):
        states = gpt.states(jnp.asarray(ids))
    np.testing.assert_allclose(inside.logits, gpt(ids), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inside.hidden_states[0], states.embedding, rtol=1e-12)
    np.testing.assert_allclose(inside.hidden_states[1:], states.blocks, rtol=1e-10, atol=1e-12)
    for row in (0, 1):
        weights, _ = inspect.inside(gpt, ids[row].tolist())
        np.testing.assert_allclose(inside.attention[:, row], weights, rtol=1e-10, atol=1e-14)
    assert inside.encoder_attention is None


def test_look_accepts_an_empty_batch() -> None:
    inside = jaxgpt.look(random_model("float32"), np.zeros((0, 3), int))
    assert [len(inside.logits), inside.attention.shape[1]] == [0, 0]


def test_look_into_an_encoder_decoder_hides_padding() -> None:
    pair = random_pair("float64")
    source, ids = np.array([[3, 1, 4, 0], [5, 9, 2, 6]]), np.array([[7, 8, 1], [2, 3, 1]])
    mask = np.array([[True, True, True, False], [True] * 4])
    inside = jaxgpt.look(pair, ids, source, mask)
    np.testing.assert_allclose(inside.logits, pair(source, ids, mask), rtol=1e-10, atol=1e-12)
    with jaxgpt.model.exactly(pair.dtype):
        memory = pair.encode(jnp.asarray(source), jnp.asarray(mask))
        last = pair.encoder.normalise(jnp.asarray(inside.encoder_hidden_states[-1]))
    np.testing.assert_allclose(last, memory, rtol=1e-10, atol=1e-12)
    assert (inside.cross_attention[:, 0, :, :, 3] == 0).all()
    assert (inside.encoder_attention[:, 0, :, :, 3] == 0).all()
    assert (inside.cross_attention[:, 1, :, :, 3] > 0).all()
    with pytest.raises(UserError, match="reads a source"):
        jaxgpt.look(pair, ids)
    with pytest.raises(UserError, match="no encoder to read a source"):
        jaxgpt.look(pair.decoder, ids, source)
    with pytest.raises(UserError, match="attends to a memory"):
        jaxgpt.look(pair.decoder, ids)
    with pytest.raises(UserError, match="outside the vocabulary"):
        jaxgpt.look(random_model("float32"), [[1, 1000]])
