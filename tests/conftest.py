"""Fixtures for all tests: torch models with random values at trained scale, and the command line.

The environment of jax is set here, before a test or the conftest of a folder can import jax.
"""

import gc
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Tests compile much and compute little, so programs are cached for other tests, processes and runs,
# and compiled without optimisation. In jaxlib 0.10 the code generator of fusions takes half of the
# compile time; later versions lack the flag and abort at unknown flags.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
MEMORY_MAP = Path("/proc/self/maps")
PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever else there is
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault(
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0"
)  # nobody reads where an operation is from
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: each core has a test of its own


def pytest_collection_finish() -> None:
    """Let Python look for reference cycles as rarely as in commands, and not among what imports made.

    Tracing makes millions of objects, and jax adds a pass of its own to each of Python's.
    """
    from jaxgpt.commands.shell import GC_THRESHOLD

    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report once that tests on external checkpoints were skipped."""
    from tests.zoo import FACTS, ZOO

    if not FACTS:
        terminalreporter.write_line(
            f"There are no checkpoints in {ZOO}, so that tests on them were skipped; "
            "JAXGPT_ZOO names another folder."
        )


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Drops compiled programs before there are too many.

    On Linux a process can have 65,530 memory mappings, each program takes several, and XLA crashes
    when there are none left.
    """
    yield
    if MEMORY_MAP.exists() and MEMORY_MAP.read_bytes().count(b"\n") > 20_000:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def needs() -> Callable[[str], None]:
    """A function that skips the test if an optional module is not installed."""

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
    from tests.helpers import TEXT

    path = tmp_path / "wood.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def make_reference() -> Callable[..., Any]:
    """A function (sizes, seed) -> the reference torch GPT with random values in every tensor,
    including norms and biases."""
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

    from tests.helpers import PRIMES

    path = tmp_path_factory.mktemp("primes") / "weights.pt"
    torch.save(make_reference(PRIMES).state_dict(), path)
    return path


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """A function (program, *arguments) -> the exit code and the output that a shell would see."""

    def call(program: str, *arguments: object) -> Any:
        from convert.__main__ import main as convert_main
        from jaxgpt.__main__ import main as jaxgpt_main
        from tests.helpers import Outcome

        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            {"jaxgpt": jaxgpt_main, "jaxgpt-convert": convert_main}[program]()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def without_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `verify` stop at its verdict.

    Two models that differ are not compared again with other values of their fields, each of which
    is a program to compile.
    """
    monkeypatch.setattr("convert.proving.verify._advised", lambda page, *_: page)


@pytest.fixture
def refused(command: Callable[..., Any]) -> Callable[..., str]:
    """Like `command`, for wrong input: requires exit code 2 and returns the single paragraph of the
    error."""

    def call(program: str, *arguments: object) -> str:
        outcome = command(program, *arguments)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1, outcome.err
        return outcome.err

    return call
