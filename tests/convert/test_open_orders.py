"""Orders within matrices that no name tells: assumed by name, set by the user, or found with the class."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.classes import general  # noqa: E402
from tests.convert.test_pairs import exit_code  # noqa: E402

SIZES = {
    "vocab_size": 41, "context_length": 13, "model_dim": 24, "num_blocks": 2, "num_heads": 4, "mlp_dim": 20,
    "head_bias": False, "activation": "silu", "mlp_gated": True, "dropout": 0.0,
}  # fmt: skip
NAMES = {
    "token": "tok_emb", "positions": "pos_emb", "norm1": "norm1", "norm2": "norm2", "query": "q_proj", "key": "k_proj",
    "value": "v_proj", "out": "o_proj", "gate": "w1", "up": "w2", "down": "w3", "gate_up": "w12", "head": "lm_head",
}  # fmt: skip
GIVEN = {"num_heads": 4, "activation": "silu", "norm_kind": "layer"}


class ByHead(torch.nn.Linear):
    """Its output has the queries, keys and values of each head together."""

    def forward(self, x: Any) -> Any:
        heads = super().forward(x).unflatten(-1, (SIZES["num_heads"], 3, -1))
        return heads.transpose(-2, -3).flatten(-3)


class UpFirst(general.Mlp):
    """The second half, or the second matrix, is the gate."""

    def forward(self, x: Any) -> Any:
        part = lambda name: getattr(self, self.names[name])  # noqa: E731
        up, gate = (
            part("gate_up")(x).chunk(2, -1) if self.fused else (part("gate")(x), part("up")(x))
        )
        return part("down")(torch.nn.functional.silu(gate) * up)


def made(fused: bool, **fields: Any) -> Any:
    torch.manual_seed(0)
    module = general.General(ModelConfig(**{**SIZES, **fields}), NAMES, fused)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.3 + (value.ndim == 1))
    return module.eval()


def with_orders(module: Any, by_head: bool, up_first: bool) -> Any:
    for block in module.blocks:
        if by_head:
            block.attn.qkv.__class__ = ByHead
        if up_first:
            block.mlp.__class__ = UpFirst
    return module


def require_same(module: Any, loaded: Any) -> None:
    """Require equal logits in float64, and a file that goes back bit for bit."""
    with jax.enable_x64(True), in_float64():
        convert.assert_same(module, loaded.model, np.arange(10).reshape(2, 5))
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*module.state_dict()]
    assert all(torch.equal(back[name], value) for name, value in module.state_dict().items())


ORDERS = [(True, True, False), (True, False, True), (True, True, True), (False, False, True)]


@pytest.mark.parametrize(("fused", "by_head", "up_first"), ORDERS)
def test_an_order_is_assumed_by_name_set_and_found(
    fused: bool, by_head: bool, up_first: bool
) -> None:
    module = with_orders(made(fused), by_head, up_first)
    usual = convert.to_flax(module.state_dict(), **GIVEN)
    assert usual.report.assumed["gate_order"] == "gate_up"
    assert ("qkv_order" in usual.report.assumed) == fused
    orders = {"gate_order": "up_gate" if up_first else "gate_up"}
    orders |= {"qkv_order": "by_head" if by_head else "by_part"} if fused else {}
    require_same(module, convert.to_flax(module.state_dict(), **GIVEN, **orders))
    found = convert.to_flax(module.state_dict(), torch=module)
    assert orders.items() <= found.report.found.items()
    require_same(module, found)


def test_verify_names_the_order_with_which_both_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = with_orders(made(True), True, False)
    torch.save(module.state_dict(), "w.pt")
    Path("model.py").write_text(
        "from tests.convert.test_open_orders import made, with_orders\n"
        "def build():\n    return with_orders(made(True), True, False)\n"
    )
    set_ = [word for name, value in GIVEN.items() for word in ("--set", f"{name}={value}")]
    assert exit_code("to-flax", "w.pt", "usual", *set_) == 0
    assert "--set qkv_order=by_part|by_head" in capsys.readouterr().err
    assert exit_code("verify", "w.pt", "usual", "--torch", "model.py:build") == 3
    assert "--set qkv_order=by_head" in capsys.readouterr().out
    assert exit_code("to-flax", "w.pt", "right", *set_, "--set", "qkv_order=by_head") == 0
    assert exit_code("verify", "w.pt", "right", "--torch", "model.py:build") == 0


def test_an_order_that_names_tell_is_no_choice() -> None:
    told = {**NAMES, "gate_up": "gate_up_proj", "down": "down_proj"}
    state = general.General(ModelConfig(**SIZES), told, fused=True).state_dict()
    assert "gate_order" not in convert.to_flax(state, **GIVEN).report.assumed
    with pytest.raises(
        UserError,
        match="gate_order = up_gate was given, but the tensor names already fix that order",
    ):
        convert.to_flax(state, **GIVEN, gate_order="up_gate")
