"""Foreign classes: imported, built in every calling style, run, and never without being named."""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import to_flax, to_torch  # noqa: E402
from convert.dialects import DIALECTS  # noqa: E402
from convert.foreign import peer  # noqa: E402
from convert.proving.verdict import Verification  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.pytree import flatten  # noqa: E402
from tests.helpers import INVISIBLE, ROOT, config_of, random_params  # noqa: E402

CLASSES = ROOT / "tests" / "classes"
LECTURE, NANO, BOOK = (
    f"{CLASSES / name}" for name in ("lecture.py:LectureGPT", "nano.py:GPT", "book.py:GPTModel")
)  # fmt: skip
# The dialect, its class, and what a person has to give so that the model is the same.
STYLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "globals": ("ng", LECTURE, {"attention_scale": "model_dim"}),
    "config": ("nanogpt", NANO, {"num_heads": 5}),
    "dict": ("raschka", BOOK, {"num_heads": 5}),
    "names": ("gpt", "convert.reference:GPT", {}),
}


def saved(dialect: str, path: Path, wrapped: str = "") -> Path:
    """A file as the class of `dialect` saves it, of sizes PRIMES and random in every tensor."""
    config = config_of(DIALECTS[dialect], tied=dialect == "nanogpt")
    config = replace(config, qkv_bias=config.qkv_bias and dialect != "ng")
    params = random_params(config, np.dtype("float32"))
    for array in flatten(params).values():
        array *= 0.3
    state = to_torch(params, config, dialect)
    torch.save({wrapped + name: value for name, value in state.items()}, path)
    return path


def carried(file: Path, **given: Any) -> Path:
    to_flax(file, **given).save(file.with_suffix(""))
    return file.with_suffix("")


Proof = Callable[..., Verification]


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    """A function that runs a class beside the model of a file, both of which are made once."""

    @functools.cache
    def converted(dialect: str, given: tuple[tuple[str, Any], ...]) -> tuple[Path, Path]:
        file = saved(dialect, tmp_path_factory.mktemp(dialect) / "w.pt")
        return file, carried(file, **dict(given))

    def of(
        dialect: str, named: str, given: dict[str, Any], steps: int = 0, **said: Any
    ) -> Verification:
        file, model = converted(dialect, tuple(given.items()))
        return verify(file, model, steps, torch=named, torch_args=said)

    return of


