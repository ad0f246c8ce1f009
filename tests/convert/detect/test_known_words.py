"""Tensors that `--dialect auto` tells by their words: rotary tables, slopes, norms of queries and
keys."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from tests.classes import general  # noqa: E402
from tests.convert.renaming.test_unusual_names import equal  # noqa: E402
from tests.convert.test_few_tensors import decoder  # noqa: E402

ANGLES = torch.arange(13)[:, None] * 1e4 ** (-torch.arange(3) / 3)
TABLES = {
    "freqs_cis": torch.polar(torch.ones_like(ANGLES), ANGLES),
    "rope_pairs.freqs_cis": torch.stack([ANGLES.cos(), ANGLES.sin()], -1),
    "turn.inv_freq": ANGLES[1],
    "turn.cos_cached": torch.cat([ANGLES, ANGLES], -1).cos()[None, None],
}


def auto(state: Any, **fields: Any) -> Any:
    return convert.to_flax(state, dialect="auto", context_length=13, **fields)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("place", ["", "blocks.{}.attn."])
def test_rotary_tables_are_read_and_go_back(name: str, place: str) -> None:
    plain = decoder(positions="rotary").state_dict()
    state = dict(plain)
    state |= {f"{place}{name}".format(layer): TABLES[name].clone() for layer in range(2)}
    loaded = auto(state)
    assert loaded.report.read["positions"] == "rotary"
    layout = loaded.config.rotary_layout
    assert equal(loaded, auto(plain, num_heads=4, positions="rotary", rotary_layout=layout))
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*state]
    assert all(torch.equal(back[each], value) for each, value in state.items())


def test_slopes_are_read() -> None:
    module = decoder(positions="alibi")
    module.register_buffer("slopes", general.slopes(4))
    loaded = auto(module.state_dict())
    assert (loaded.config.positions, loaded.config.num_heads) == ("alibi", 4)


@pytest.mark.parametrize("words", [("q_norm", "k_norm"), ("query_norm", "key_norm")])
def test_norms_of_queries_and_keys_are_read(words: tuple[str, str]) -> None:
    state = decoder(positions="rotary", qk_norm="before_rotary").state_dict()
    for old, new in zip(("qn", "kn"), words, strict=True):
        state = {name.replace(f".{old}.", f".{new}."): value for name, value in state.items()}
    loaded = auto(state, positions="rotary", qk_norm="before_rotary")
    assert loaded.config.num_heads == 4
    scale = loaded.params["blocks"]["attn"]["q_norm"]["scale"]
    assert scale.shape == (2, loaded.config.head_dim)
