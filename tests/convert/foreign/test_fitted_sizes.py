"""Arguments of classes are found by the shapes in a file, whatever they are called."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import to_flax  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.classes.pairs import randomised  # noqa: E402
from tests.helpers import ROOT  # noqa: E402

CLASSES = str(ROOT / "tests" / "classes" / "translators.py")


def saved(module: torch.nn.Module, folder: Path) -> Path:
    torch.save(randomised(module).state_dict(), folder / "w.pt")
    return folder / "w.pt"


def test_sizes_of_any_name_are_found_and_heads_are_not(tmp_path: Path) -> None:
    """Counts of blocks, widths, a factor of the width, and a vocabulary; padding can be any id."""
    from tests.classes.translators import Odd

    file = saved(Odd(23, 29, 0, 12, 3, 2, 3.0), tmp_path)
    loaded = to_flax(file, torch=f"{CLASSES}:Odd", torch_args={"crew": 3})
    assert loaded.config.encoder.vocab_size == 23
    assert (loaded.config.decoder.num_blocks, loaded.config.decoder.mlp_dim) == (2, 36)
    assert loaded.config.decoder.num_heads == 3
    assert "defaults" not in loaded.proven_by
    with pytest.raises(UserError, match=r"what crew should be. Say so with --torch-arg crew=VALUE"):
        to_flax(file, torch=f"{CLASSES}:Odd")


def test_sides_that_are_arguments_are_built_too(tmp_path: Path) -> None:
    from tests.classes.translators import Decoder, Encoder, Joined

    module = Joined(Encoder(23, 12, 2, 3, 20), Decoder(29, 12, 1, 3, 28), 0)
    file = saved(module, tmp_path)
    loaded = to_flax(file, torch=f"{CLASSES}:Joined", torch_args={"crew": 3})
    assert (loaded.config.encoder.num_blocks, loaded.config.decoder.num_blocks) == (2, 1)
    assert (loaded.config.encoder.mlp_dim, loaded.config.decoder.mlp_dim) == (20, 28)
    other = to_flax(file, torch=f"{CLASSES}:Joined", torch_args={"crew": 3, "encoder_crew": 2})
    assert (other.config.encoder.num_heads, other.config.decoder.num_heads) == (2, 3)


def test_a_function_of_the_file_that_returns_the_class_is_named(tmp_path: Path) -> None:
    from tests.classes.translators import made

    file = saved(made(23, 29, 12, 2, 3), tmp_path)
    with pytest.raises(UserError, match="such as made of the same file"):
        to_flax(file, torch=f"{CLASSES}:Layered")
    loaded = to_flax(file, torch=f"{CLASSES}:made", torch_args={"crew": 3})
    assert loaded.config.decoder.num_blocks == 2


def test_a_table_that_the_class_makes_is_that_of_the_file(tmp_path: Path) -> None:
    """In float64 the class makes another one, which differs by the rounding of the file."""
    from tests.classes.translators import Waved

    file = saved(Waved(23, 29, 12, 3), tmp_path)
    loaded = to_flax(file, torch=f"{CLASSES}:Waved", torch_args={"crew": 3})
    assert loaded.config.decoder.positions == "learned"