def person(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("style", STYLES)
def test_every_calling_style_runs_block_by_block_and_trains_alike(style: str, proof: Proof) -> None:
    dialect, named, given = STYLES[style]
    trained = style == "config"  # "globals" trains below, with a norm that is never applied
    page = proof(dialect, named, given, steps=2 * trained)
    assert page.same, page
    assert [stage.name for stage in page.stages] == [
        "embedding",
        "block 0",
        "block 1",
        "block 2",
        "logits",
    ]
    assert (page.training is not None and len(page.training.rows) > 50) == trained
    assert page.ran.startswith(named)


WRONG = {
    "the lecture's scale, assumed": ("globals", {}, "block 0"),
    "post-norm": ("config", {"num_heads": 5, "norm": "post"}, "block 0"),
    "final norm": ("dict", {"num_heads": 5, "final_norm": "unused"}, "logits"),
}


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_field_differs_and_its_block_is_named(wrong: str, proof: Proof) -> None:
    style, given, first = WRONG[wrong]
    dialect, named, _ = STYLES[style]
    page = proof(dialect, named, given)
    assert page.first_difference == first
    assert not page.proven


@pytest.mark.usefixtures("without_advice")
def test_the_page_lists_the_fields_that_the_class_shows(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    file = saved("nanogpt", tmp_path / "w.pt")
    brought = command("jaxgpt-convert", "to-flax", file, tmp_path / "m", "--set", "num_heads=5")
    assert (
        f"Prove it: jaxgpt-convert verify {file} {tmp_path / 'm'} --torch MODULE:CLASS"
        in brought.out
    )
    outcome = command("jaxgpt-convert", "verify", file, tmp_path / "m", "--torch", NANO)
    assert outcome.code == 0
    assert "n_head = 5" in outcome.out
    first = outcome.out.splitlines()[0]
    assert first == "PROVEN, given num_heads = 5 as you said: the two compute the same function."
    shown = "Shown by running this class: norm = pre, final_norm = True, activation = gelu, "
    assert shown in outcome.out
    assert (
        "a model of GPTConfig(block_size=17" in outcome.err
    )  # what it prints is not in the way of JSON
    found = json.loads(
        command("jaxgpt-convert", "verify", file, tmp_path / "m", "--torch", NANO, "--json").out
    )
    assert found["proven"]["norm"] == "pre"
    assert found["given"] == {"num_heads": 5}
    assert found["assumed"] == {}
    wrong = command(
        "jaxgpt-convert",
        "to-flax",
        file,
        tmp_path / "n",
        "--set",
        "num_heads=5",
        "--set",
        "norm=post",
    )
    assert wrong.code == 0
    outcome = command("jaxgpt-convert", "verify", file, tmp_path / "n", "--torch", NANO)
    assert outcome.code == 3
    assert outcome.out.startswith("The two DIFFER, first in block 0.\n")
    assert "Given, as you said: num_heads = 5, norm = post." in outcome.out
    assert "proven" not in outcome.out.lower()


def test_a_class_proves_nothing_about_an_argument_it_was_passed(
    tmp_path: Path, proof: Proof
) -> None:
    mine = person(
        tmp_path,
        "from convert.reference import GPT as Base\n"
        "class GPT(Base):\n"
        "    def __init__(self, n_vocab, span, d_model, depth, heads, activation):\n"
        "        super().__init__(n_vocab, span, d_model, depth, heads)\n",
    )
    page = proof("gpt", f"{mine}:GPT", {}, span=17, activation="relu")
    assert page.same
    assert page.verdict == "proven"
    assert page.given == {"activation": "relu"}
    assert not page.assumed
    assert page.proven.keys() == {
        "norm",
        "final_norm",
        "attention_scale",
        "attention_scale_by_layer",
        "norm_eps",
        *INVISIBLE,
    }


MAKERS = {
    "function": "def make(): return GPT(103, 17, 35, 3, 5)",
    "function of one word": "def make(heads, wide=35): return GPT(103, 17, wide, 3, heads)",
    "instance": "make = GPT(103, 17, 35, 3, 5)",
    "inner class": "class make:\n    class Inner(GPT): pass",
    "wrapper": "class make(torch.nn.Module):\n"
    "    def __init__(self, vocab_size, d_model):\n"
    "        super().__init__()\n"
    "        self.net = GPT(vocab_size, 17, d_model, 3, 5)\n"
    "    def forward(self, x): return {'logits': self.net(x)}",
    "beside it": "from beside import make",
}


@pytest.mark.parametrize("maker", MAKERS)
def test_functions_instances_and_wrappers_are_accepted(
    maker: str, tmp_path: Path, proof: Proof
) -> None:
    text = f"import torch\nfrom convert.reference import GPT\n{MAKERS[maker]}\n"
    person(tmp_path, f"from convert.reference import GPT\n{MAKERS['function']}\n", "beside.py")
    named = f"{person(tmp_path, text)}:make{'.Inner' if maker == 'inner class' else ''}"
    try:
        page = proof("gpt", named, {}, steps=int(maker == "wrapper"))
    finally:
        sys.modules.pop("beside", None)
    assert page.same
    assert len(page.stages) == 5
    assert not page.training or len(page.training.rows) == 1 + 2 * 81


@pytest.mark.parametrize(
    ("wrapped", "named"), [("module.", "GPT"), ("a.b.", "GPT"), ("a.b.", "Outer")]
)
def test_names_with_another_prefix_are_matched(wrapped: str, named: str, tmp_path: Path) -> None:
    mine = person(
        tmp_path,
        "import torch\nfrom convert.reference import GPT\n"
        "def Outer():\n"
        "    inner, outer = torch.nn.Module(), torch.nn.Module()\n"
        "    inner.b, outer.a = GPT(103, 17, 35, 3, 5), inner\n"
        "    outer.forward = inner.b.forward\n"
        "    return outer\n",
    )
    file = saved("gpt", tmp_path / "w.pt", wrapped)
    assert verify(file, carried(file), torch=f"{mine}:{named}").same


def test_torch_args_set_globals_of_the_file(tmp_path: Path, proof: Proof) -> None:
    text = Path(LECTURE.partition(":")[0]).read_text().replace("n_layer = 3", "n_layer = 2")
    mine = f"{person(tmp_path, text)}:LectureGPT"
    with pytest.raises(
        ValueError,
        match=r"does not load into .* built with no arguments: it has no place for blocks\.2\.",
    ):
        proof("ng", mine, {"attention_scale": "model_dim"})
    assert proof("ng", mine, {"attention_scale": "model_dim"}, n_layer=3).same


def test_a_norm_that_the_class_never_applies_does_not_train(tmp_path: Path, proof: Proof) -> None:
    text = (
        Path(LECTURE.partition(":")[0])
        .read_text()
        .replace("self.ln_f(self.blocks(x))", "self.blocks(x)")
    )
    given = {"attention_scale": "model_dim", "final_norm": "unused"}
    page = proof("ng", f"{person(tmp_path, text)}:LectureGPT", given, steps=1)
    assert page.same
    assert not any("ln_f" in item.name for item in page.training.rows)


def test_sinusoids_made_in_float32_are_exact_here(tmp_path: Path) -> None:
    mine = person(
        tmp_path,
        "import math, torch\n"
        "from convert.reference import GPT as Base\n"
        "class GPT(Base):\n"
        "    def __init__(self):\n"
        "        super().__init__(103, 17, 36, 3, 6)\n"
        "        del self.pos_embedding\n"
        "        turns = torch.exp(torch.arange(0, 36, 2).float() * (-math.log(10000.0) / 36))\n"
        "        angles = torch.arange(17, dtype=torch.float32)[:, None] * turns\n"
        "        self.table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)\n"
        "    def pos_embedding(self, at): return self.table[at]\n",
    )
    from convert.reference import GPT

    torch.manual_seed(0)
    state = GPT(103, 17, 36, 3, 6).state_dict()
    del state["pos_embedding.weight"]
    torch.save(state, tmp_path / "w.pt")
    model = carried(tmp_path / "w.pt", dialect="heads", context_length=17, positions="sinusoidal")
    page = verify(tmp_path / "w.pt", model, torch=f"{mine}:GPT")
    assert page.same, page
    assert "positions" in page.proven


def test_the_process_is_left_as_it_was(proof: Proof) -> None:
    before = list(sys.path), list(sys.argv), set(sys.modules)
    proof("nanogpt", NANO, {"num_heads": 5})
    assert (list(sys.path), list(sys.argv)) == before[:2]
    assert "nano" not in sys.modules
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(1, dtype=torch.float32).dtype == torch.float32


TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"


def test_nothing_is_imported_unless_it_is_named(
    primes_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pt"
    file.write_bytes(primes_file.read_bytes())
    traps = [
        person(tmp_path, TRAP, f"{name}.py")
        for name in ("model", "weights", "gpt", "modeling_gpt", "accelerate")
    ]
    assert command("jaxgpt-convert", "to-flax", "weights.pt", "m").code == 0
    assert command("jaxgpt-convert", "verify", "weights.pt", "m").code == 4
    assert not list(tmp_path.glob("*.ran"))
    traps[0].write_text(TRAP + "from convert.reference import GPT\n")
    assert command("jaxgpt-convert", "verify", "weights.pt", "m", "--torch", "model:GPT").code == 0
    assert [path.name for path in tmp_path.glob("*.ran")] == ["model.ran"]
    sys.modules.pop("model", None)


PERSONS = """
import torch
from convert.reference import GPT
class Odd(GPT):
    def __init__(self, vocab_size, wings, *, tail): super().__init__(vocab_size, 17, 35, 3, 5)
class Sour(GPT):
    def __init__(self): raise ZeroDivisionError("no\\nway")
class Falls(GPT):
    def __init__(self): super().__init__(103, 17, 35, 3, 5)
    def forward(self, x): return x.nowhere
class Pooled(Falls):
    def forward(self, x): return super(Falls, self).forward(x).mean(1)
class Small(GPT):
    def __init__(self): super().__init__(103, 17, 30, 2, 5)
def number(): return 3
text = "a text"
"""
MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such module": (["--torch", "nowhere:GPT"], "There is no module nowhere, neither here nor installed"),
    "nor inside another": (["--torch", "nowhere.at.all:GPT"], "There is no module nowhere.at.all"),
    "no such file": (["--torch", "nowhere.py:GPT"], "nowhere.py does not exist"),
    "no such name": (["--torch", "mine.py:GTP"], "mine.py has no GTP. Did you mean GPT?"),
    "another name": (["--torch", "mine.py:XYZ"], "has no XYZ. There are: GPT, Odd, Sour, Falls, Pooled, Small."),
    "no name": (["--torch", "mine.py"], "--torch takes module:Class or path/to/file.py:Class, but got 'mine.py'"),
    "a text": (["--torch", "mine.py:text"], "names a str, which is no class and no function"),
    "a number": (["--torch", "mine.py:number"], "mine.py:number gives a int, and no torch.nn.Module"),
    "another class": (["--torch", BOOK], "it has no place for token_embedding.weight"),
    "other sizes": (["--torch", "mine.py:Small"], "token_embedding.weight is (103, 35) in the file and (103, 30) in"),
    "not built": (["--torch", "mine.py:Odd"], "Odd(vocab_size, wings, *, tail) cannot be built, for nothing says what "
                  "wings and tail should be. Say so with --torch-arg wings=VALUE --torch-arg tail=VALUE, or name a "
                  "function that returns the model, without arguments."),
    "fails when built": (["--torch", "mine.py:Sour"], "Building Sour() raised ZeroDivisionError: no way. Say what"),
    "fails when run": (["--torch", "mine.py:Falls"], "The forward of Falls raised AttributeError: 'Tensor' object has"),
    "no logits": (["--torch", "mine.py:Pooled"], "must return logits (batch, time, vocabulary) for ids (16, 4), but "
                  "returned (16, 103)"),
    "fails when imported": (["--torch", "sour.py:GPT"], "Importing sour.py raised SystemExit: 5"),
    "no Python": (["--torch", "text.py:GPT"], "Importing text.py raised SyntaxError"),
    "a word too many": (["--torch", "mine.py:Falls", "--torch-arg", "wings=2"], "--torch-arg wings: Falls() asks for "),
    "a word alone": (["--torch-arg", "wings=2"], "an argument of the class of --torch, which is missing"),
    "no value": (["--torch", "mine.py:Odd", "--torch-arg", "wings"], "--torch-arg takes FIELD=VALUE, such as n_head=6"),
}  # fmt: skip


@pytest.fixture(scope="module")
def primes_model(primes_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of primes_file."""
    path = tmp_path_factory.mktemp("primes") / "m"
    to_flax(primes_file).save(path)
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_paragraph(
    mistake: str,
    primes_file: Path,
    primes_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    monkeypatch.chdir(tmp_path)
    person(tmp_path, PERSONS)
    person(tmp_path, "raise SystemExit(5)", "sour.py")
    person(tmp_path, "say what?", "text.py")
    arguments, message = MISTAKES[mistake]
    assert message in refused("jaxgpt-convert", "verify", primes_file, primes_model, *arguments)


def test_torch_args_fill_parameters_without_a_value(
    primes_file: Path, primes_model: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    mine = person(tmp_path, PERSONS)
    said = ["--torch-arg", "wings=2", "--torch-arg", "tail=long"]
    outcome = command(
        "jaxgpt-convert", "verify", primes_file, primes_model, "--torch", f"{mine}:Odd", *said
    )
    assert outcome.code == 0, outcome
    assert "wings = 2, tail = 'long'" in outcome.out


def test_tables_that_a_file_rounded_keep_the_precision_of_the_class() -> None:
    module = torch.nn.Module()
    table = torch.outer(torch.arange(50.0), 1e4 ** -torch.arange(0, 1, 0.25)).double().cos()
    module.register_buffer("cos", table)
    rounded = table.float().double()
    assert not torch.equal(rounded, table)
    assert peer._own_tables(module, {"cos": rounded}) == ["cos"]
    assert peer._own_tables(module, {"cos": rounded + 1e-3}) == []
