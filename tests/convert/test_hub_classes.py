"""Folders for the classes of modern decoders: transformers opens them without jax, and `verify` proves them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import jaxgpt
from convert import hub, to_flax
from convert.choose import folders_for
from convert.dialects import DIALECTS
from convert.names.class_config import config_words
from convert.proving import parity
from convert.proving.exact_model import exact_model
from convert.proving.example import Example
from convert.proving.verify import verify
from convert.rows.fields import shown_by
from convert.rows.kinds import Row
from jaxgpt.config import ModelConfig
from jaxgpt.data.tokenizer import ByteTokenizer
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.storage import model_directory
from tests.helpers import PROGRAMS, require_close

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

TOKENIZER = ByteTokenizer()
SIZES = {
    "vocab_size": TOKENIZER.vocab_size, "context_length": 24, "model_dim": 64, "num_blocks": 3,
    "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "dropout": 0.0, "positions_stored": False,
}  # fmt: skip
TWO = {"num_kv_heads": 2, "mlp_dim": 80}
BIASED = dict.fromkeys(("qkv_bias", "attention_out_bias"), True)
UNBIASED = {**dict.fromkeys(BIASED, False), "mlp_bias": False}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6}
# Name of a case -> its dialect, and the fields in which it is not what the class usually is.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**TWO, **UNBIASED, "head_dim": 10, "rotary_scaling": LLAMA3, "tied": True}),
    "llama, biases": ("llama", {**TWO, **BIASED, "mlp_bias": True, "rotary_scaling": YARN}),
    "mistral": ("mistral", {**TWO, "window": 7}),
    "qwen2": ("qwen2", {**TWO, "window": [None, None, 7], "attention_out_bias": False}),
    "qwen3": ("qwen3", {**TWO, **UNBIASED, "head_dim": 10, "rotary_theta": 1e6}),
    "smollm3": ("smollm3", {**TWO, **UNBIASED, "rotary_theta": [2e6, None, 2e6]}),
    "gemma": ("gemma", {**TWO, **UNBIASED, "embedding_scale": 8.0, "tied": True}),
    "gemma2": (
        "gemma2",
        {**TWO, **UNBIASED, "embedding_scale": 8.0, "attention_scale": 20**-0.5, "tied": True,
         "window": [7, None, 7]},
    ),
    "gemma3": (
        "gemma3",
        {**TWO, **UNBIASED, "embedding_scale": 8.0, "attention_scale": 0.25, "tied": True,
         "window": [7, None, 7], "rotary_theta": [1e3, 5e4, 1e3],
         "rotary_scaling": [None, {"rope_type": "linear", "factor": 2.0}, None]},
    ),
    "phi": ("phi", {**TWO, "qk_norm": "none"}),
    "phi, norms": ("phi", {"qk_norm": "before_rotary"}),
    "phi3": ("phi3", {**TWO, "window": 7}),
    "gpt-neox": ("gpt-neox", {"mlp_dim": 80}),
    "gpt-neox, sequential": ("gpt-neox", {"residual": "sequential", "rotary_fraction": 0.5}),
    "gptj": ("gptj", {"rotary_fraction": 0.5}),
    "codegen": ("codegen", {"rotary_fraction": 0.5}),
    "gpt-neo": ("gpt-neo", {"window": [None, 6, None], "tied": True}),
    "falcon": ("falcon", {**UNBIASED, "num_kv_heads": 1, "residual": "parallel_one_norm"}),
    "falcon, sequential": ("falcon", {**BIASED, "mlp_bias": True, "residual": "sequential"}),
    "falcon, one norm": ("falcon", {**UNBIASED, **TWO, "residual": "parallel_one_norm"}),
    "falcon-40b": ("falcon-40b", {**UNBIASED, **TWO, "residual": "parallel"}),
    "bloom": ("bloom", {"norm": "residual", "tied": True}),
    "gptbigcode": ("gptbigcode", {"num_kv_heads": 1, "tied": True}),
    "gptbigcode, all": ("gptbigcode", {"tied": True, "mlp_dim": 80}),
    "starcoder2": ("starcoder2", {**TWO, "window": 7, "tied": True}),
    "mpt": ("mpt", {"attention_scale": 0.3, "tied": True}),
    "cohere": ("cohere", {**TWO, **UNBIASED, "tied": True}),
    "cohere2": (
        "cohere2",
        {**TWO, **UNBIASED, "tied": True, "window": [7, None, 7],
         "rotary_theta": [1e4, None, 1e4]},
    ),
    "olmo": ("olmo", {**TWO, **UNBIASED}),
    "olmo2": ("olmo2", {**TWO, **UNBIASED}),
    "olmo3": ("olmo3", {**TWO, **UNBIASED, "window": [7, 7, None]}),
    "stablelm": ("stablelm", {**TWO, "residual": "parallel_one_norm"}),
    "persimmon": ("persimmon", {"qk_norm": "before_rotary"}),
    "nemotron": ("nemotron", {**TWO, **UNBIASED}),
    "nanochat-hf": ("nanochat-hf", {**TWO, **UNBIASED}),
    "helium": ("helium", {**TWO, **UNBIASED}),
    "ernie4-5": ("ernie4-5", {**TWO, **BIASED, "mlp_bias": True, "tied": True}),
    "ministral": ("ministral", {**TWO, **UNBIASED, "window": [7, None, 7]}),
    "seed-oss": ("seed-oss", {**TWO, **UNBIASED, "qkv_bias": True}),
    "arcee": ("arcee", {**TWO, **UNBIASED}),
    "jais2": ("jais2", {**TWO, **BIASED}),
    "glm": ("glm", {**TWO, "qkv_bias": False}),
    "glm4": ("glm4", {**TWO}),
    "exaone4": ("exaone4", {**TWO, "window": [7, None, 7], "rotary_theta": [1e4, None, 1e4]}),
}  # fmt: skip
# Whose gradients and steps are compared, too.
TRAINED = ("llama", "qwen3", "gemma", "gpt-neox")


def config_for(name: str) -> ModelConfig:
    dialect, fields = DIALECTS[CASES[name][0]], CASES[name][1]
    assert dialect.hub
    (implied,) = dialect.says["model_type"].values()
    shown = shown_by([row.flax for row in dialect.rows if isinstance(row, Row)])
    usual = {"positions": "learned", **shown, **implied, **dialect.certain, **SIZES}
    return ModelConfig(**{**usual, **fields})


def random_params(config: ModelConfig) -> Tree:
    """At the scale of trained ones, norms and biases too."""
    draw = np.random.default_rng(3)

    def one(path: str, shape: tuple[int, ...]) -> np.ndarray:
        small = path.endswith(("bias", "scale"))
        middle = path.endswith("scale") and not config.norm_unit_offset
        return draw.normal(size=shape) * (0.1 if small else shape[-2] ** -0.5) + middle

    leaves = flatten(abstract_params(config)).items()
    return unflatten({path: one(path, leaf.shape) for path, leaf in leaves})


class Peer(NamedTuple):
    home: Path
    models: dict[str, Any]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """Each case as a model, as a folder, and as what transformers saves of it, in a process without jax."""
    home = tmp_path_factory.mktemp("classes")
    jobs = {}
    for name, (dialect, _) in CASES.items():
        config = config_for(name)
        model_directory.save(home / name / "m", config, random_params(config), None, TOKENIZER)
        hub.directory_to_folder(home / name / "m", home / name / "out", dialect)
        folders = {"folder": str(home / name / "out"), "again": str(home / name / "again")}
        jobs[name] = {**folders, "prompt": "a b", "new": 8, "shard": "5GB"}
    (home / "none.json").write_text("[]")
    none = dict.fromkeys(("strings", "ids"), str(home / "none.json"))
    (home / "work.json").write_text(json.dumps({"models": jobs, "tokenizers": {}, **none}))
    program = [sys.executable, str(PROGRAMS / "transformers_peer.py")]
    done = subprocess.run(
        [*program, str(home / "work.json"), str(home / "found.json")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Peer(home, json.loads((home / "found.json").read_text())["models"])


@pytest.mark.parametrize("name", CASES)
def test_transformers_opens_the_folder_without_jax(name: str, peer: Peer) -> None:
    """And writes our greedy text. Its classes compute norms and rotations in float32 at best."""
    theirs = peer.models[name]
    assert theirs["class"] == DIALECTS[CASES[name][0]].hub.architecture  # type: ignore[union-attr]
    assert theirs["problems"] == []
    ids, start = theirs["ids"], len(TOKENIZER.encode("a b"))
    assert len(ids) == start + 8
    assert theirs["text"] == TOKENIZER.decode(ids)
    rows = np.array([np.arange(24), ids + [0] * (24 - len(ids))])
    # Four rows, so that this is the program that `verify` compiles.
    model, example = jaxgpt.load(peer.home / name / "m"), Example(np.resize(rows, (4, 24)))
    logits = parity.flax_stages(exact_model(model), example)["logits"]
    require_close(logits[:1], np.array(theirs["logits"]), 1e-4)
    assert [*logits[1, start - 1 : len(ids) - 1].argmax(axis=-1)] == ids[start:]


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_again_is_the_model(name: str, peer: Peer) -> None:
    """All of its config.json is read, which transformers writes in words of its own."""
    given = {} if CASES[name][0] != "bloom" else {"context_length": 24}  # which has no word for it
    again, config = to_flax(peer.home / name / "again", **given), config_for(name)
    assert again.config == config
    assert not again.report.assumed
    before = flatten(model_directory.ModelDirectory(peer.home / name / "m").params())
    after = flatten(again.params)
    assert before.keys() == after.keys()
    assert all(after[path].tobytes() == value.tobytes() for path, value in before.items())


@pytest.mark.parametrize("name", CASES)
def test_the_class_computes_the_same_in_float64(name: str, peer: Peer) -> None:
    page = verify(
        peer.home / name / "out", peer.home / name / "m", train_steps=3 * (name in TRAINED)
    )
    # BLOOM's class has the root of 2 / pi with 8 digits.
    assert max(stage.relative for stage in page.stages) < (2e-8 if name == "bloom" else 1e-9)
    assert not page.weights
    assert page.ran.startswith("transformers:")
    if page.training:  # also of GPT-NeoX's key biases, whose gradients are nothing but rounding
        assert max(row.max for row in page.training.rows) < 1e-9
    assert (page.training is not None) == (name in TRAINED)


def test_every_class_has_a_case() -> None:
    old = {"gpt2", "gpt1", "opt"}  # in test_hub
    assert {dialect for dialect, _ in CASES.values()} | old == {
        name for name, dialect in DIALECTS.items() if dialect.hub
    }


# A class -> the dialect that its bare file is taken for, and fields that are then assumed wrongly.
BARE = {
    "gemma": ("llama", {"activation", "norm_unit_offset", "embedding_scale"}),
    "qwen2": ("qwen2", {"window"}),
}


@pytest.mark.parametrize("name", BARE)
def test_a_bare_file_that_looks_like_another_is_not_called_proven(
    name: str, peer: Peer, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Its tensors have Llama's names, so that the fields in which it differs must be named."""
    dialect, unseen = BARE[name]
    (tmp_path / "bare.safetensors").symlink_to(peer.home / name / "out" / "model.safetensors")
    sizes = {"num_heads": 4, "context_length": 24}
    given = [word for field, value in sizes.items() for word in ("--set", f"{field}={value}")]
    moved = command(
        "jaxgpt-convert", "to-flax", tmp_path / "bare.safetensors", tmp_path / "m", *given
    )
    assert moved.code == 0, moved
    assert f"({dialect})" in moved.out
    config, right = jaxgpt.load(tmp_path / "m").config, config_for(name)
    assert {field for field in unseen if getattr(config, field) != getattr(right, field)} == unseen
    assert ("multiplies by 1 + weight" in moved.err) == (name == "gemma")
    outcome = command("jaxgpt-convert", "verify", tmp_path / "bare.safetensors", tmp_path / "m")
    assert outcome.code == 4, outcome
    for field in unseen:
        assert field in moved.err, moved
        assert field in outcome.out + outcome.err, outcome


