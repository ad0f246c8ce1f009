"""verify names the stage in which a wrong field, or weights in another order, first make a difference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import to_flax  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from tests.classes import modern  # noqa: E402
from tests.convert.proving.test_verdict import randomised  # noqa: E402

MUTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"rotary_layout": "half"}, "block 0"),
    "theta": ({"rotary_theta": 1e4}, "block 0"),
    "epsilon": ({"norm_eps": 1e-6}, "block 0"),
    "cap of scores": ({"attention_softcap": None}, "block 0"),
    "cap of logits": ({"logit_softcap": None}, "logits"),
    "scale of scores": ({"attention_scale": "head_dim"}, "block 0"),
    "scale of logits": ({"logit_scale": 1.0}, "logits"),
    "scale of embeddings": ({"embedding_scale": 1.0}, "embedding"),
    "window": ({"window": None}, "block 0"),
    "activation": ({"activation": "gelu"}, "block 0"),
}


def keys_interleaved(block: dict[str, Any]) -> None:
    """Pair the query heads with the keys in turn, where the class gives each key a run of them."""
    attention = block["attn"]
    qkv, out = attention["qkv"]["kernel"], attention["out"]["kernel"]
    groups = qkv.shape[3] - 2
    queries = qkv[:, :, :, :groups]
    qkv[:, :, :, :groups] = in_turn(queries, 2)
    out[:] = in_turn(out, 1)


def in_turn(heads: Any, axis: int) -> Any:
    """`heads`, whose axes `axis` and `axis` + 1 are (keys, group), counted with the keys inside."""
    keys, group = heads.shape[axis : axis + 2]
    split = heads.reshape(*heads.shape[:axis], group, keys, *heads.shape[axis + 2 :])
    return split.swapaxes(axis, axis + 1).copy()


def gate_and_up_swapped(block: dict[str, Any]) -> None:
    kernel = block["mlp"]["gate_up"]["kernel"]
    kernel[:] = kernel[:, :, ::-1].copy()


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "file.pt"
    torch.save(randomised(modern.llama()).state_dict(), path)
    return path


@pytest.mark.parametrize("name", MUTATIONS)
def test_verify_shows_where_a_wrong_field_parts_and_its_right_value(
    name: str, llama_file: Path, tmp_path: Path
) -> None:
    wrong, stage = MUTATIONS[name]
    fields = {**modern.FIELDS, **wrong, "num_heads": 4, "context_length": 13}
    to_flax(llama_file, dialect="llama", **fields).save(tmp_path / "m")
    page = verify(llama_file, tmp_path / "m", torch=f"{modern.__file__}:llama")
    assert (page.verdict, page.first_difference) == ("differs", stage)
    assert page.agreeing is not None
    assert page.agreeing.fields == {field: modern.FIELDS[field] for field in wrong}


def test_verify_proves_the_right_fields(llama_file: Path, tmp_path: Path) -> None:
    fields = {**modern.FIELDS, "num_heads": 4, "context_length": 13}
    to_flax(llama_file, dialect="llama", **fields).save(tmp_path / "m")
    page = verify(llama_file, tmp_path / "m", torch=f"{modern.__file__}:llama")
    assert page.verdict == "proven"


@pytest.mark.parametrize("wrong", [keys_interleaved, gate_and_up_swapped])
def test_verify_shows_where_weights_in_another_order_part(
    wrong: Callable[[dict[str, Any]], None],
    llama_file: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    fields = {**modern.FIELDS, "num_heads": 4, "context_length": 13}
    loaded = to_flax(llama_file, dialect="llama", **fields)
    wrong(loaded.params["blocks"])
    loaded.save(tmp_path / "m")
    asked = ["jaxgpt-convert", "verify", llama_file, tmp_path / "m"]
    outcome = command(*asked, "--torch", f"{modern.__file__}:llama")
    assert outcome.code == 3, outcome
    assert "The two DIFFER, first in block 0." in outcome.out
