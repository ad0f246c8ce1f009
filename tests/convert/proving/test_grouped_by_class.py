"""What `to-flax --torch` says about a decoder's mask, gates, padding, heads and defaults."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import inspect, to_flax  # noqa: E402
from convert.measuring.subject import Differs  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.classes import grouped  # noqa: E402
from tests.convert.proving.test_verdict import randomised  # noqa: E402

SIZES = {"vocab_size": 61, "n_layers": 2, "dim": 32, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 40}


def converted(name: str, **config: Any) -> Any:
    module = randomised(getattr(grouped, name)(grouped.Config(**SIZES, **config)))
    return to_flax(module.state_dict(), torch=module, context_length=16)


@pytest.mark.parametrize(
    ("name", "why"),
    [("Uncausal", "attention is not causal"), ("Sigmoid", "no known activation")],
)
def test_the_first_thing_that_differs_is_named(name: str, why: str) -> None:
    with pytest.raises(Differs, match=f"first in block 0: .*{why}"):
        converted(name)


def test_padding_that_a_decoder_hides_is_reported() -> None:
    loaded = converted("Padded", window=5)
    assert loaded.proven_by
    assert loaded.config.window == 5
    assert any("hides id 0 as padding" in caveat for caveat in loaded.report.caveats)
    assert not any("hides" in caveat for caveat in converted("Grouped").report.caveats)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    module = randomised(grouped.Grouped(grouped.Config(**SIZES, window=5)))
    torch.save(module.state_dict(), tmp_path / "file.pt")
    return tmp_path / "file.pt"


def test_the_number_of_heads_gives_the_sizes_that_depend_on_it(file: Path) -> None:
    """Those of keys and values follow from it, and what keeps its default is reported."""
    how: dict[str, Any] = {"torch": f"{grouped.__file__}:Grouped", "context_length": 16}
    loaded = to_flax(file, torch_args={"n_heads": 4, "window": 5}, **how)
    assert (loaded.config.num_kv_heads, loaded.config.window) == (2, 5)
    assert not any("defaults" in caveat for caveat in loaded.report.caveats)
    loaded = to_flax(file, torch_args={"n_heads": 4}, **how)
    assert loaded.config.window is None  # the default is as long as no text
    assert any("its defaults window = 100;" in caveat for caveat in loaded.report.caveats)


def test_a_class_that_fails_with_its_defaults_says_which_they_are(tmp_path: Path) -> None:
    module = grouped.EqualHeads(grouped.Config(**{**SIZES, "n_kv_heads": 4}))
    torch.save(module.state_dict(), file := tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"raised RuntimeError.* n_heads = 12, .*--torch-arg"):
        to_flax(file, torch=f"{grouped.__file__}:EqualHeads")


def test_a_memory_that_the_class_makes_itself_is_refused() -> None:
    with pytest.raises(UserError, match="takes one text, and its blocks attend to something else"):
        to_flax(grouped.Echo().state_dict(), torch=grouped.Echo(), num_heads=4)


@pytest.mark.parametrize("section", ["cfg", "model_params", "settings"])
def test_a_config_under_another_key_is_read(section: str, file: Path) -> None:
    saved = {"model": torch.load(file), section: {"num_head": 4}}
    torch.save(saved, file)
    report = inspect(file, positions="none", context_length=16).detected.report
    assert report.read["num_heads"] == 4