def paths_of(config: ModelConfig) -> set[str]:
    return set(flatten(abstract_params(config)))


def test_the_plainest_class_that_can_hold_a_model_comes_first() -> None:
    for name, expected in (("llama", "llama"), ("mistral", "mistral"), ("gemma", "gemma")):
        config = config_for(name)
        assert folders_for(config, paths_of(config))[0].name == expected
    plain = ModelConfig(**{**vars(config_for("mistral")), "window": None})
    able = [dialect.name for dialect in folders_for(plain, paths_of(plain))]
    assert able[0] == "llama"
    assert {"mistral", "smollm3"} <= {*able}
    assert not {"qwen3", "gemma", "olmo2", "gpt-neox"} & {*able}


@pytest.mark.parametrize(
    ("name", "dialect", "fields", "says"),
    [
        ("llama", "llama", {"window": 7}, "window is 7, but LlamaForCausalLM has None"),
        ("llama", "llama", {"model_dim": 66}, "num_heads 4 does not divide model_dim 66"),
        ("mistral", "llama", {}, "It can be written with --dialect mistral"),
        ("gemma2", "gemma2", {"attention_scale": 0.3}, "attention_scale is 0.3, but Gemma2"),
        ("gemma", "gemma", {"embedding_scale": 1.0}, "embedding_scale is 1.0, but Gemma.* has 8.0"),
        ("gptj", "gptj", {"rotary_theta": 5e5}, "rotary_theta is 500000.0, but GPTJ.* has 10000.0"),
        ("bloom", "bloom", {"activation": "relu"}, "activation is 'relu', but Bloom.* has 'gelu_"),
        (
            "codegen",
            "codegen",
            {"num_heads": 6, "num_kv_heads": 6, "model_dim": 96},
            "6 of kv do not divide into 4",
        ),
    ],
)
def test_what_a_class_cannot_compute_is_refused_with_a_way_out(
    name: str, dialect: str, fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    config = ModelConfig(**{**vars(config_for(name)), **fields})
    model_directory.save(tmp_path / "m", config, random_params(config), None, TOKENIZER)
    with pytest.raises(UserError, match=says):
        hub.directory_to_folder(tmp_path / "m", tmp_path / "out", dialect)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "kv heads": ("llama", {"num_key_value_heads": 3}, "3 key and value heads .* do not divide 4"),
    "kv heads of fewer": ("llama", {"num_key_value_heads": 4}, "tensors show 2|expected"),
    "longrope": (
        "llama",
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}, "rope_scaling": None},
        "rope_type is 'longrope'.*no counterpart",
    ),
    "dynamic": (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None},
        "rope_type is 'dynamic'.*known are linear, llama3, yarn",
    ),
    "two stretchings": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "rope_scaling has .*, but rope_parameters has",
    ),
    "two bases": ("llama", {"rope_theta": 5.0}, "rope_theta is 5.0, but rope_theta in the rotary"),
    "unknown stretching": (
        "llama",
        {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}, "rope_scaling": None},
        "rope_type is 'spiral'.*no counterpart",
    ),
    "stretching without factor": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}, "rope_scaling": None},
        "factor",
    ),
    "stretching by nothing": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 0}, "rope_scaling": None},
        "factor",
    ),
    "stretching in words": (
        "llama",
        {"rope_scaling": "linear", "rope_parameters": None},
        "rope_scaling = 'linear'",
    ),
    "a base below zero": (
        "llama",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": -5.0},
            "rope_scaling": None,
            "rope_theta": None,
        },
        "rotary_theta must be positive, but is -5.0",
    ),
    "kv heads, none": (
        "llama",
        {"num_key_value_heads": 0},
        "num_key_value_heads = 0 is impossible",
    ),
    "kv heads in words": (
        "llama",
        {"num_key_value_heads": "two"},
        "num_key_value_heads = 'two' is",
    ),
    "kv heads of one matrix": (
        "phi3",
        {"num_key_value_heads": 4},
        r"\(64, 64\), expected .* \(64, 32\)|are wrong",
    ),
    "heads": ("llama", {"num_attention_heads": 8}, r"\(40, 64\), expected .* = \(80, 64\)"),
    "heads of one matrix": (
        "phi3",
        {"num_attention_heads": 3},
        "2 key and value .* divide 3 heads",
    ),
    "head of nothing": ("llama", {"head_dim": 0}, "head_dim = 0 is impossible for head_dim"),
    "tied": ("mistral", {"tie_word_embeddings": True}, "tied = True, but the tensors show False"),
    "untied": ("llama", {"tie_word_embeddings": False}, "tied = False, but the tensors show True"),
    "biases of the MLP": (
        "llama",
        {"mlp_bias": True},
        "mlp_bias = True, but the tensors show False",
    ),
    "biases, none": (
        "llama, biases",
        {"attention_bias": False},
        "qkv_bias = False, but .* show True",
    ),
    "window": ("mistral", {"sliding_window": -7}, "sliding_window = -7 is not a number of tokens"),
    "window in words": (
        "mistral",
        {"sliding_window": "all"},
        "sliding_window = 'all' is not a number",
    ),
    "rotated part": (
        "gpt-neox",
        {"rotary_pct": 1.5, "rope_parameters": None},
        "rotary_fraction 1.5 of",
    ),
    "epsilon": ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0 is impossible for norm_eps"),
    "cap": ("gemma2", {"attn_logit_softcapping": -50.0}, "softcapping = -50.0 is imposs"),
    "scale": ("gemma2", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar = -4 is not a width"),
    "gate of another kind": (
        "gemma",
        {"hidden_act": "relu2_glu"},
        "hidden_act = 'relu2_glu'; supported values are",
    ),
    "one norm": ("falcon", {"parallel_attn": False}, "sequential, but .* show parallel_one_norm"),
    "width": ("llama", {"intermediate_size": 99}, "mlp_dim = 99, but the tensors show 80"),
    "blocks": ("llama", {"num_hidden_layers": 9}, "num_blocks = 9, but the tensors show 3"),
    "head": ("llama", {"head_dim": 8}, "head_dim = 8, but the tensors show 10"),
    "biases in words": ("llama", {"attention_bias": "all"}, "attention_bias = 'all' is neither"),
    "a base in words": (
        "llama",
        {"rope_parameters": None, "rope_theta": "big"},
        "rope_theta = 'big' is not a number",
    ),
    "biases": ("llama", {"attention_bias": True}, "qkv_bias = True, but the tensors show False"),
    "activation": ("llama", {"hidden_act": "mish"}, "hidden_act = 'mish'; supported values are"),
    "layers": ("gemma2", {"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    "kinds": (
        "gemma2",
        {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
        "chunked_attention",
    ),
    "rotates": ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries"),
    "both ways": ("gemma", {"use_bidirectional_attention": True}, "in both directions"),
    "alibi": ("falcon", {"alibi": True}, "rounds its ALiBi biases to bfloat16"),
    "clipped": ("olmo", {"clip_qkv": 8.0}, "cuts queries, keys and values to a range"),
    "each head's": ("stablelm", {"qk_layernorm": True}, "weights of their own for each head"),
    "experts": ("llama", {"model_type": "mixtral"}, "a Llama-like decoder with experts"),
    "residuals": ("llama", {"model_type": "granite"}, "residual_multiplier"),
    "another class": ("llama", {"model_type": "bloom"}, "is missing|is unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_config_that_cannot_be_is_told_in_a_paragraph(
    case: str, peer: Peer, tmp_path: Path, refused: Callable[..., str]
) -> None:
    name, words, says = BAD[case]
    source = peer.home / name / "out"
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **words}))
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    said = refused("jaxgpt-convert", "to-flax", tmp_path, tmp_path / "m")
    assert re.search(says, said), said
    assert said.count("--ignore-config") <= 1


