import pytest

from jaxgpt.devices.chips import CHIPS, chip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("TPU v5 lite", "TPU v5 lite"),
        ("TPU v5", "TPU v5"),
        ("cpu", None),
    ],
)
def test_a_chip_is_found_by_the_name_that_the_device_reports(
    kind: str, expected: str | None
) -> None:
    assert chip(kind) == CHIPS.get(expected or "")


def test_figures_are_in_operations_and_bytes() -> None:
    """An error by a factor of a thousand in any of them would show."""
    for name, (peak, memory, bandwidth, links) in CHIPS.items():
        assert 2e13 < peak < 3e15, name
        assert 8e9 < memory < 2e11, name
        assert 2e11 < bandwidth < 1e13, name
        assert links < bandwidth < 100 * memory, name
