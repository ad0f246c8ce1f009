"""`to-flax --torch`: running the class settles the fields that tensors leave open, or nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import reference, to_flax  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from convert.measuring.subject import Differs  # noqa: E402
from tests.classes import disguised, modern, unseen  # noqa: E402
from tests.convert.proving.test_verdict import randomised  # noqa: E402
from tests.helpers import PRIMES  # noqa: E402

HERE = Path(modern.__file__).parent
# Class -> arguments, and fields that it has and that no tensor shows.
CLASSES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "the reference": (reference.GPT, PRIMES, {"activation": "relu", "norm": "pre"}),
    "gelu": (unseen.Gelu, PRIMES, {"activation": "gelu"}),
    "post-norm": (unseen.PostNorm, PRIMES, {"activation": "gelu", "norm": "post"}),
    "scaled": (unseen.Scaled, PRIMES, {"embedding_scale": 35**0.5}),
    "rotary": (
        unseen.Rotary,
        {**PRIMES, "model_dim": 40},
        {"positions": "rotary", "rotary_theta": 1e4, "rotary_layout": "half"},
    ),
    "nameless": (unseen.Nameless, PRIMES, {"activation": "relu", "num_heads": 5}),
    "bare parameters": (
        modern.Kvarnar,
        {},
        {
            "positions": "rotary", "rotary_layout": "interleaved", "rotary_theta": 50000.0, "norm_kind": "rms",
            "norm_eps": "dtype", "activation": "silu", "embedding_scale": 32**0.5, "num_kv_heads": 2, "num_heads": 4,
        },
    ),
    "another epsilon": (disguised.OtherEpsilon, {}, {"norm_eps": 3e-6}),
    "tanh gelu": (disguised.TanhGelu, {}, {"activation": "gelu_tanh"}),
    "scaled by the width": (disguised.WidthScaled, {}, {"attention_scale": "model_dim"}),
    "root": (disguised.RootEmbedding, {}, {"embedding_scale": 35**0.5}),
}  # fmt: skip
# Class -> the stage in which it parts from every model.
ODD = {
    "OddKvarnar": "block 0",
    "LateKvarnar": "block 1",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_settles_every_field(name: str) -> None:
    make, sizes, fields = CLASSES[name]
    with in_float64():  # or tables that are no buffers would stay float32
        module = randomised(make(**sizes))
    module.max_seq_len = 16  # as nothing else shows it without a table of positions
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.proven_by
    assert not loaded.report.assumed.keys() - {"dropout"}
    assert {field: getattr(loaded.config, field) for field in fields} == fields


@pytest.mark.parametrize("name", ODD)
def test_what_no_field_says_is_refused_where_it_shows(
    name: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    module = randomised(getattr(modern, name)())
    torch.save(module.state_dict(), tmp_path / "odd.pt")
    asked = ["jaxgpt-convert", "to-flax", tmp_path / "odd.pt", tmp_path / "model"]
    outcome = command(*asked, "--torch", f"{HERE / 'modern.py'}:{name}")
    assert outcome.code == 3
    assert f"its class and the model DIFFER, first in {ODD[name]}: " in outcome.out
    assert not (tmp_path / "model").exists()


# Class -> the only dialect to read the file with; all of them take longest where none agrees.
OTHER_FUNCTIONS = {
    "ScaledResidual": None,
    "NormedTwice": "gpt",
    "LastWithoutResidual": "gpt",
    "PositionsFromTheEnd": "gpt",
    "LatePositions": "gpt",
}


@pytest.mark.parametrize("name", OTHER_FUNCTIONS)
def test_other_functions_are_refused(name: str, primes_file: Path) -> None:
    with pytest.raises(Differs, match="DIFFER, first in "):
        to_flax(primes_file, torch=f"{disguised.__file__}:{name}", dialect=OTHER_FUNCTIONS[name])


def test_the_command_names_the_fields_and_the_proof(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    torch.save(randomised(modern.Kvarnar()).state_dict(), tmp_path / "file.pt")
    asked = ["jaxgpt-convert", "to-flax", tmp_path / "file.pt"]
    named = ["--torch", f"{HERE / 'modern.py'}:Kvarnar"]
    outcome = command(*asked, tmp_path / "model", *named)
    assert outcome.code == 0, outcome
    assert "found with the class:\n  embedding_scale = 5.65" in outcome.out
    # Its sizes have defaults too, but the shapes in the file show these.
    condition = "UNPROVEN: equal if the class was built with huvuden = 4, grupper = 2, its defaults"
    assert condition in outcome.out
    given = ["--torch-arg", "huvuden=4", "--torch-arg", "grupper=2"]
    proven = command(*asked, tmp_path / "proven", *named, *given)
    assert "\nPROVEN: the two compute the same function" in proven.out
    again = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt")
    assert again.code == 0, again
    back, file = torch.load(tmp_path / "back.pt"), torch.load(tmp_path / "file.pt")
    assert list(back) == list(file)
    assert all(torch.equal(back[name], file[name]) for name in file)
    assert not again.err  # what was found with the class is certain
    folder = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "folder")
    assert folder.code == 2, folder
    assert "needs a Hugging Face class, but you have not chosen one" in folder.err


def test_a_given_field_that_the_class_contradicts_is_refused(primes_file: Path) -> None:
    with pytest.raises(Differs, match="activation is 'relu' in the class and 'gelu' otherwise"):
        to_flax(primes_file, torch="convert.reference:GPT", activation="gelu", dialect="gpt")


@pytest.mark.parametrize(
    ("name", "dialect"), [("endless_llama", "llama"), ("endless_stranger", "")]
)
def test_a_context_length_that_nothing_shows_is_asked_for(
    name: str, dialect: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """As without a class, whether a dialect knows the names or not."""
    torch.save(randomised(getattr(modern, name)()).state_dict(), tmp_path / "file.pt")
    asked = ["jaxgpt-convert", "to-flax", tmp_path / "file.pt", tmp_path / "model"]
    asked += ["--torch", f"{HERE / 'modern.py'}:{name}"]
    asked += ["--dialect", dialect] if dialect else []
    outcome = command(*asked)
    assert outcome.code == 2, outcome
    assert "set it with --set context_length=N" in outcome.err
    outcome = command(*asked, "--set", "context_length=13")
    assert outcome.code == 0, outcome
    assert "window = 5" in outcome.out


EARLY = '''
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))

    def forward(self, x):
        parts = self.attn["qkv"](self.ln1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln2(x))


class Early(nn.Module):
    """Its table of positions is a parameter of its own, which torch lists before all modules."""

    def __init__(self, vocab_size, n_embd=24, n_head=4, block_size=11):
        super().__init__()
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.blocks = nn.ModuleList([Block(n_embd, n_head) for _ in range(2)])
        self.ln_f, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size)

    def forward(self, idx):
        x = self.tok_emb(idx) + self.pos_emb[:, : idx.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))
'''


def test_the_vocabulary_is_not_the_size_of_a_table_of_positions(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    namespace: dict[str, Any] = {"__name__": "early"}
    exec(EARLY, namespace)
    module = randomised(namespace["Early"](37))
    torch.save(module.state_dict(), tmp_path / "file.pt")
    loaded = to_flax(tmp_path / "file.pt", torch=f"{tmp_path / 'early.py'}:Early")
    assert loaded.proven_by
    assert (loaded.config.vocab_size, loaded.config.num_heads) == (37, 4)
