"""Files with extreme numbers: weights, moments of an optimiser, ids, and tiny texts."""

import json
from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

from tests.torture import valid_files
from tests.torture.odd_settings import require_sound
from tests.torture.readings import checkpoint_file, plain
from tests.torture.situations import call, refusal_of, require

DTYPES = ("float16", "bfloat16", "float32", "float64")
BAD = (np.nan, np.inf, -np.inf)
RUN = (
    "--model.context_length=4",
    "--model.model_dim=4",
    "--model.num_heads=1",
    "--model.num_blocks=1",
)
SHORT = (
    "--train.steps=2",
    "--train.batch_size=2",
    "--train.eval_every=1",
    "--train.sample_tokens=2",
)


def _edges(dtype: np.dtype) -> tuple[float, ...]:
    """Extreme finite numbers of `dtype`."""
    info = ml_dtypes.finfo(dtype)
    return (
        float(info.smallest_subnormal),
        -float(info.tiny),
        float(info.max),
        float(info.min),
        -0.0,
        1e-40,
    )


def _with(random: Random, array: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """`array` with some elements replaced by random ones of `values`."""
    changed = array.copy()
    for _ in range(random.choice((1, 1, 3, 20))):
        changed.flat[random.randrange(changed.size)] = random.choice(values)
    return changed


def weights(random: Random, path: Path) -> str:
    """NaN and infinity are refused unless allowed, all bits come back, and no page shows NaN."""
    dtype = np.dtype(random.choice(DTYPES[:1] + DTYPES[2:]))
    bad = random.random() < 0.6
    state = {name: array.astype(dtype) for name, array in valid_files.gpt2_state(0).items()}
    name = random.choice(sorted(name for name in state if not name.startswith("lm_head")))
    state[name] = _with(random, state[name], BAD if bad else _edges(dtype))
    file = path / random.choice(("w.pt", "w.safetensors"))
    _write(file, state)
    (path / "config.json").write_text(json.dumps(valid_files.GPT2))
    ended = call("jaxgpt-convert", "to-flax", file, path / "model")
    if bad:
        require(ended.code == 2 and "--allow-nonfinite" in ended.err, f"{name} with NaN: {ended}")
        require(not (path / "model").exists(), "a model with NaN was written")
        ended = call("jaxgpt-convert", "to-flax", file, path / "model", "--allow-nonfinite")
    require(refusal_of(ended) == "", f"{ended.err[-300:]}")
    back = path / random.choice(("back.pt", "back.safetensors"))
    ended = call("jaxgpt-convert", "to-torch", path / "model", back)
    require(refusal_of(ended) == "", ended.err[-300:])
    same = checkpoint_file(back)["tensors"] == checkpoint_file(file)["tensors"]
    require(same, f"{name} of {file.suffix} in {dtype} did not come back as it was")
    return _used(random, path)


def _write(file: Path, state: dict[str, np.ndarray]) -> None:
    import torch
    from safetensors.numpy import save_file

    if file.suffix == ".safetensors":
        save_file(state, file, {"format": "pt"})
    else:
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)


def _used(random: Random, path: Path) -> str:
    """Use the model in `path`: a command refuses it, or shows no NaN."""
    model, out = path / "model", path / "out"
    write_ids(path / "data", np.arange(40) % 23, 23)
    words = random.choice((
        ("eval", model, f"--data={path / 'data'}", "--batch-size=2"),
        ("sample", model, "--prompt=1 2", "--tokens=3"),
        ("look", model, "--text=1 2 3"),
        ("export", model, f"--out={out}"),
        ("train", "--init", model, f"--data.path={path / 'data'}", f"--run.dir={out}", *SHORT),
    ))  # fmt: skip
    ended = call("jaxgpt", *words)
    if refusal := refusal_of(ended, (2,)):
        require(
            words[0] == "train" or not out.exists(), f"{words[0]} is refused, and leaves a file"
        )
    else:
        pages = ended.out.lower().split()
        require("nan" not in pages and "inf" not in pages, f"{words[0]} shows {ended.out[-200:]}")
    if words[0] == "train" and out.exists():
        require_sound(out)
    return refusal


def moments(random: Random, path: Path) -> str:
    """Moments of AdamW with NaN, infinity, or extreme numbers."""
    import torch

    valid_files.whole_checkpoint(path, 0)
    root = torch.load(path / "ckpt.pt", weights_only=True)
    bad = random.random() < 0.5
    state = random.choice(list(root["optimizer"]["state"].values()))
    key = random.choice(("exp_avg", "exp_avg_sq", "step"))
    values = BAD if bad else (-1e-40, 3e38, 1e-45, -0.0, 0.0)
    state[key] = torch.from_numpy(_with(random, np.atleast_1d(state[key].numpy()), values)).reshape(
        state[key].shape
    )
    torch.save(root, path / "ckpt.pt")
    words = "to-flax", path / "ckpt.pt", path / "model", "--set", "num_heads=2"
    ended = call("jaxgpt-convert", *words)
    if bad:
        require(ended.code == 2, f"{key} with NaN was taken: {ended}")
        return refusal_of(ended)
    if refusal := refusal_of(ended, (2,)):
        return refusal
    if random.random() < 0.5:
        back = call("jaxgpt-convert", "to-torch", path / "model", path / "back.pt")
        if refusal := refusal_of(back, (2,)):
            return refusal
        again = torch.load(path / "back.pt", weights_only=True)
        if "optimizer" in again:
            same = plain(again["optimizer"]["state"]) == plain(root["optimizer"]["state"])
            require(same, f"{key} did not come back as it was")
        return ""
    write_ids(path / "data", np.arange(60) % 23, 23)
    ended = call(
        "jaxgpt", "train", "--init", path / "model", f"--data.path={path / 'data'}", f"--run.dir={path / 'run'}",
        "--run.go_on=true", "--train.steps=9", "--train.save_every=1", "--train.batch_size=2",
    )  # fmt: skip
    if (path / "run" / "checkpoints").exists():
        require_sound(path / "run")
    return refusal_of(ended, (2,))


