"""Families with additional or missing tensors: slopes, norms, copies of an embedding."""

from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.detect.errors import Asked  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.seq2seq_config import Seq2SeqConfig  # noqa: E402
from tests.classes import general, pairs  # noqa: E402
from tests.convert.test_open_orders import NAMES, SIZES, require_same  # noqa: E402

PLAIN = {"mlp_gated": False, "activation": "gelu"}
GIVEN = {"num_heads": 4}


def decoder(fused: bool = False, names: Any = (), **fields: Any) -> Any:
    torch.manual_seed(0)
    words = {**NAMES, "up": "up_proj", "down": "down_proj", **dict(names)}
    module = general.General(ModelConfig(**{**SIZES, **PLAIN, **fields}), words, fused)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.3 + (value.ndim == 1))
    return module.eval()


@pytest.mark.parametrize("name", ["slopes", "alibi_slopes", "m"])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4), (4, 1, 1), (1, 4, 1, 1)])
def test_slopes_of_alibi_are_read_and_go_back(name: str, shape: tuple[int, ...]) -> None:
    module = decoder(positions="alibi")
    for block in module.blocks:
        block.attn.register_buffer(name, general.slopes(4).view(shape))
    loaded = convert.to_flax(module.state_dict(), context_length=13)
    assert loaded.report.read["positions"] == "alibi"
    assert loaded.report.read["num_heads"] == 4
    require_same(module, loaded)


def test_other_slopes_are_refused() -> None:
    module = decoder(positions="alibi")
    module.register_buffer("slopes", general.slopes(4) * 2)
    with pytest.raises(UserError, match="slopes has other slopes than those of ALiBi"):
        convert.to_flax(module.state_dict(), context_length=13)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("fused", [False, True])
def test_norms_without_weights_are_asked_for(fused: bool, kind: str) -> None:
    module = decoder(fused, norm_weight=False, norm_bias=False, norm_kind=kind)
    with pytest.raises(Asked, match="no tensors of norms.*--set norm_kind=rms or layer"):
        convert.to_flax(module.state_dict(), **GIVEN)
    loaded = convert.to_flax(module.state_dict(), **GIVEN, norm_kind=kind)
    assert {"norm", "final_norm", "residual"} <= loaded.report.assumed.keys()
    require_same(module, loaded)
    assert convert.to_flax(module.state_dict(), torch=module).report.found["norm_kind"] == kind


@pytest.mark.parametrize(
    ("fused", "word"), [(False, "norm"), (True, "ln1"), (True, "input_layernorm")]
)
def test_one_norm_is_taken_for_that_of_both_parts_openly(fused: bool, word: str) -> None:
    module = decoder(fused, {"norm1": word}, residual="parallel_one_norm")
    loaded = convert.to_flax(module.state_dict(), **GIVEN)
    assert loaded.report.assumed["residual"] == "parallel_one_norm"
    assert "its blocks have one norm each" in "; ".join(loaded.report.caveats)
    require_same(module, loaded)
    with pytest.raises(UserError, match="lacks blocks/norm2/scale"):
        convert.to_flax(module.state_dict(), **GIVEN, residual="sequential")


@pytest.mark.parametrize("word", ["embedding", "embed_tokens"])
@pytest.mark.parametrize(("fused", "tied"), [("", True), ("one", True), ("two", False)])
def test_a_shared_embedding_beside_its_copies(word: str, fused: str, tied: bool) -> None:
    side = {
        "vocab_size": 29, "context_length": 13, "model_dim": 24, "num_blocks": 2, "num_heads": 4, "mlp_dim": 20,
        "head_bias": False, "dropout": 0.0,
    }  # fmt: skip
    encoder = ModelConfig(**side, shares_embedding=True)
    config = Seq2SeqConfig(encoder, ModelConfig(**side, cross_attention=True, tied=tied))
    module = pairs.randomised(pairs.Plain(config, {"embedding": word, "head": "lm_head"}, fused), 1)
    table = getattr(module.decoder, word).weight.detach().clone()
    state = {"shared.weight": table, **module.state_dict()}
    loaded = convert.to_flax(state, **GIVEN)
    assert loaded.config.encoder.shares_embedding
    assert loaded.config.decoder.tied == tied
    with jax.enable_x64(True), in_float64():
        source, tokens = np.arange(14).reshape(2, 7), np.arange(10).reshape(2, 5)
        convert.assert_same(module, loaded.model, tokens, source=source)
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*state]
    assert all(torch.equal(back[name], value) for name, value in state.items())
    with pytest.raises(
        UserError,
        match="shared.weight .* but their values differ: remove shared.weight from the file if",
    ):
        convert.to_flax({**state, "shared.weight": table + 1}, **GIVEN)
