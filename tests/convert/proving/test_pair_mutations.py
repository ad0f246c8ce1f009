"""verify names the stage of an encoder-decoder in which a wrong field, or wrong weights, first make a difference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import to_flax  # noqa: E402
from convert.loaded import Loaded  # noqa: E402
from convert.proving.verdict import Verification  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.seq2seq_config import ENCODER, as_options, field_of  # noqa: E402
from tests.classes import pairs  # noqa: E402
from tests.convert.proving.test_pairs_by_class import config, written  # noqa: E402

TRUE = config(
    activation="silu", mlp_gated=True, norm="pre", norm_eps=1e-5, embedding_scale=24**0.5, qkv_bias=True,
    attention_scale="head_dim", norm_kind="layer",
)  # fmt: skip
LAYOUT = {"fused": "two"}
SAID = (
    "num_heads", "activation", "norm", "norm_eps", "embedding_scale", "attention_scale", "norm_kind",
)  # fmt: skip
# The wrong fields, and the stages in which they show: of the encoder, and of the decoder.
MUTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "epsilon": ({"norm_eps": 1e-6}, "block 0"),
    "activation": ({"activation": "gelu"}, "block 0"),
    "scale of scores": ({"attention_scale": "model_dim"}, "block 0"),
    "scale of embeddings": ({"embedding_scale": 1.0}, "embedding"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "file.pt"
    torch.save(pairs.randomised(pairs.Plain(TRUE, **LAYOUT)).state_dict(), path)
    return path


def converted(file: Path, **wrong: Any) -> Loaded:
    """The model of `file` with the fields of its class, but for those that are `wrong`."""
    names = [prefix + name for name in SAID for prefix in ("", ENCODER)]
    return to_flax(file, **as_options({**{name: field_of(TRUE, name) for name in names}, **wrong}))


def page_of(loaded: Loaded, file: Path, folder: Path) -> Verification:
    """The page of verify for `loaded`, beside which the class of `file` runs."""
    loaded.save(folder / "m")
    return verify(file, folder / "m", torch=written(folder, pairs.Plain, TRUE, LAYOUT))


def test_verify_proves_the_right_fields(file: Path, tmp_path: Path) -> None:
    page = page_of(converted(file), file, tmp_path)
    assert page.verdict == "proven", json.dumps(page.as_dict())


@pytest.mark.parametrize("prefix", ["", ENCODER], ids=["decoder", "encoder"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_field_of_either_side_shows_in_its_first_stage(
    name: str, prefix: str, file: Path, tmp_path: Path
) -> None:
    wrong, stage = MUTATIONS[name]
    wrong = {f"{prefix}{field}": value for field, value in wrong.items()}
    page = page_of(converted(file, **wrong), file, tmp_path)
    first = "encoder block 0" if prefix else stage
    assert (page.verdict, page.first_difference) == ("differs", first)
    assert page.agreeing is not None
    assert page.agreeing.fields == {field: field_of(TRUE, field) for field in wrong}


def gate_and_up(side: dict[str, Any]) -> None:
    kernel = side["blocks"]["mlp"]["gate_up"]["kernel"]
    kernel[:] = kernel[:, :, ::-1].copy()


def keys_and_values_of_the_memory(side: dict[str, Any]) -> None:
    kernel = side["blocks"]["cross_attn"]["qkv"]["kernel"]
    kernel[:, :, :, -2:] = kernel[:, :, :, :-3:-1].copy()


SWAPS: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "gate and up of the encoder": ("encoder", gate_and_up, "encoder block 0"),
    "gate and up of the decoder": ("decoder", gate_and_up, "block 0"),
    "keys and values": ("decoder", keys_and_values_of_the_memory, "block 0"),
}


@pytest.mark.parametrize("name", SWAPS)
def test_swapped_weights_end_with_exit_code_3_and_the_block(
    name: str, file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    side, swap, stage = SWAPS[name]
    loaded = converted(file)
    swap(loaded.params[side])
    loaded.save(tmp_path / "m")
    named = written(tmp_path, pairs.Plain, TRUE, LAYOUT)
    outcome = command("jaxgpt-convert", "verify", file, tmp_path / "m", "--torch", named)
    assert outcome.code == 3, outcome
    assert f"The two DIFFER, first in {stage}." in outcome.out


# A class that hides an id in its encoder alone, and one that hides an id in the middle of its
# vocabulary, where no padding is looked for: both run on texts with that id.
PADDING: dict[str, tuple[Any, int]] = {"half": (pairs.HalfPadded, 1), "odd": (pairs.Plain, 11)}


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("name", PADDING)
def test_padding_that_only_the_class_hides_shows_in_the_first_block(
    name: str, file: Path, tmp_path: Path
) -> None:
    cls, padding = PADDING[name]
    converted(file).save(tmp_path / "m")
    named = written(tmp_path, cls, TRUE, {**LAYOUT, "padding": padding})
    page = verify(file, tmp_path / "m", torch=named)
    assert (page.verdict, page.first_difference) == ("differs", "encoder block 0")