def write_ids(folder: Path, ids: np.ndarray, vocab_size: int, **headers: Any) -> None:
    """Write a prepared directory whose splits both hold `ids`, with a manifest."""
    from jaxgpt.data.tokens import write_tokens
    from jaxgpt.system.directories import write_manifest

    folder.mkdir()
    for name in ("train.bin", "val.bin"):
        write_tokens(folder / name, iter([ids.astype(np.int64)]), vocab_size)
    (folder / "data.json").write_text(json.dumps({"version": 1, "sources": ["torture"]}))
    write_manifest(folder)


def token_files(random: Random, path: Path) -> str:
    """Ids outside the vocabulary, in files with right checksums, are refused."""
    from jaxgpt.system.directories import write_manifest

    vocab_size = random.choice((5, 200, 300, 60_000, 70_000))
    data = path / "data"
    write_ids(data, np.arange(50) % vocab_size, vocab_size)
    file = data / random.choice(("train.bin", "val.bin"))
    content = bytearray(file.read_bytes())
    width = np.dtype(json.loads(content[14:512])["dtype"]).itemsize
    wrong = random.choice((vocab_size, 2 ** (8 * width) - 1, vocab_size + 1))
    at = 512 + width * random.randrange(50)
    content[at : at + width] = wrong.to_bytes(width, "little")
    file.write_bytes(content)
    write_manifest(data)
    ended = call(
        "jaxgpt",
        "train",
        "quickstart",
        f"--data.path={data}",
        f"--run.dir={path / 'run'}",
        *RUN,
        *SHORT,
    )
    require(
        ended.code == 2 and str(wrong) in ended.err,
        f"id {wrong} of {vocab_size} was taken: {ended}",
    )
    require(not (path / "run").exists(), "a refused run leaves files behind")
    return refusal_of(ended)


TEXTS = (
    "", "\n", " ", "a", "ab", "aaa", "aaaaaaaa", "ab" * 5, "ab" * 30, "x\n\n" * 20, "\ufeffab", "\0" * 9, "é" * 12,
    "🙂" * 9, "a\r\nb" * 9,
)  # fmt: skip


def little_text(random: Random, path: Path) -> str:
    """A tiny text, or tiny documents, are prepared without losing characters, and trained on."""
    texts = [random.choice(TEXTS) for _ in range(random.choice((1, 1, 2, 9)))]
    lines = random.random() < 0.5
    source = path / ("text.jsonl" if lines else "text.txt")
    whole = "\n".join(texts)
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts) if lines else whole
    source.write_bytes(content.encode())
    kind, val = random.choice(("char", "byte")), random.choice((0.1, 0.5, 0.9, 0.001, 0.999))
    prepared = call(
        "jaxgpt", "prepare", source, "--out", path / "data", f"--tokenizer={kind}", f"--val={val}"
    )
    if refusal := refusal_of(prepared, (2,)):
        require(not (path / "data").exists(), "a refused text leaves files behind")
        return refusal
    if not lines:
        _require_text(path / "data", whole.encode())
    context = random.choice((1, 2, 3, 8))
    ended = call(
        "jaxgpt", "train", "quickstart", f"--data.path={path / 'data'}", f"--run.dir={path / 'run'}",
        *RUN, f"--model.context_length={context}", *SHORT,
    )  # fmt: skip
    if refusal := refusal_of(ended, (2,)):
        return refusal
    require_sound(path / "run")
    for words in (("eval", path / "run"), ("sample", path / "run", "--tokens=3")):
        said = call("jaxgpt", *words)
        require(refusal_of(said) == "" and "nan" not in said.out.split(), f"{words[0]}: {said}")
    return ""


def _require_text(data: Path, text: bytes) -> None:
    """Require that the ids of both splits are `text`."""
    from jaxgpt.data.tokenizer_files import load
    from jaxgpt.data.tokens import open_dataset

    opened = open_dataset(data)
    ids = np.concatenate([opened.train, opened.val])
    read = load(data).decode(ids.tolist()).encode()
    require(
        read == text.removeprefix(b"\xef\xbb\xbf") or read == text,
        f"{text!r} was prepared as {read!r}",
    )