def test_older_words_of_a_class_are_followed() -> None:
    """Releases before 5 had rope_theta and rope_scaling, and left out what is the class's default."""
    from convert.names.stated import stated_fields

    def fields(name: str, **words: Any) -> dict[str, Any]:
        dialect = DIALECTS[name]
        (kind,) = dialect.says["model_type"]
        sizes = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
        stated = stated_fields({"c": {"model_type": kind, **sizes, **words}}, dialect, "f")
        return {field: value for field, (value, _) in stated.items()}

    old = fields("llama", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2})
    assert (old["rotary_theta"], old["tied"]) == (5e5, False)
    assert old["rotary_scaling"] == {"rope_type": "linear", "factor": 2}
    gemma = fields("gemma", hidden_act="gelu")
    assert (gemma["tied"], gemma["activation"], gemma["embedding_scale"]) == (True, "gelu_tanh", 8)
    two = fields("gemma2")
    assert two["window"] == [4096, None, 4096, None]
    assert (two["logit_softcap"], two["attention_softcap"]) == (30.0, 50.0)
    assert fields("gemma2", final_logit_softcapping=None)["logit_softcap"] is None
    three = fields("gemma3", sliding_window_pattern=2, rope_theta=1e6, rope_local_base_freq=1e4)
    assert three["rotary_theta"] == [1e4, 1e6, 1e4, 1e6]
    assert fields("gpt-neox", partial_rotary_factor=0.5)["rotary_fraction"] == 0.5
    neox = fields("gpt-neox", rotary_pct=0.5, rotary_emb_base=25000)
    assert (neox["rotary_fraction"], neox["rotary_theta"]) == (0.5, 25000)
    assert fields("gpt-neox")["rotary_fraction"] == 0.25
    assert fields("smollm3")["rotary_theta"] == [2e6, 2e6, 2e6, None]
    switched = fields("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=3)
    assert switched["window"] == [None, None, None, 8]
    assert fields("qwen2", sliding_window=8)["window"] is None
    assert fields("stablelm", partial_rotary_factor=0.34)["rotary_fraction"] == 5 / 16


def test_a_folder_says_nothing_that_is_not_read() -> None:
    """What is written for a case and read again has no field that differs from the model's."""
    for name in CASES:
        words, problems = config_words(DIALECTS[CASES[name][0]], config_for(name))
        assert not problems, name
        assert words["model_type"]
