"""The float64 copy of a module computes what the module does."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert.foreign.float64 import exact_module  # noqa: E402


class Turning(torch.nn.Module):
    """Multiplies pairs of elements with a complex table, as rotary positions are often written."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(6.0)
        self.register_buffer("table", torch.polar(torch.ones(6), angles))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.table).flatten(-2)


def test_complex_tables_keep_their_imaginary_part() -> None:
    module = Turning()
    exact = exact_module(module)
    assert exact.table.dtype == torch.complex128
    x = torch.randn(2, 12)
    torch.testing.assert_close(exact(x.double()).float(), module(x))
