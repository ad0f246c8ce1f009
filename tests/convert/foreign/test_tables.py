"""Position tables that a module made in float32 do not prevent an exact comparison."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from convert.foreign.tables import sharpen  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from tests.classes import general  # noqa: E402
from tests.convert.test_open_orders import NAMES, SIZES  # noqa: E402


def angles(length: int, width: int, theta: float) -> Any:
    frequencies = theta ** (-torch.arange(0, width, 2).float() / width)
    return torch.outer(torch.arange(length).float(), frequencies)


def tables(theta: float) -> dict[str, Any]:
    angle = angles(40, 12, theta)
    return {
        "cos": angle.cos(),
        "sin twice": torch.cat([angle, angle], -1).sin()[None, None],
        "cos interleaved": angle.repeat_interleave(2, -1).cos(),
        "angles": angle,
        "frequencies": angle[1].clone(),
        "cis": torch.polar(torch.ones_like(angle), angle),
        "pairs": torch.stack([angle.cos(), angle.sin()], -1),
        "sinusoids": torch.stack(
            [angles(40, 12, 1e4).sin(), angles(40, 12, 1e4).cos()], -1
        ).flatten(1),
    }


class Holder(torch.nn.Module):
    """A module with a table as a buffer, or in a tuple of its own."""

    def __init__(self, table: Any, buffer: bool) -> None:
        super().__init__()
        self.register_buffer("table", table.clone() if buffer else None, persistent=False)
        self.own = () if buffer else (table.clone(),)

    @property
    def held(self) -> Any:
        return self.own[0] if self.own else self.table


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("theta", [1e4, 500000.0, 12345.0])
@pytest.mark.parametrize("name", tables(1e4))
def test_rounded_tables_become_those_of_float64(name: str, theta: float, buffer: bool) -> None:
    rounded = tables(theta)[name]
    with in_float64():
        exact = tables(theta)[name]
    assert (rounded - exact).abs().max() > 1e-10
    module = Holder(rounded, buffer)
    sharpen(module)
    assert module.held.shape == exact.shape
    assert (module.held - exact).abs().max() < 1e-12 * 40


@pytest.mark.parametrize(
    "value", [torch.randn(40, 12), torch.randn(12), torch.ones(40, 12), torch.eye(8)]
)
def test_other_tensors_keep_their_values(value: Any) -> None:
    module = Holder(value, True)
    sharpen(module)
    assert torch.equal(module.held, value.double())


class Rotary(general.General):
    """A class that makes its rotary tables when it is built, in the dtype of that time."""

    def __init__(self, stored: bool) -> None:
        config = ModelConfig(**{**SIZES, "positions": "rotary", "mlp_gated": True})
        super().__init__(config, NAMES, True)
        angle = torch.arange(64)[:, None].float() * 1e4 ** (-torch.arange(0, 6, 2).float() / 6)
        cis = torch.polar(torch.ones_like(angle), angle)
        self.register_buffer("freqs_cis", cis, persistent=stored)
        self.cos = angle.cos()

    def forward(self, ids: Any) -> Any:
        before = general.turned
        cos, sin = self.cos[: ids.shape[1]], self.freqs_cis.imag[: ids.shape[1]]

        def turned(c: Any, x: Any, angle: Any) -> Any:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        general.turned = turned
        try:
            return super().forward(ids)
        finally:
            general.turned = before


@pytest.mark.parametrize("stored", [False, True])
def test_a_module_built_in_float32_is_proven_as_its_class_is(stored: bool) -> None:
    torch.manual_seed(0)
    module = Rotary(stored).eval()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.3 + (value.ndim == 1))
    loaded = convert.to_flax(module.state_dict(), torch=module, context_length=13)
    assert loaded.proven_by
    assert loaded.config.positions == "rotary"
    assert module.freqs_cis.dtype == torch.complex64  # the caller's module is left as it is
