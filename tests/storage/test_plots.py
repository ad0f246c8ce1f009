from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.storage import plots


@pytest.mark.parametrize("first", [3.0, 300.0])
def test_a_picture_replaces_the_last_one(first: float, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    metrics = [
        {"step": 10, "loss": first},
        {"step": 20, "loss": None},  # was skipped
        {"step": 30, "loss": 2.0, "val_loss": 2.2},
    ]
    plots.draw_losses(metrics[:1], tmp_path)
    before = (tmp_path / plots.PICTURE).read_bytes()
    plots.draw_losses(metrics, tmp_path)
    after = (tmp_path / plots.PICTURE).read_bytes()
    assert after.startswith(b"\x89PNG")
    assert after != before
    assert [path.name for path in tmp_path.iterdir()] == [plots.PICTURE]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function (draw, *arguments) -> the figure that was saved."""
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed").Figure
    saved: list[Any] = []
    save = figure.savefig

    def keep(self: Any, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", keep)

    def call(draw: Callable[..., None], *arguments: Any) -> Any:
        draw(*arguments)
        return saved[-1]

    return call


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ([4.7, 2.2, 2.0, 1.9, 1.8], ["2", "3", "4"]),
        ([0.57, 0.2, 0.13, 0.12, 0.12], ["0.15", "0.2", "0.3", "0.4", "0.5", "0.6"]),
        ([300.0, 4.0, 2.1, 2.0, 2.0], ["2", "5", "10", "20", "50", "100", "200"]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(
    losses: list[float], labels: list[str], drawn: Callable[..., Any], tmp_path: Path
) -> None:
    metrics = [{"step": 10 * i, "loss": loss} for i, loss in enumerate(losses)]
    (axes,) = drawn(plots.draw_losses, metrics, tmp_path).axes
    low, high = axes.get_ylim()
    ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    assert axes.get_yscale() == "log"
    assert [label.get_text() for value, label in ticks if low <= value <= high] == labels
    assert not [label for label in axes.get_yticklabels(minor=True) if label.get_text()]


def test_one_step_is_a_point_and_the_legend_says_what_was_evaluated(
    drawn: Callable[..., Any], tmp_path: Path
) -> None:
    metrics = [{"step": 10, "loss": 3.0, "val_loss": 3.1}]
    (axes,) = drawn(plots.draw_losses, metrics, tmp_path, "50 batches").axes
    training, validation, _ = axes.lines
    assert (training.get_marker(), validation.get_marker()) == ("o", "o")
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["training", "validation (50 batches)", "best: 3.1000 at step 10"]
    assert [value for value in axes.get_xticks() if value % 1] == []


@pytest.mark.parametrize(
    ("heads", "length"), [(2, 10), (2, 40), (2, 81), (2, 200), (12, 10), (12, 81)]
)
def test_token_labels_are_legible(
    heads: int, length: int, drawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Each label is at least six points high, with as much room along the axis."""
    weights = np.zeros((1, heads, length, length))
    names = [f"<{i}>" for i in range(length)]
    figure = drawn(plots.draw_attention, weights, names, tmp_path / "attention.png")
    axes = figure.axes[0]
    labels = axes.get_yticklabels()
    room = axes.get_window_extent().height / figure.dpi * 72 / length
    every = round(length / len(labels))
    assert [label.get_text() for label in labels] == names[::every]
    assert all(6 <= label.get_fontsize() <= 1.1 * room * every for label in labels)
    assert (f"one token in {every} is named" in figure.get_suptitle()) == (every > 1)
    assert every == 1 or heads * length > 300
    assert max(figure.get_size_inches()) < 50
