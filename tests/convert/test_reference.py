from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert.dialects import DIALECTS  # noqa: E402
from convert.reference import GPT, generate  # noqa: E402
from convert.rows.fields import FIELDS  # noqa: E402
from convert.rows.order import in_module_order  # noqa: E402
from tests.helpers import LYRIC_SIZES, PRIMES  # noqa: E402


def test_it_has_the_tensors_of_the_released_model() -> None:
    state = GPT(**LYRIC_SIZES).state_dict()
    assert len(state) == 174
    assert sum(value.numel() for value in state.values()) == 4_672_688


def test_its_names_and_their_order_are_those_of_the_dialect() -> None:
    sizes = {axis: PRIMES.get(field, 0) for axis, field in FIELDS.items()}
    sizes["kv"] = PRIMES["num_heads"]
    names = in_module_order([view for _, view in DIALECTS["gpt"].views], sizes)
    assert names == list(GPT(**PRIMES).state_dict())


def test_dropout_is_where_the_original_has_it() -> None:
    assert [m.p for m in GPT(**PRIMES).modules() if isinstance(m, torch.nn.Dropout)] == [0.2] * 6


def test_generate_sees_only_the_last_context_length(make_reference: Callable[..., Any]) -> None:
    model = make_reference({**PRIMES, "vocab_size": 7})
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    text = generate(model, 40, torch.zeros(1, 1, dtype=torch.int64), 17, "abcdefg")
    assert len(text) == 40
    assert set(text) <= set("abcdefg")
    assert [x.shape[1] for x in seen] == [*range(1, 17), *[17] * 24]
    everything = "a" + text
    assert "".join("abcdefg"[i] for i in seen[-1][0]) == everything[-18:-1]


def test_greedy_generation_takes_the_likeliest(make_reference: Callable[..., Any]) -> None:
    model = make_reference({**PRIMES, "vocab_size": 7})
    start = torch.tensor([[3, 1]])
    first = int(model(start)[0, -1].argmax())
    assert generate(model, 1, start, 17, {i: str(i) for i in range(7)}, greedy=True) == str(first)
