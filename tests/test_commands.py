"""The commands as users see them: their output, exit codes, start-up time, and files."""

import collections
import json
import pickle
import resource
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgpt
from convert.__main__ import main as _convert_main  # noqa: F401  (imported here, so that no test is charged for it)
from tests.helpers import PRIMES, config_of, random_params


def test_an_unknown_command_is_refused_with_a_suggestion(
    refused: Callable[..., str],
) -> None:
    assert "There is no command smaple. Did you mean sample?" in refused("jaxgpt", "smaple", "run")
    assert "There is no command x. There are: inspect, to-flax," in refused("jaxgpt-convert", "x")


def test_the_version_is_printed(command: Callable[..., Any]) -> None:
    assert command("jaxgpt", "--version").out == f"jaxgpt {jaxgpt.__version__}\n"


HELP = """
import sys
sys.argv = ["x", "--help"]
from {program}.__main__ import main
try:
    main()
finally:
    print(sorted({{"jax", "torch", "flax", "numpy"}} & sys.modules.keys()))
"""


def cpu_seconds(code: str) -> tuple[float, str]:
    """The processor time of a fresh interpreter that runs `code`, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--version >&-", 0, ""),
        (
            "--version >/dev/full",
            1,
            "jaxgpt: the disk is full: make room, or name another place.\n",
        ),
        ("runs . >&-", 0, ""),
        ("runs nowhere 2>&-", 2, ""),
        (
            "prepare - --out x <&-",
            2,
            "jaxgpt: Standard input is closed, and text should come from it.\n",
        ),
    ],
)
def test_closed_or_full_output_streams(words: str, code: int, said: str, tmp_path: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m jaxgpt {words}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31mred", "no text \udcff"])
def test_an_error_is_one_line_whatever_the_file_name(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused("jaxgpt", "eval", tmp_path / name)
    assert said.strip().isprintable()
    assert ascii(name)[1:-1] in said


@pytest.mark.parametrize("program", ["jaxgpt", "convert"])
def test_help_is_instant_and_imports_nothing_heavy(program: str) -> None:
    """Ten to twenty times the processor time of an empty interpreter; importing jax takes fifty."""
    empty, help_page = [], []
    for _ in range(4):
        empty.append(cpu_seconds("pass")[0])
        seconds, printed = cpu_seconds(HELP.format(program=program))
        help_page.append(seconds)
        assert printed.endswith("[]\n"), printed[-200:]
    assert min(help_page) < 35 * min(empty)


def test_importing_the_packages_costs_nothing() -> None:
    code = (
        "import sys, jaxgpt, convert; print(sorted({'jax', 'torch', 'numpy'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], "text.txt"),
        (b"", [], "empty"),
        (b"abc", [], "too short"),
        (b"ok so far \xff and on" * 9, [], "10"),
        (b"fine text " * 9, ["--tokenizer", "nonsense"], "There is no tokenizer nonsense"),
        (b"fine text " * 9, ["--val", "1.5"], "between 0 and 1, but is 1.5"),
    ],
)
def test_text_that_cannot_be_prepared_is_refused(
    content: bytes | None,
    words: list[str],
    message: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    text = refused("jaxgpt", "prepare", tmp_path / "text.txt", "--out", tmp_path / "data", *words)
    assert message in text
    assert not (tmp_path / "data").exists()


def test_invalid_utf8_can_be_replaced(tmp_path: Path, command: Callable[..., Any]) -> None:
    (tmp_path / "text.txt").write_bytes(b"ok so far \xff and on" * 9)
    outcome = command(
        "jaxgpt",
        "prepare",
        tmp_path / "text.txt",
        "--out",
        tmp_path / "data",
        "--errors",
        "replace",
        "--val",
        "0.2",
    )
    assert outcome.code == 0, outcome
    assert "tokens to train on" in outcome.out


torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def saved(make_reference: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A function (state dict -> file), for files with one thing wrong in them."""

    def save(change: Callable[[dict[str, Any]], Any] = lambda state: state) -> Path:
        path = tmp_path / "weights.pt"
        torch.save(change(make_reference(PRIMES).state_dict()), path)
        return path

    return save


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_a_round_trip_through_files_is_identity(
    suffix: str, dtype: Any, saved: Callable[..., Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    source = saved(
        lambda state: collections.OrderedDict((k, v.to(dtype)) for k, v in state.items())
    )
    assert command("jaxgpt-convert", "to-flax", source, tmp_path / "m").code == 0
    out = tmp_path / f"back{suffix}"
    assert command("jaxgpt-convert", "to-torch", tmp_path / "m", out, "--dialect", "gpt").code == 0
    before = torch.load(source, weights_only=True)
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        after = load_file(out)
    else:
        after = torch.load(out, weights_only=True)
        assert list(after) == list(before)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name], value), name
    from convert.reference import GPT

    GPT(**PRIMES).to(dtype).load_state_dict(after, strict=True)


