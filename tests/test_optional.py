"""Optional libraries are detected without an import, and named if they are missing."""

import sys

import pytest

from jaxgpt.errors import UserError
from jaxgpt.optional import installed, need


def test_installed_libraries_are_detected_without_importing_them() -> None:
    assert installed("this")  # which prints a poem when it is imported
    assert "this" not in sys.modules
    assert not installed("no_such_library")
    assert not installed("no_such_library.part")


def test_a_missing_library_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert need("json.decoder", "this test").JSONDecoder
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = r"^run.wandb needs wandb, which cannot be imported \(.*\): pip install --upgrade wandb, or leave it out\.$"
    with pytest.raises(UserError, match=said):
        need("wandb", "run.wandb", "leave it out")
    assert not installed("wandb")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError) as raised:  # plain pip would bring gigabytes of CUDA
        need("torch", "weights.pt")
    assert ": pip install" not in str(raised.value)
    assert "install a CPU build" in str(raised.value)
