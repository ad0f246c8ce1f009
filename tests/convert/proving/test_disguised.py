"""Attempts to have a wrong model proven: classes that differ from it in what no tensor shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import reference, to_flax  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from tests.classes import disguised  # noqa: E402
from tests.helpers import PRIMES  # noqa: E402

FILE = disguised.__file__
OTHER_FUNCTIONS = (
    "OtherEpsilon",
    "ScaledResidual",
    "TanhGelu",
    "NormedTwice",
    "WidthScaled",
    "LatePositions",
    "EmbeddingDropoutScale",
    "RootEmbedding",
    "LastWithoutResidual",
    "Temperature",
    "PositionsFromTheEnd",
    "Padded",
)


@pytest.fixture(scope="module")
def model(primes_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of a file which each of the classes might have written."""
    path = tmp_path_factory.mktemp("disguised") / "model"
    to_flax(primes_file).save(path)
    return path


@pytest.mark.parametrize("name", OTHER_FUNCTIONS)
@pytest.mark.usefixtures("without_advice")
def test_another_function_differs(name: str, primes_file: Path, model: Path) -> None:
    assert verify(primes_file, model, torch=f"{FILE}:{name}").verdict == "differs"


def test_a_short_input_is_compared_too(
    primes_file: Path, model: Path, command: Callable[..., Any]
) -> None:
    named = ["--torch", f"{FILE}:PositionsFromTheEnd"]
    outcome = command("jaxgpt-convert", "verify", primes_file, model, *named)
    assert outcome.code == 3
    assert outcome.out.startswith(
        "The two DIFFER, first in logits of 5 tokens alone.\n"
        "They agree on full windows: the class depends on the length of its input.\n"
    )


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("name", ["WithOptions", "WithConfig"])
def test_a_default_of_the_class_is_no_proof_until_the_user_says_it(
    name: str, primes_file: Path, model: Path, command: Callable[..., Any]
) -> None:
    """The file may have been trained with the option on, and no tensor shows it."""
    asked = ["jaxgpt-convert", "verify", primes_file, model, "--torch", f"{FILE}:{name}"]
    outcome = command(*asked)
    assert outcome.code == 4
    assert outcome.out.startswith("UNPROVEN: equal if the class was built with scale_embedding = ")
    said = "--torch-arg scale_embedding=false"
    assert outcome.out.splitlines()[-1] == f"If it was, confirm them: {said}"
    assert command(*asked, *said.split()).code == 0
    assert command(*asked, "--torch-arg", "scale_embedding=true").code == 3


def test_constant_tensors_hide_nothing(primes_file: Path, tmp_path: Path) -> None:
    """With zeros in every output projection, any activation computes the same, until it trains."""
    state = torch.load(primes_file)
    for name, value in state.items():
        if "second_linear_layer" in name:
            value.zero_()
    file = tmp_path / "untrained.pt"
    torch.save(state, file)
    to_flax(file).save(tmp_path / "m")
    page = verify(file, tmp_path / "m", torch=f"{FILE}:TanhGelu")
    assert page.stages[-1].same
    assert page.first_difference == "logits, constants varied"
    assert page.agreeing is not None
    assert page.agreeing.fields == {"activation": "gelu_tanh"}
    same = verify(file, tmp_path / "m", torch="convert.reference:GPT")
    assert same.verdict == "proven"
    assert same.random_weights is not None


CHANGES = {
    "a global": "SCALE = 35**0.5",
    "a method": "GPT.forward = lambda self, tokens: 2 * Base.forward(self, tokens)",
    "by setattr": "setattr(GPT, 'scale', 2)",
    "of a library": "functional.relu = functional.gelu",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_class_that_its_script_changes_afterwards_is_refused(
    change: str, primes_file: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from torch.nn import functional\n"
        "from convert.reference import GPT as Base\n"
        "SCALE = 1.0\n"
        "class GPT(Base):\n"
        "    def __init__(self): super().__init__(103, 17, 35, 3, 5)\n"
        "    def forward(self, tokens): return SCALE * super().forward(tokens)\n"
        f"{CHANGES[change]}\n"
    )
    asked = ("jaxgpt-convert", "verify", primes_file, model, "--torch", f"{script}:GPT")
    assert "on line 7, after GPT, and nothing but definitions is run there" in refused(*asked)


def test_a_script_may_use_names_of_local_variables_again(
    primes_file: Path, model: Path, tmp_path: Path
) -> None:
    """As scripts do that train below the class, with an x of their own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from convert.reference import GPT as Base\n"
        "class GPT(Base):\n"
        "    def __init__(self): super().__init__(103, 17, 35, 3, 5)\n"
        "    def forward(self, tokens):\n"
        "        x = super().forward(tokens)\n"
        "        return x\n"
        "if __name__ == '__main__':\n"
        "    x = 1\n"
    )
    assert verify(primes_file, model, torch=f"{script}:GPT").verdict == "proven"


def test_a_folder_that_names_code_of_its_own_is_not_proven_by_the_library(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"vocab_size": 103, "n_positions": 17, "n_embd": 35, "n_layer": 2, "n_head": 5}
    folder = tmp_path / "hf"
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(folder)
    to_flax(folder).save(tmp_path / "m")
    assert verify(folder, tmp_path / "m").verdict == "proven"
    config = json.loads((folder / "config.json").read_text())
    for change in ({"auto_map": {"AutoModelForCausalLM": "mine.GPT"}}, {"architectures": ["Mine"]}):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        assert verify(folder, tmp_path / "m").verdict == "unproven"


def test_the_classes_look_alike() -> None:
    """Or the names of their tensors would give them away."""
    expected = {name: value.shape for name, value in reference.GPT(**PRIMES).state_dict().items()}
    for name in OTHER_FUNCTIONS:
        state = getattr(disguised, name)().state_dict()
        assert {name: value.shape for name, value in state.items()} == expected
