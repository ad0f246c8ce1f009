"""Folders that transformers opens, in a process that has no jax, and what it saves again."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import jaxgpt
from convert import hub, to_flax
from convert.dialects import DIALECTS
from convert.dtypes import OF_WEIGHTS
from convert.files import checkpoints, safefile
from convert.names.config_words import FIELD
from convert.names.stated import stated_fields
from convert.rows import whole
from convert.streams import Described, Stream
from jaxgpt.config import ModelConfig
from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.tokenizer import ByteTokenizer, Tokenizer, train_char
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.model.positions import sinusoids
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.storage import model_directory
from tests.helpers import PROGRAMS, config_of, require_close

pytest.importorskip("torch", reason="torch is not installed")
END = "<|endoftext|>"


LETTERS = "the it's I'll naïve ß İ 日本語 한국어 עברית देवनागरी é ñö 2024 3.14 x1y2 0x1F '"
SIGNS = (
    "😀 👩\u200d👩\u200d👧 🇩🇪 \u200b \ufeff \ufffd \U0010ffff \x00 \x1b[0m \x7f \x07"
    " [UNK] <unk> <s> </s> Ġ Ċ ▁ @#$%"
)
GAPS = [
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " \t \n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    "",
]


def strings(count: int) -> list[str]:
    """What people write, and what they would not."""
    draw = random.Random(7)
    words = [*LETTERS.split(" "), *SIGNS.split(" "), END, END[:-1]]
    anywhere = (
        lambda: draw.randrange(0x80),
        lambda: draw.randrange(0xD800),
        lambda: draw.randrange(0xE000, 0x110000),
    )

    def one() -> str:
        kind = draw.randrange(4)
        if kind == 0:  # what any bytes become
            return draw.randbytes(draw.randrange(24)).decode("utf-8", "replace")
        if kind == 1:  # any characters at all
            return "".join(chr(draw.choice(anywhere)()) for _ in range(9))
        return "".join(draw.choice(words) + draw.choice(GAPS) for _ in range(draw.randrange(9)))

    return ["", " ", "\n", END, f"a{END}b", *(one() for _ in range(count - 5))]


STRINGS = strings(1000)
CORPUS = " ".join(STRINGS) + "It isn't what we've said; they'd say 12 or 345 of them.\n" * 30


class Case(NamedTuple):
    dialect: str
    tokenizer: Tokenizer
    fields: dict[str, Any]
    dtype: str = "float64"
    shard: str = "5GB"


BPE = train_bpe(iter([CORPUS]), 600)
BYTES = ByteTokenizer()
CASES = {
    "relu": Case("gpt2", BPE, {"activation": "relu", "tied": True}),
    "gelu": Case(
        "gpt2", BYTES, {"activation": "gelu", "tied": False, "mlp_dim": 50}, "float32", "30KB"
    ),
    "tanh": Case(
        "gpt2",
        train_char([CORPUS]),
        {"activation": "gelu_tanh", "tied": True, "dropout": 0.0},
        shard="40KB",
    ),
    "scales": Case(
        "gpt2",
        BYTES,
        {"attention_scale": "none", "attention_scale_by_layer": True, "norm_eps": 1e-3},
    ),
    "no biases": Case(
        "gpt2", BYTES, {"qkv_bias": False, "mlp_bias": False, "norm_bias": False, "tied": True}
    ),
    "sinusoids": Case(
        "gpt2", BYTES, {"positions": "sinusoidal", "positions_stored": True, "tied": True}
    ),
    "bfloat16": Case("gpt2", BYTES, {"tied": True}, "bfloat16"),
    "padded": Case("gpt2", BPE, {"vocab_size": 640, "tied": True}, "float16"),
    "gpt1": Case("gpt1", BYTES, {"norm": "post", "activation": "gelu_tanh", "tied": True}),
    "opt": Case("opt", BYTES, {"activation": "gelu", "mlp_dim": 50, "tied": True}, shard="30KB"),
    "opt post": Case(
        "opt", BYTES, {"norm": "post", "final_norm": False, "tied": False, "qkv_bias": False}
    ),
}
WRITTEN = (
    "relu",
    "gelu",
    "tanh",
)  # whose text is compared; of the others the logits, of which it is made
ROUNDING = {"float64": 1e-12, "float32": 1e-5}  # of the largest logit


def config_for(case: Case) -> ModelConfig:
    usual = {
        **vars(config_of(DIALECTS[case.dialect])),
        "context_length": 24,
        "vocab_size": case.tokenizer.vocab_size,
    }
    return ModelConfig(**{**usual, **case.fields})


def random_params(config: ModelConfig, dtype: str) -> Tree:
    """At the scale of trained ones, norms and biases too."""
    draw = np.random.default_rng(3)

    def one(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.startswith("pos") and config.positions_stored:
            return sinusoids(*shape)
        scale = 0.1 if path.endswith(("bias", "scale")) else shape[-2] ** -0.5
        return draw.normal(size=shape) * scale + path.endswith("scale")

    leaves = flatten(abstract_params(config)).items()
    return unflatten(
        {path: one(path, leaf.shape).astype(OF_WEIGHTS[dtype]) for path, leaf in leaves}
    )


class Peer(NamedTuple):
    home: Path
    models: dict[str, Any]
    tokenizers: dict[str, Any]


STRANGE = next(chr(point) for point in range(0x370, 0x10000) if chr(point) not in CORPUS)
BAD = ["a\ud800b", f"a{STRANGE}b"]
FOLDERS = {"bpe": "relu", "byte": "gelu", "char": "tanh", "two files": "two files"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hub")
    for name, case in CASES.items():
        config = config_for(case)
        model_directory.save(
            home / name / "m", config, random_params(config, case.dtype), None, case.tokenizer
        )
        hub.directory_to_folder(home / name / "m", home / name / "out", case.dialect, case.shard)
    two = shutil.copytree(home / "relu" / "out", home / "two files" / "out")
    for kind in ("tokenizer.json", "tokenizer_config.json"):
        (two / kind).unlink()
    BPE._library.model.save(str(two))  # type: ignore[attr-defined]
    return home


@pytest.fixture(scope="module")
def peer(exported: Path) -> Peer:
    pytest.importorskip("transformers", reason="transformers is not installed")
    draw = random.Random(5)
    models = {
        name: {
            "folder": str(exported / name / "out"),
            "again": str(exported / name / "again"),
            "prompt": "a b",
            "new": 18,
            "shard": case.shard,
        }
        for name, case in CASES.items()
    }
    work = {
        "models": models,
        "tokenizers": {k: str(exported / f / "out") for k, f in FOLDERS.items()},
        "bad": BAD,
    }
    for key, value in (
        ("strings", STRINGS),
        ("ids", [[draw.randrange(2**31) for _ in range(9)] for _ in range(300)]),
    ):
        work[key] = str(exported / f"{key}.json")
        (exported / f"{key}.json").write_text(json.dumps(value))
    (exported / "work.json").write_text(json.dumps(work))
    command = [
        sys.executable,
        str(PROGRAMS / "transformers_peer.py"),
        str(exported / "work.json"),
        str(exported / "found.json"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((exported / "found.json").read_text())
    return Peer(exported, found["models"], found["tokenizers"])


@pytest.mark.parametrize("name", CASES)
def test_transformers_opens_the_folder_and_computes_the_same(name: str, peer: Peer) -> None:
    case, theirs = CASES[name], peer.models[name]
    assert theirs["class"] == DIALECTS[case.dialect].hub.architecture  # type: ignore[union-attr]
    assert theirs["problems"] == []
    assert theirs["dtype"] == f"torch.{case.dtype}"
    assert theirs["ends"] == [case.tokenizer.eot] * 3
    model = jaxgpt.load(peer.home / name / "m")
    if case.dtype in ROUNDING:
        require_close(
            np.asarray(model(np.arange(24)[None])), np.array(theirs["logits"]), ROUNDING[case.dtype]
        )
    if name in WRITTEN:
        ids = case.tokenizer.encode("a b").tolist()
        new = [
            int(i)
            for piece in jaxgpt.generate(model, ids, max_new_tokens=18, temperature=0)
            for i in piece
        ]
        assert theirs["text"] == case.tokenizer.decode(ids + new)
        assert len({*new}) > 3


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_again_comes_back_bit_for_bit(
    name: str, peer: Peer, tmp_path: Path
) -> None:
    case, once = CASES[name], to_flax(peer.home / name / "out")
    again = to_flax(peer.home / name / "again")
    before = flatten(model_directory.ModelDirectory(peer.home / name / "m").params())
    assert again.config == once.config
    for path, value in flatten(again.params).items():
        held = before.get(path, np.zeros(value.shape, value.dtype))  # a bias that the model lacks
        assert (value.dtype, value.tobytes()) == (held.dtype, held.tobytes()), path
        assert value.tobytes() == flatten(once.params)[path].tobytes()
    filled = dict.fromkeys(("qkv_bias", "mlp_bias", "norm_bias"), True)
    assert vars(again.config) == {**vars(config_for(case)), **filled}
    assert not again.report.assumed
    again.save(tmp_path / "m")
    kept = load(tmp_path / "m")
    assert type(kept) is type(case.tokenizer)
    assert [kept.encode(text).tolist() for text in STRINGS[:50]] == [
        case.tokenizer.encode(text).tolist() for text in STRINGS[:50]
    ]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_thousand_strings_are_the_same_ids(name: str, peer: Peer, tmp_path: Path) -> None:
    """Text that spells a special token is plain text here, and in transformers if that is asked for."""
    theirs = peer.tokenizers[name]
    loaded = to_flax(peer.home / FOLDERS[name] / "out")
    loaded.save(tmp_path / "m")
    ours = load(tmp_path / "m")
    assert len(STRINGS) == len(theirs["text"]) == 1000
    for text, plain, usual in zip(STRINGS, theirs["text"], theirs["tokens"], strict=True):
        assert ours.encode(text).tolist() == plain, text
        injected = ours.eot is not None and END in text
        assert (usual != plain) == injected, text
        assert (ours.eot in usual) == injected
    for ids, text in zip(
        json.loads((peer.home / "ids.json").read_text()), theirs["decoded"], strict=True
    ):
        assert ours.decode([i % ours.vocab_size for i in ids]).replace(END, "") == text.replace(
            END, ""
        )


def test_what_has_no_ids_is_refused_on_both_sides(peer: Peer) -> None:
    for name, tokenizer in (("bpe", BPE), ("byte", BYTES), ("char", CASES["tanh"].tokenizer)):
        for bad in BAD:
            theirs = peer.tokenizers[name][bad]
            if isinstance(theirs, list):
                assert tokenizer.encode(bad).tolist() == theirs
            else:
                with pytest.raises(UserError):
                    tokenizer.encode(bad)
        assert not isinstance(peer.tokenizers[name][BAD[0]], list)
    assert not isinstance(peer.tokenizers["char"][BAD[1]], list)


def values(dialect: Any, config: ModelConfig) -> dict[str, Any]:
    words, problems = hub.config_words(dialect, config)
    assert not problems
    return {
        field: value
        for field, (value, _) in stated_fields({"config.json": words}, dialect, "").items()
    }


HUBS = [DIALECTS[name] for name in ("gpt1", "gpt2", "opt")]  # others are in test_hub_classes
CHOICES: dict[str, tuple[Any, ...]] = {
    "activation": ("relu", "gelu", "gelu_tanh"),
    "attention_scale": ("head_dim", "model_dim", "none"),
    "attention_scale_by_layer": (False, True),
    "norm": ("pre", "post", "residual"),
    "final_norm": (True, False, "unused"),
    "mlp_dim": (50,),
    "head_dim": (11,),
    "norm_eps": (1e-5, 1e-6),
    "attention_out": (False,),
    "head_bias": (True,),
    "tied": (True, False),
    "dropout": (0.0, 0.3),
    "positions_offset": (0, 1),
}


@pytest.mark.parametrize("dialect", HUBS, ids=lambda dialect: dialect.name)
def test_every_choice_is_said_as_it_is_read_or_refused_by_name(dialect: Any) -> None:
    """Values that the class supports are read back; for others the error names field, value and what is supported."""
    usual = {
        **dialect.unsaid,
        "positions": "learned",
        "final_norm": dialect.name != "gpt1",
        "mlp_dim": 140,
    }
    usual = {**vars(config_of(dialect)), **usual}
    said_by_words = {FIELD[word] for word in dialect.hub.words.split()}
    assert {"activation", "dropout", "tied", "context_length", "num_heads"} <= said_by_words
    assert (
        values(dialect, ModelConfig(**usual)).items()
        >= {field: usual[field] for field in said_by_words}.items()
    )
    refused = set()
    for field, options in CHOICES.items():
        for value in options:
            config = ModelConfig(**{**usual, field: value})
            _, problems = hub.config_words(dialect, config)
            if not problems and field in said_by_words:
                assert values(dialect, config)[field] == value
            elif problems and field != "norm":
                (problem,) = problems
                assert problem.startswith(
                    f"{field} is {value!r}, but {dialect.hub.architecture} has "
                )
                refused.add(field)
    assert {"final_norm", "head_dim", "attention_out", "head_bias"} <= refused


@pytest.mark.parametrize(
    ("dialect", "fields", "says"),
    [
        (
            "gpt2",
            {"norm": "post"},
            "norm is 'post', but GPT2LMHeadModel has 'pre'; final_norm is True, but",
        ),
        (
            "gpt2",
            {"norm": "post", "final_norm": False, "mlp_dim": 140},
            "It can be written with --dialect gpt1.",
        ),
        (
            "gpt2",
            {"positions": "sinusoidal"},
            "positions is 'sinusoidal', but GPT2LMHeadModel has 'learned'",
        ),
        (
            "gpt2",
            {"attention_scale": "model_dim"},
            "'model_dim', but GPT2LMHeadModel has 'none' or 'head_dim'",
        ),
        (
            "gpt2",
            {"head_dim": 9},
            "head_dim is 9, but GPT2LMHeadModel has 7. A file for a class of your own",
        ),
        ("gpt2", {"final_norm": "unused"}, "final_norm is 'unused', but GPT2LMHeadModel has True"),
        (
            "gpt1",
            {"activation": "gelu"},
            "activation is 'gelu', but OpenAIGPTLMHeadModel has 'gelu_tanh' or 'silu' or 'relu'",
        ),
        ("opt", {}, "positions_offset is 0, but OPTForCausalLM has 2"),
        (
            "nanogpt",
            {},
            "needs a Hugging Face class, but the dialect nanogpt has none: use --dialect gpt2 or gptbigcode",
        ),
        (None, {}, "Hugging Face class, but you have not chosen one"),
    ],
)
def test_what_a_class_cannot_be_is_refused_and_nothing_is_written(
    dialect: str | None,
    fields: dict[str, Any],
    says: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    config = ModelConfig(**{**vars(config_of(DIALECTS["gpt2"])), **fields})
    model_directory.save(tmp_path / "m", config, random_params(config, "float32"))
    words = ["--dialect", dialect] if dialect else []
    assert re.search(
        says, refused("jaxgpt-convert", "to-torch", tmp_path / "m", tmp_path / "out", *words)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_tensors_are_written_to_their_shards_as_they_are_made(tmp_path: Path) -> None:
    shapes = {f"{'n' * i}.{i}": (i * 100,) for i in range(1, 30)}
    sizes = {name: shape[0] * 4 for name, shape in shapes.items()}
    alive: list[int] = []  # the bytes of each array that is in memory
    most = 0

    def made() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal most
        for name in reversed(shapes):
            array = np.full(shapes[name], len(name), np.float32)
            alive.append(array.nbytes)
            weakref.finalize(array, alive.remove, array.nbytes)
            most = max(most, sum(alive))
            yield name, array

    tensors = {name: Described(shape, np.dtype("float32")) for name, shape in shapes.items()}
    hub.write_weights(tmp_path, Stream(tensors, {}, made), 20_000)
    assert most <= 2 * max(sizes.values())
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "model-00001-of-00012.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(sizes.values())}
    assert [*index["weight_map"]] == [*sizes]
    for name, tensor in checkpoints.read(tmp_path).tensors.items():
        assert tensor.read().tolist() == [len(name)] * shapes[name][0]


def test_shapes_are_known_before_anything_is_made(exported: Path) -> None:
    for name, case in CASES.items():
        written = checkpoints.read(exported / name / "out").tensors
        opened = model_directory.ModelDirectory(exported / name / "m")
        target = hub._as_written(DIALECTS[case.dialect], opened.config)
        tensors = whole.stream(target, opened.config, opened.dtypes, opened.read).tensors
        assert tensors == {key: (tensor.shape, tensor.dtype) for key, tensor in written.items()}
        assert "lm_head.weight" not in tensors or not opened.config.tied


def test_shapes_of_keys_are_those_of_their_own_heads() -> None:
    dialect = DIALECTS["llama"]
    config = ModelConfig(**{**vars(config_of(dialect)), "num_heads": 6, "num_kv_heads": 2})
    arrays = flatten(random_params(config, "float32"))
    dtypes = {path: array.dtype for path, array in arrays.items()}
    stream = whole.stream(dialect, config, dtypes, arrays.__getitem__)
    made = {name: (array.shape, array.dtype) for name, array in stream.arrays().items()}
    assert stream.tensors == made


def test_a_shard_is_as_large_as_its_largest_tensor_at_least() -> None:
    assert [*hub.in_shards({"a": 5, "b": 5, "c": 11, "d": 1, "e": 9, "f": 1}, 10)] == [
        ["a", "b"], ["c"], ["d", "e"], ["f"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("200MB", 2 * 10**8), ("1GiB", 2**30), ("7 KB", 7000)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert hub.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "0GB", "-1GB", "5gb", "GB", "1.5GB", "5 Gbit"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 5GB, 200MB or 1GiB"):
        hub.parse_size(text)


def test_a_name_without_a_suffix_is_a_folder_and_the_config_says_all(
    exported: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    model = exported / "gelu" / "m"
    (tmp_path / "a.dir").mkdir()
    for name, again in (("plain", "again"), ("a.dir", "and again")):
        outcome = command("jaxgpt-convert", "to-torch", model, tmp_path / name, "--dialect", "gpt2")
        assert (outcome.code, outcome.err) == (0, "")
        assert "model.safetensors" in os.listdir(tmp_path / name)
        outcome = command("jaxgpt-convert", "to-flax", tmp_path / name, tmp_path / f"{name}.m")
        assert "Its tokenizer was stored too: tokenizer.json, 256 ids (byte)." in outcome.out
        assert (outcome.code, outcome.err) == (0, "")
        back = command("jaxgpt-convert", "to-torch", tmp_path / f"{name}.m", tmp_path / again)
        assert back.code == 0, back  # as what it came from
    assert "not an empty directory" in refused(
        "jaxgpt-convert", "to-torch", model, tmp_path / "plain"
    )
    words = ["--dialect", "gpt2", "--max-shard-size"]
    out = tmp_path / "w.pt"
    assert "is for folders" in refused("jaxgpt-convert", "to-torch", model, out, *words, "5GB")
    assert "but got 'five'" in refused(
        "jaxgpt-convert", "to-torch", model, tmp_path / "other", *words, "five"
    )
    assert not (tmp_path / "other").exists()


def test_without_a_tokenizer_no_id_is_special(tmp_path: Path) -> None:
    """Each class has numbers of its own for them, which lie outside of a small vocabulary."""
    for dialect in HUBS:
        norms = {field: dialect.unsaid[field] for field in ("norm", "activation")}
        config = ModelConfig(**{**vars(config_of(dialect)), **norms, "mlp_dim": 140})
        model_directory.save(
            tmp_path / dialect.name / "m", config, random_params(config, "float32")
        )
        hub.directory_to_folder(
            tmp_path / dialect.name / "m", tmp_path / dialect.name / "out", dialect.name
        )
        said = json.loads((tmp_path / dialect.name / "out" / "config.json").read_text())
        assert [said[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [None] * 3
        assert {*os.listdir(tmp_path / dialect.name / "out")} == {
            "config.json",
            "manifest.json",
            "model.safetensors",
        }


def test_an_interruption_leaves_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stop(writer: safefile.Writer, names: list[str], array: np.ndarray) -> int:
        written.append(names)
        if len(written) == 2:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(safefile.Writer, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        hub.directory_to_folder(exported / "gelu" / "m", tmp_path / "out", "gpt2", "30KB")
    assert os.listdir(tmp_path) == []
