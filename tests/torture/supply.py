"""The part of supply: no pickle is run, wherever it is hidden in an input file.

Each pickle would create a file. It is put into files of every format, and given wherever a command
takes a file.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.torture import situations
from tests.torture.parts import Orders
from tests.torture.pickles import CONTAINERS, pickles
from tests.torture.runner import Line
from tests.torture.situations import Outcome, Situation, call, refusal_of, require
from tests.torture.tasks import given_in

MARK = "was run"


FILES = (
    "w.pt",
    "w.pth",
    "w.bin",
    "w.safetensors",
    "w.npy",
    "w.npz",
    "w.pkl",
    "flax_model.msgpack",
    "ckpt.pt",
    "w",
)
TOKENIZERS = (
    "tokenizer.json",
    "meta.pkl",
    "vocab.json",
    "tokenizer.pkl",
    "it.pickle",
    "tokenizer.model",
    "t",
)
TEXTS = (
    "t.txt",
    "t.jsonl",
    "t.parquet",
    "t.bin",
    "t.npy",
    "t.pkl",
    "train.bin",
    "t.tsv",
    "t.arrow",
)
PARTS = (
    "config.json",
    "tokenizer.json",
    "manifest.json",
    "weights/_METADATA",
    "weights/manifest.ocdbt",
    "weights/d",
)


def run_no_pickle(random: Random, path: Path) -> str:
    """A pickle, hidden in a file of a random format, is given to a random command."""
    mark = path / MARK
    content = CONTAINERS[random.choice(list(CONTAINERS))](
        random.choice(list(pickles(mark).values()))
    )
    place = random.choice(
        (_checkpoint, _folder, _tokenizer, _text, _own_folder, _prepared, _config)
    )
    ended = place(random, path, content)
    require(not mark.exists(), f"a pickle was run: {place.__name__}: {ended}")
    return refusal_of(ended)


def _checkpoint(random: Random, path: Path, content: bytes) -> Outcome:
    file = path / random.choice(FILES)
    file.write_bytes(content)
    model = given_in(path.parent) / "model"
    words: tuple[tuple[object, ...], ...] = (
        ("jaxgpt-convert", "inspect", file), ("jaxgpt-convert", "to-flax", file, path / "out"),
        ("jaxgpt-convert", "verify", file, model), ("jaxgpt-convert", "probe", file, "--text", file),
        ("jaxgpt", "eval", file), ("jaxgpt", "sample", model, "--prompt-file", file),
        ("jaxgpt", "train", "--init", file, f"--data.path={file}", f"--run.dir={path / 'run'}"),
    )  # fmt: skip
    return call(*random.choice(words))


def _folder(random: Random, path: Path, content: bytes) -> Outcome:
    """`content` as a file of a Hugging Face folder."""
    folder = path / "hf"
    shutil.copytree(given_in(path.parent) / "hf", folder)
    names = [file.name for file in folder.iterdir()]
    names += [
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer_config.json",
        "meta.pkl",
        "modeling_it.py",
    ]
    (folder / random.choice(sorted(names))).write_bytes(content)
    if random.random() < 0.5:
        config = {
            "auto_map": {"AutoModelForCausalLM": "modeling_it.Model"},
            "trust_remote_code": True,
        }
        known = json.loads((given_in(path.parent) / "hf" / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **config}))
    if random.random() < 0.5:
        return call("jaxgpt-convert", "inspect", folder)
    return call("jaxgpt-convert", "to-flax", folder, path / "out")


def _tokenizer(random: Random, path: Path, content: bytes) -> Outcome:
    file = path / random.choice(TOKENIZERS)
    file.write_bytes(content)
    given = given_in(path.parent)
    words: tuple[tuple[object, ...], ...] = (
        ("jaxgpt", "sample", given / "model", "--prompt=a", "--tokens=2", f"--tokenizer={file}"),
        ("jaxgpt", "look", given / "model", "--text=a", f"--tokenizer={file}"),
        ("jaxgpt", "prepare", given / "text.txt", f"--out={path / 'out'}", f"--tokenizer={file}"),
        ("jaxgpt-convert", "to-flax", given / "hf", path / "out", f"--tokenizer={file}"),
    )
    return call(*random.choice(words))


def _text(random: Random, path: Path, content: bytes) -> Outcome:
    file = path / random.choice(TEXTS)
    file.write_bytes(content)
    if random.random() < 0.3:
        (path / "val.bin").write_bytes(content)
        (path / "meta.pkl").write_bytes(content)
    source = random.choice((file, path))
    if random.random() < 0.5:
        return call("jaxgpt", "prepare", source, f"--out={path / 'out'}", "--errors=replace")
    return call(
        "jaxgpt",
        "train",
        "quickstart",
        f"--data.path={source}",
        f"--run.dir={path / 'run'}",
        "--train.steps=1",
    )


def _own_folder(random: Random, path: Path, content: bytes) -> Outcome:
    """`content` as a file of a model directory whose manifest is made again."""
    from jaxgpt.system.directories import write_manifest

    model, text = path / "model", given_in(path.parent) / "text.txt"
    shutil.copytree(given_in(path.parent) / "model", model)
    name = random.choice(PARTS)
    file = (
        random.choice(sorted((model / name).rglob("*")))
        if (model / name).is_dir()
        else model / name
    )
    if file.is_dir():
        file /= "it"
    file.write_bytes(content)
    if name != "manifest.json":
        write_manifest(model)
    words: tuple[tuple[object, ...], ...] = (
        ("jaxgpt", "sample", model, "--prompt=a", "--tokens=2"), ("jaxgpt", "look", model, "--text=a"),
        ("jaxgpt", "export", model, f"--out={path / 'out'}"), ("jaxgpt", "runs", path),
        ("jaxgpt-convert", "to-torch", model, path / "w.pt"),
        ("jaxgpt", "train", "--init", model, f"--data.path={text}", f"--run.dir={path / 'run'}"),
    )  # fmt: skip
    return call(*random.choice(words))


def _prepared(random: Random, path: Path, content: bytes) -> Outcome:
    """`content` as a file of a prepared directory whose manifest is made again."""
    from jaxgpt.system.directories import write_manifest

    data = path / "data"
    shutil.copytree(given_in(path.parent) / "run" / "data", data)
    file = random.choice(sorted(data.iterdir()))
    file.write_bytes(content)
    if file.name != "manifest.json":
        write_manifest(data)
    given = given_in(path.parent)
    words: tuple[tuple[object, ...], ...] = (
        ("jaxgpt", "eval", given / "run", f"--data={data}"),
        ("jaxgpt", "train", given / "run.toml", f"--data.path={data}", f"--run.dir={path / 'run'}"),
    )
    return call(*random.choice(words))


def _config(random: Random, path: Path, content: bytes) -> Outcome:
    file = path / random.choice(("run.toml", "run"))
    file.write_bytes(content)
    return call("jaxgpt", random.choice(("train", "plan")), file)


SITUATIONS = (Situation("pickles", run_no_pickle),)
LINES = tuple(situation.name for situation in SITUATIONS)
run: Callable[[Orders], list[Line]] = functools.partial(situations.run, SITUATIONS)
