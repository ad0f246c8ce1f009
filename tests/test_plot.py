from pathlib import Path

import pytest

from jaxgpt import plot


@pytest.mark.parametrize("first", [3.0, 300.0])
def test_a_picture_is_drawn_over_the_last_one(first: float, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    metrics = [
        {"step": 10, "loss": first},
        {"step": 20, "loss": None},  # was skipped
        {"step": 30, "loss": 2.0, "val_loss": 2.2},
    ]
    plot.draw_losses(metrics[:1], tmp_path)
    before = (tmp_path / plot.FILE).read_bytes()
    plot.draw_losses(metrics, tmp_path)
    after = (tmp_path / plot.FILE).read_bytes()
    assert after.startswith(b"\x89PNG")
    assert after != before
    assert [path.name for path in tmp_path.iterdir()] == [plot.FILE]
