"""The part of supply: no pickle is run, wherever somebody hides one in a file that is given.

Each pickle would write a file. It is given as a file of every kind, in every place that takes one.
"""

import functools
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.torture import scenes
from tests.torture.parts import Orders
from tests.torture.runner import Line
from tests.torture.scenes import Scene, call, refusal_of, require
from tests.torture.tasks import given_in

MARK = "was run"


class Call:
    """An object whose pickle calls a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def pickles(mark: Path) -> dict[str, bytes]:
    """Pickles by name; each writes the file `mark` when it is read."""
    import os
    import subprocess

    code = f"open({str(mark)!r}, 'w').close()"
    calls = {
        "exec": Call(exec, code), "eval": Call(eval, code), "open": Call(open, str(mark), "w"),
        "os.mkdir": Call(os.mkdir, str(mark)), "os.system": Call(os.system, f"touch '{mark}'"),
        "call": Call(subprocess.call, ["touch", str(mark)]), "touch": Call(Path.touch, mark),
        "tofile": Call(np.ndarray.tofile, np.zeros(1), str(mark)),
    }  # fmt: skip
    made = {
        f"{name} {protocol}": pickle.dumps(one, protocol)
        for name, one in calls.items()
        for protocol in (0, 2, 4, 5)
    }
    text = str(mark).encode()
    made["inst"] = b"(S'" + text + b"'\nS'w'\ni__builtin__\nopen\n."
    made["obj"] = b"(c__builtin__\nopen\nS'" + text + b"'\nS'w'\no."
    made["in a dict"] = pickle.dumps(
        {"model": {"w": calls["open"]}, "stoi": calls["exec"], "vocab_size": 3}
    )
    made["as a key"] = pickle.dumps(
        {"itos": {0: "a"}, "stoi": {"a": 0}, "more": [calls["os.mkdir"]]}, 2
    )
    return made


def npy(content: bytes) -> bytes:
    """An array of objects, whose pickle is `content`."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def torch_zip(content: bytes) -> bytes:
    """A zip archive as torch writes it, whose root is the pickle `content`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def torch_legacy(content: bytes) -> bytes:
    start = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(pickle.dumps(one, 2) for one in start) + content + pickle.dumps([], 2)


def npz(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", npy(content))
    return file.getvalue()


def msgpack(content: bytes) -> bytes:
    """A map as Flax writes it, in which an array is an extension with the pickle `content`."""
    extension = b"\xc9" + struct.pack(">Ib", len(content), 1) + content
    return b"\x81\xa6params\x81\xa6kernel" + extension


def parquet(content: bytes) -> bytes:
    """A table whose column says that a pickle has its type."""
    import pyarrow
    import pyarrow.parquet

    names = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": content,
    }
    field = pyarrow.field("text", pyarrow.string(), metadata=names)
    table = pyarrow.table({"text": ["a wood"] * 40}, schema=pyarrow.schema([field], metadata=names))
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "npy": npy, "npz": npz, "torch zip": torch_zip, "torch legacy": torch_legacy, "msgpack": msgpack,
    "parquet": parquet, "after text": lambda content: b"a text\n" * 40 + content,
}  # fmt: skip
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
    """A pickle in one of the containers, in one of the places."""
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


def _checkpoint(random: Random, path: Path, content: bytes) -> Any:
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


def _folder(random: Random, path: Path, content: bytes) -> Any:
    """A file in a folder of Hugging Face."""
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


def _tokenizer(random: Random, path: Path, content: bytes) -> Any:
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


def _text(random: Random, path: Path, content: bytes) -> Any:
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


def _own_folder(random: Random, path: Path, content: bytes) -> Any:
    """A file of a model directory, with new checksums."""
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


def _prepared(random: Random, path: Path, content: bytes) -> Any:
    """A file of a prepared directory, with new checksums."""
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


def _config(random: Random, path: Path, content: bytes) -> Any:
    file = path / random.choice(("run.toml", "run"))
    file.write_bytes(content)
    return call("jaxgpt", random.choice(("train", "plan")), file)


SCENES = (Scene("pickles", run_no_pickle),)
LINES = tuple(scene.name for scene in SCENES)
run: Callable[[Orders], list[Line]] = functools.partial(scenes.run, SCENES)
