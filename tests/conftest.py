"""What several tests share: torch models random in every tensor at trained scale, tiny runs, the command line."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Sizes are pairwise different so that no two axes can be mistaken for each other; D = H * hs cannot be prime.
PRIMES = {"vocab_size": 103, "context_length": 17, "model_dim": 35, "num_blocks": 3, "num_heads": 5}
# A run of a few steps on a few words.
TINY: dict[str, dict[str, Any]] = {
    "model": {
        "context_length": 16,
        "model_dim": 12,
        "num_blocks": 2,
        "num_heads": 2,
        "dropout": 0.1,
    },
    "optim": {"warmup_steps": 2},
    "train": {
        "steps": 6,
        "batch_size": 4,
        "log_every": 2,
        "eval_every": 4,
        "eval_batches": 3,
        "sample_tokens": 0,
    },
}
TEXT = "How much wood would a woodchuck chuck, if a woodchuck could chuck wood? " * 40
LYRIC_SIZES = {
    "vocab_size": 104,
    "context_length": 128,
    "model_dim": 252,
    "num_blocks": 6,
    "num_heads": 6,
}


def pytest_configure(config: pytest.Config) -> None:
    """What was compiled once is kept, for other tests and processes, and for the next time. Tests compile much and
    compute little, so the compiler need not do its best."""
    assert config.cache is not None
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever else there is
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("xla")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


Needs = Callable[[str], None]


@pytest.fixture
def needs() -> Needs:
    """Skips where a module that not every environment has is not installed."""

    def of(module: str) -> None:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{module} is not installed")

    return of


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "wood.txt"
    path.write_text(TEXT)
    return path


def settings(text: Path, run_dir: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Of a tiny run, some of them replaced."""
    made = {"data": {"path": str(text)}, "run": {"dir": str(run_dir)}, **TINY}
    return {name: {**made.get(name, {}), **sections.get(name, {})} for name in {**made, **sections}}


def write_toml(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> Path:
    """A config file; JSON's values are TOML's, as far as settings have any."""
    text = ""
    for name, fields in sections.items():
        text += f"[{name}]\n" + "".join(
            f"{field} = {json.dumps(value)}\n" for field, value in fields.items()
        )
    path.write_text(text)
    return path


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
def primes_file(
    make_reference: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
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
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
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
