"""What several tests share: torch models random in every tensor at trained scale, and the command line in-process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Sizes are pairwise different so that no two axes can be mistaken for each other; D = H * hs cannot be prime.
PRIMES = {"vocab_size": 103, "context_length": 17, "model_dim": 35, "num_blocks": 3, "num_heads": 5}
LYRIC_SIZES = {"vocab_size": 104, "context_length": 128, "model_dim": 252, "num_blocks": 6, "num_heads": 6}


@pytest.fixture(scope="session")
def make_reference() -> Callable[..., Any]:
    """A function (sizes, seed) -> our torch GPT with every tensor random: norms and biases too."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert.reference import GPT

    def make(sizes: dict[str, int], seed: int = 0) -> Any:
        torch.manual_seed(seed)
        module = GPT(**sizes).eval()
        with torch.no_grad():
            for name, value in module.named_parameters():
                noise = torch.randn_like(value)
                if value.ndim == 2:
                    value.copy_(noise * value.shape[1] ** -0.5)
                else:
                    value.copy_(noise * 0.1 + ("layer_norm" in name and name.endswith("weight")))
        return module

    return make


@pytest.fixture(scope="session")
def primes_file(make_reference: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights.pt of the reference class with sizes PRIMES."""
    import torch

    path = tmp_path_factory.mktemp("primes") / "weights.pt"
    torch.save(make_reference(PRIMES).state_dict(), path)
    return path


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function (program, *arguments) -> exit code and output, as a shell would see them."""

    def call(program: str, *arguments: object) -> Outcome:
        from convert.__main__ import main as convert_main
        from jaxgpt.__main__ import main as jaxgpt_main

        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            {"jaxgpt": jaxgpt_main, "jaxgpt-convert": convert_main}[program]()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(command: Callable[..., Outcome]) -> Callable[..., str]:
    """As `command`, for input that is wrong: exit code 2 and one paragraph, which is returned."""

    def call(program: str, *arguments: object) -> str:
        outcome = command(program, *arguments)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1, outcome.err
        return outcome.err

    return call