def test_inspect_shows_all_fields_and_reads_few_tensors(
    primes_file: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert.files import torch_tensors

    read, to_array = [], torch_tensors.to_array
    monkeypatch.setattr(
        torch_tensors,
        "to_array",
        lambda tensor: read.append(tuple(tensor.shape)) or to_array(tensor),
    )
    text = command("jaxgpt-convert", "inspect", primes_file).out
    for word in (
        "dialect     gpt",
        "tensors     81",
        "float32 x 81",
        "model_dim = 35",
        "activation = relu",
        "assumed",
    ):
        assert word in text, text
    said = command("jaxgpt-convert", "inspect", primes_file).err
    assert (
        "  --set norm=pre|post|residual|output\n  --set final_norm=true|false|unused\n  --set activation=relu|gelu"
        in said
    )
    assert set(read) == {
        (17, 35),
        (35,),
    }  # positions: are they sinusoids? and the final norm: was it ever applied?
    report = json.loads(
        command("jaxgpt-convert", "inspect", primes_file, "--json", "--set", "norm_eps=1e-6").out
    )
    assert report["read"]["num_heads"] == 5
    assert report["given"] == {"norm_eps": 1e-6}
    assert report["parameters"] == sum(value.numel() for value in torch.load(primes_file).values())


def test_the_report_is_kept_in_the_directory(
    primes_file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    outcome = command(
        "jaxgpt-convert", "to-flax", primes_file, tmp_path / "m", "--set", "activation=gelu"
    )
    assert "given:\n  activation = gelu" in outcome.out
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    assert about["model"]["activation"] == "gelu"
    assert about["fields"]["given"] == {"activation": "gelu"}
    assert "norm" in about["fields"]["assumed"]
    assert about["source"]["file"] == "weights.pt"
    assert about["source"]["dialect"] == "gpt"


class Foreign:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(200_000_000))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: p.unlink(), "does not exist"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:5000]), "5000"),
    "text": (
        lambda p: p.write_text("These are my weights.\n"),
        "not a torch, safetensors or Flax checkpoint",
    ),
    "LFS pointer": (
        lambda p: p.write_text(
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 19\n"
        ),
        "git lfs pull",
    ),
    "foreign globals": (lambda p: torch.save({"model": Foreign()}, p), "print"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps(Foreign(), protocol=4)), "print"),
    "whole module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "Linear"),
    "zip bomb": (zip_bomb, "200"),
    "flipped bit": (flip, "data"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.filterwarnings("error")
def test_broken_and_hostile_files_are_refused_and_nothing_is_written(
    damage: str, saved: Callable[..., Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = saved()
    act, message = DAMAGE[damage]
    act(path)
    text = refused("jaxgpt-convert", "to-flax", path, tmp_path / "m")
    assert str(path) in text
    assert message in text
    assert "executed" not in text
    assert not (tmp_path / "m").exists()
    refused("jaxgpt-convert", "inspect", path)


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


BIAS = "transformer_blocks.1.mhsa.compute.bias"
WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing, extra and mis-shaped": (
        lambda s: {
            **without(s, BIAS),
            "zebra": torch.ones(1),
            "vocab_projection.weight": torch.ones(35, 103),
        },
        "with 3 problems: zebra is unknown; transformer_blocks.1.mhsa.compute.bias is missing (d = (35,)); "
        "vocab_projection.weight is (35, 103), expected v d = (103, 35)",
    ),
    "NaN": (lambda s: {**s, BIAS: torch.full((35,), float("nan"))}, f"{BIAS} has 35"),
    "infinity": (lambda s: {**s, BIAS: torch.tensor([float("inf"), *[0.0] * 34])}, f"{BIAS} has 1"),
    "integers": (
        lambda s: {k: v.to(torch.int8) for k, v in s.items()},
        "token_embedding.weight is int8",
    ),
    "complex": (lambda s: {**s, BIAS: s[BIAS].to(torch.complex64)}, f"{BIAS} is complex64"),
    "mixed dtypes": (lambda s: {**s, BIAS: s[BIAS].half()}, "compute.bias has float16 and float32"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_tensors_are_refused_and_nothing_is_written(
    wrong: str, saved: Callable[..., Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    change, message = WRONG[wrong]
    path = saved(change)
    assert message in refused("jaxgpt-convert", "to-flax", path, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_too_large_for_a_dtype_are_refused(
    saved: Callable[..., Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = saved(lambda state: {**state, BIAS: state[BIAS] * 1e6})
    text = refused("jaxgpt-convert", "to-flax", path, tmp_path / "m", "--dtype", "float16")
    assert "blocks/attn/out/bias would become infinite in float16, which ends at 65504" in text


def test_nan_is_converted_if_allowed(
    saved: Callable[..., Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    path = saved(WRONG["NaN"][0])
    assert command("jaxgpt-convert", "to-flax", path, tmp_path / "m", "--allow-nonfinite").code == 0
    assert (
        command(
            "jaxgpt-convert", "to-torch", tmp_path / "m", tmp_path / "b.pt", "--dialect", "gpt"
        ).code
        == 0
    )
    assert torch.load(tmp_path / "b.pt")[BIAS].isnan().all()
    assert command("jaxgpt-convert", "verify", path, tmp_path / "m").code == 3


def test_other_wrong_input_is_refused(
    primes_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert f"{full} exists and is not an empty" in refused(
        "jaxgpt-convert", "to-flax", primes_file, full
    )
    assert [child.name for child in full.iterdir()] == ["thesis.txt"]
    assert "thesis.txt" in refused(
        "jaxgpt-convert", "to-flax", primes_file, full / "thesis.txt" / "m"
    )
    for tokenizer, message in [
        ("nowhere.json", "nowhere.json"),
        (full / "thesis.txt", "is not a tokenizer file"),
    ]:
        assert message in refused(
            "jaxgpt-convert", "to-flax", primes_file, tmp_path / "m", "--tokenizer", tokenizer
        )
    out = tmp_path / "m"
    for arguments, message in [
        (["--set", "num_heads=7"], "num_heads = 7 was given, but the tensors show 5"),
        (
            ["--set", "activaton=gelu"],
            "--set: there is no setting activaton. Did you mean activation?",
        ),
        (["--set", "num_heads=two"], "--set: num_heads takes a whole number, but got 'two'"),
        (["--set", "gelu"], "FIELD=VALUE"),
        (["--dialect", "lama"], "There is no dialect lama. Did you mean llama?"),
        (["--dialect", "zzz"], "There is no dialect zzz. There are: arcee, bloom, "),
    ]:
        assert message in refused("jaxgpt-convert", "to-flax", primes_file, out, *arguments)
        assert not out.exists()


def test_a_damaged_directory_is_refused(
    primes_file: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    command("jaxgpt-convert", "to-flax", primes_file, tmp_path / "m")
    for name in ("config.json", "weights/_METADATA"):
        copy = shutil.copytree(tmp_path / "m", tmp_path / "copy")
        flip(copy / name)
        text = refused("jaxgpt-convert", "to-torch", copy, tmp_path / "b.pt", "--dialect", "gpt")
        assert f"{name} has sha256" in text
        assert name in refused("jaxgpt-convert", "verify", primes_file, copy)
        shutil.rmtree(copy)
    assert not (tmp_path / "b.pt").exists()
    existing = tmp_path / "mine.pt"
    existing.write_text("mine")
    for out, message in [(existing, "exists"), (tmp_path / "b.onnx", ".onnx")]:
        assert message in refused(
            "jaxgpt-convert", "to-torch", tmp_path / "m", out, "--dialect", "gpt"
        )
    assert existing.read_text() == "mine"


def test_a_file_is_written_back_under_its_own_names(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Renamed, wrapped, nested, with masks, a fused projection and a tokenizer next to it."""
    from convert import to_torch
    from convert.dialects import DIALECTS

    config = config_of(DIALECTS["fused"])
    state = to_torch(random_params(config, np.dtype("float32")), config, "fused")
    renamed = {
        f"module.{name.replace('attn.qkv', 'attn.c_attn').replace('ln1', 'norm1')}": v
        for name, v in state.items()
    }
    renamed = {name.replace("ln2", "norm2"): value for name, value in renamed.items()}
    renamed |= {
        f"module.blocks.{i}.attn.bias": torch.ones(17, 17).tril().view(1, 1, 17, 17)
        for i in range(3)
    }
    chars = {i: chr(33 + i) for i in range(90)}
    torch.save(
        {"model_state": renamed, "itos": chars, "config": {"n_head": 5, "dropout": 0.1}},
        tmp_path / "w.pt",
    )
    outcome = command("jaxgpt-convert", "to-flax", tmp_path / "w.pt", tmp_path / "m")
    assert "num_heads = 5" in outcome.out
    assert "Its 90 characters" in outcome.out
    assert "--set qkv_order=by_part|by_head" in outcome.err
    assert command("jaxgpt", "sample", tmp_path / "m", "--prompt", "ABC", "--tokens", "3").code == 0
    assert (
        "All numbers are the same"
        in command("jaxgpt-convert", "verify", tmp_path / "w.pt", tmp_path / "m").out
    )
    assert command("jaxgpt-convert", "to-torch", tmp_path / "m", tmp_path / "back.pt").code == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert (back["itos"], back["config"]) == (chars, {"n_head": 5, "dropout": 0.1})
    assert back["model_state"].keys() == renamed.keys()
    assert all(torch.equal(back["model_state"][name], value) for name, value in renamed.items())


def test_a_model_that_was_trained_here_is_written_for_the_class_most_like_it(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    from jaxgpt.config import ModelConfig
    from jaxgpt.model import GPT, params_of
    from jaxgpt.storage import model_directory

    for fields, dialect in (
        ({}, "gpt"),
        ({"activation": "gelu_tanh", "head_bias": False}, "raschka"),
    ):
        config = ModelConfig(**PRIMES, **fields)
        model_directory.save(tmp_path / dialect, config, params_of(GPT(config)))
        outcome = command(
            "jaxgpt-convert", "to-torch", tmp_path / dialect, tmp_path / f"{dialect}.pt"
        )
        assert (outcome.code, outcome.err) == (0, "")
        assert f"of dialect {dialect}" in outcome.out


def test_a_model_in_an_attribute_of_another_is_found_but_no_deeper(
    tmp_path: Path, primes_file: Path
) -> None:
    from convert import inspect
    from convert.api import UnknownTensors

    state = torch.load(primes_file)
    torch.save({f"net.gpt.{name}": value for name, value in state.items()}, tmp_path / "w.pt")
    assert inspect(tmp_path / "w.pt").source.prefix == "net.gpt."
    torch.save({"a." * 3000 + name: value for name, value in state.items()}, tmp_path / "deep.pt")
    with pytest.raises(UnknownTensors):
        inspect(tmp_path / "deep.pt")
