"""Fixtures for the tests of sources."""

import pytest


@pytest.fixture
def datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library, set to offline mode before its import, as it reads its settings only then."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf"))
    pytest.importorskip("datasets", reason="datasets is not installed")
