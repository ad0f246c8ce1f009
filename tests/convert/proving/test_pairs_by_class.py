"""`to-flax --torch` of encoder-decoders: running the class settles the fields of both sides, or nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import to_flax  # noqa: E402
from convert.measuring.subject import Differs  # noqa: E402
from convert.proving.example import LONGEST  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.seq2seq_config import ENCODER, Seq2SeqConfig, field_of  # noqa: E402
from tests.classes import pairs  # noqa: E402

CLASS = '''
from torch import nn

class Translator(nn.Module):
    """An nn.Transformer in a wrapper, as tutorials write it."""

    def __init__(self, src_vocab_size, tgt_vocab_size, d_model, nhead=2):
        super().__init__()
        self.transformer = nn.Transformer(d_model, nhead, 2, 1, 20, 0.1, "gelu", layer_norm_eps=1e-6, batch_first=True)
        self.src_embedding = nn.Embedding(src_vocab_size, d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab_size, d_model)
        self.src_position = nn.Embedding(11, d_model)
        self.tgt_position = nn.Embedding(13, d_model)
        self.generator = nn.Linear(d_model, tgt_vocab_size)

    def forward(self, src, tgt, tgt_mask):
        s = self.src_embedding(src) + self.src_position.weight[: src.shape[1]]
        t = self.tgt_embedding(tgt) + self.tgt_position.weight[: tgt.shape[1]]
        return self.generator(self.transformer(s, t, tgt_mask=tgt_mask, tgt_is_causal=True))
'''


def config(encoder: dict[str, Any] | None = None, **fields: Any) -> Seq2SeqConfig:
    common = {
        "model_dim": 24,
        "num_heads": 4,
        "mlp_dim": 20,
        "context_length": 11,
        "dropout": 0.0,
        **fields,
    }
    one = {"vocab_size": 23, "num_blocks": 2, **common, **(encoder or {})}
    two = {"vocab_size": 29, "num_blocks": 1, **common, "cross_attention": True}
    return Seq2SeqConfig(ModelConfig(**one), ModelConfig(**two))


PRE: dict[str, Any] = {
    "norm": "pre",
    "activation": "silu",
    "embedding_scale": 24**0.5,
    "qkv_bias": True,
}
# The fields of the classes, few because each is a program to compile; together they have several
# values of each field in OPEN, and other ones in the encoder than in the decoder.
POST = config(
    {"num_heads": 2, "activation": "relu", "final_norm": True},
    norm="post", final_norm=False, activation="gelu", positions="sinusoidal", attention_scale="model_dim",
)  # fmt: skip
LEARNED = config({"norm_eps": 1e-6}, **PRE)
STD = config(
    {"num_heads": 3},
    **PRE,
    norm_std="unbiased_plus_eps",
    norm_eps=1e-6,
    qk_norm="full_width",
    mlp_gated=True,
)
RMS = config(**PRE, norm_kind="rms", norm_bias=False)
# How the class is called, its fields, and what is said of the result.
CLASSES: dict[str, tuple[Any, Seq2SeqConfig, dict[str, Any], str]] = {
    "own masks": (pairs.Plain, POST, {}, ""),
    "masks asked for": (pairs.Masked, LEARNED, {}, ""),
    "a head apart": (pairs.Hidden, STD, {}, ""),
    "no forward": (pairs.Steps, POST, {}, ""),
    "log_softmax": (pairs.LogProbabilities, LEARNED, {}, "log_softmax"),
    "softmax": (pairs.Probabilities, RMS, {}, "log_softmax"),
    "padding": (pairs.Plain, LEARNED, {"padding": 1}, "hides id 1"),
    "padding sees all": (pairs.BlindRows, LEARNED, {"padding": 0}, "hides id 0"),
    "real tokens": (pairs.Marked, LEARNED, {}, ""),
    "rows of padding": (pairs.PaddedRows, POST, {}, ""),
    "fused": (pairs.Plain, LEARNED, {"fused": "two"}, ""),
    "two each": (pairs.Plain, STD, {"fused": "kv"}, ""),
    "gate last": (pairs.Plain, STD, {"names": {"gate": "w3", "up": "w1", "down": "w2"}}, ""),
}  # fmt: skip
MAY_BE_ASSUMED = {"dropout", "context_length"}  # no run shows them
OPEN = (
    "norm", "final_norm", "activation", "positions", "embedding_scale", "norm_kind", "norm_std", "norm_eps",
    "num_heads", "attention_scale",
)  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_settles_the_fields_of_both_sides(name: str) -> None:
    cls, wanted, options, note = CLASSES[name]
    module = pairs.randomised(cls(wanted, **options))
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.proven_by
    assert not {field.removeprefix(ENCODER) for field in loaded.report.assumed} - MAY_BE_ASSUMED
    for field in (prefix + field for field in OPEN for prefix in ("", ENCODER)):
        assert field_of(loaded.config, field) == pytest.approx(field_of(wanted, field)), field
    assert note in " ".join(loaded.report.caveats)


def test_a_scale_that_was_rounded_to_float32_is_read_exactly() -> None:
    module = pairs.randomised(
        pairs.Narrow(config({"norm_eps": 1e-6}, **{**PRE, "embedding_scale": 1.0}))
    )
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.config.encoder.embedding_scale == loaded.config.decoder.embedding_scale == 24**0.5


def test_only_the_first_tokens_of_a_long_table_are_run() -> None:
    """A table of sinusoids is often far longer than any text; scores grow with its square."""
    longest: list[int] = []

    class Watched(pairs.Plain):
        def forward(self, src, tgt):
            longest.extend((src.shape[1], tgt.shape[1]))
            return super().forward(src, tgt)

    small = {"model_dim": 8, "num_heads": 2, "mlp_dim": 8}
    fields = {**PRE, "positions": "learned", "context_length": 3000, **small}
    module = pairs.randomised(Watched(config(**fields)))
    assert to_flax(module.state_dict(), torch=module).config.decoder.context_length == 3000
    assert max(longest) <= 2 * LONGEST


def test_a_difference_is_told_if_the_names_are_guessed() -> None:
    names = {
        "self": "mixer",
        "cross": "joiner",
        "blocks": "stack",
        "norm1": "za",
        "norm2": "zb",
        "norm3": "zc",
    }
    module = pairs.randomised(pairs.Scaled(LEARNED, names))
    with pytest.raises(Differs, match="DIFFER"):
        to_flax(module.state_dict(), torch=module)


def test_a_class_that_leaves_all_to_its_caller_is_refused_with_the_way_out() -> None:
    module = pairs.randomised(pairs.Base(LEARNED))
    with pytest.raises(UserError, match="neither a forward nor methods encode and decode.*Derive"):
        to_flax(module.state_dict(), torch=module)


def test_what_no_field_says_is_refused() -> None:
    module = pairs.randomised(pairs.Scaled(LEARNED))
    with pytest.raises(Differs, match="first in encoder block 1: .*what cross-attention gets"):
        to_flax(module.state_dict(), torch=module)


def test_the_command_names_the_fields_of_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("translator.py").write_text(CLASS)
    namespace: dict[str, Any] = {}
    exec(CLASS, namespace)
    module = pairs.randomised(namespace["Translator"](23, 29, 12))
    torch.save(module.state_dict(), "w.pt")
    named = ("--torch", "translator.py:Translator")
    outcome = command("jaxgpt-convert", "to-flax", "w.pt", "model", *named)
    assert outcome.code == 0, outcome
    condition = (
        "UNPROVEN: equal if the class was built with nhead = 2, its defaults, for training too."
    )
    assert condition in outcome.out
    assert "norm_eps = 1e-06" in outcome.out
    assert "found with the class, of the encoder:" in outcome.out
    assert (
        "was built with its defaults nhead = 2; if it was trained with other values" in outcome.err
    )
    said = command("jaxgpt-convert", "to-flax", "w.pt", "said", *named, "--torch-arg", "nhead=2")
    assert "its defaults" not in said.out + said.err
    assert "\nPROVEN: the two compute the same function" in said.out
    assert command("jaxgpt-convert", "to-torch", "model", "back.pt").code == 0
    back, file = torch.load("back.pt"), torch.load("w.pt")
    assert list(back) == list(file)
    assert all(torch.equal(back[name], file[name]) for name in file)


@pytest.mark.parametrize("name", ["log_softmax", "padding"])
def test_verify_says_what_it_compared(name: str, tmp_path: Path) -> None:
    cls, wanted, options, note = CLASSES[name]
    module = pairs.randomised(cls(wanted, **options))
    to_flax(module, torch=module).save(tmp_path / "model")
    torch.save(module.state_dict(), tmp_path / "w.pt")
    page = verify(
        tmp_path / "w.pt", tmp_path / "model", 1, torch=written(tmp_path, cls, wanted, options)
    )  # fmt: skip
    assert page.verdict == "proven", json.dumps(page.as_dict())
    assert any(note in each for each in page.notes)


def written(folder: Path, cls: Any, wanted: Seq2SeqConfig, options: dict[str, Any]) -> str:
    """A file with a function that makes `cls` of these fields, as --torch takes it."""
    sides = [dict(vars(side)) for side in (wanted.encoder, wanted.decoder)]
    (folder / "made.py").write_text(
        "from jaxgpt.config import ModelConfig\n"
        "from jaxgpt.seq2seq_config import Seq2SeqConfig\n"
        "from tests.classes import pairs\n"
        f"SIDES = {sides!r}\n"
        "def make():\n"
        "    config = Seq2SeqConfig(*(ModelConfig(**side) for side in SIDES))\n"
        f"    return pairs.{cls.__name__}(config, **{options!r})\n"
    )
    return f"{folder / 'made.py'}:make"


COMMON: dict[str, Any] = {
    "vocab_size": 43, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "max_position_embeddings": 24,
    "dropout": 0.0, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2,
}  # fmt: skip
HUB: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "bart": (
        "BartConfig", "BartForConditionalGeneration", {**COMMON, "scale_embedding": True},
        {"embedding_scale": 4.0, "norm": "post", "encoder.num_heads": 2},
    ),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", COMMON, {"norm": "pre", "encoder.final_norm": True}),
    "marian": ("MarianConfig", "MarianMTModel", {**COMMON, "activation_function": "relu"}, {"activation": "relu"}),
    "gpt2 with a memory": (
        "GPT2Config", "GPT2LMHeadModel",
        {"vocab_size": 31, "n_positions": 12, "n_embd": 24, "n_layer": 2, "n_head": 4, "add_cross_attention": True},
        {"activation": "gelu_tanh", "num_heads": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_classes_of_transformers_settle_their_fields(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config_class, cls, words, fields = HUB[name]
    torch.manual_seed(0)
    module = getattr(transformers, cls)(getattr(transformers, config_class)(**words)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.proven_by
    assert {field: field_of(loaded.config, field) for field in fields} == fields
    module.save_pretrained(tmp_path / "theirs")
    to_flax(tmp_path / "theirs").save(tmp_path / "ours")
    assert verify(tmp_path / "theirs", tmp_path / "ours").verdict == "proven"


@pytest.mark.parametrize(
    "names",
    [{"self": "recall", "cross": "glance"}, {"query": "frage", "key": "stelle", "value": "wert"}],
)
def test_parts_of_which_no_name_tells_are_found_by_running_the_class(names: dict[str, str]) -> None:
    module = pairs.randomised(pairs.Plain(config({"num_blocks": 1}, positions="learned"), names))
    loaded = to_flax(module.state_dict(), torch=module, num_heads=4, encoder={"num_heads": 4})
    assert loaded.proven_by
