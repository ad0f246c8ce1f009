"""Commands on small files, and the content of the files that they write."""

import functools
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import TEXT, settings, write_toml
from tests.torture import valid_files
from tests.torture.calls import WRITE, Count, watched
from tests.torture.readings import checkpoint_file, plain
from tests.torture.situations import Outcome, call, refusal_of, require

Words = Callable[[Path, Path], tuple[object, ...]]  # (folder that is read, file or folder to write)


@dataclass(frozen=True)
class Task:
    """A command, the given file or folder that it reads, and the name of what it writes."""

    name: str
    words: Words
    reads: str
    writes: str = ""  # the name of the file or folder; "" for none

    def __call__(self, given: Path, out: Path) -> Outcome:
        return call(*self.words(given, out / self.writes))


def make_given(folder: Path) -> None:
    """Write all that tasks read to `folder`; its run can only be resumed from there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "hf").mkdir()
    valid_files.sharded_folder(folder / "hf", 0)
    (folder / "hf" / "config.json").write_text(json.dumps(valid_files.GPT2))
    valid_files.whole_checkpoint(folder, 0)
    valid_files.safetensors_file(folder, 0)
    valid_files.model_folder(folder, 0)
    valid_files.trained_run(folder, 0)
    (folder / "text.txt").write_text(TEXT)
    run = settings(folder / "text.txt", folder / "run", **valid_files.RUN)
    write_toml(folder / "run.toml", {**run, "train": {**run["train"], "save_every": 1}})
    ended = call("jaxgpt-convert", "to-flax", folder / "hf", folder / "gpt2")
    require(ended.code == 0, ended.err)


def _train(given: Path, out: Path) -> tuple[object, ...]:
    return (
        "jaxgpt",
        "train",
        given / "run.toml",
        f"--data.path={given / 'text.txt'}",
        f"--run.dir={out}",
    )


TASKS = (
    Task("prepare", lambda given, out: ("jaxgpt", "prepare", given / "text.txt", "--out", out), "text.txt", "data"),
    Task("train", _train, "text.txt", "run"),
    Task("train on", lambda given, out: (*_train(given, out), "--train.steps=5"), "run", "run"),
    Task("eval", lambda given, out: ("jaxgpt", "eval", given / "run"), "run"),
    Task(
        "sample",
        lambda given, out: ("jaxgpt", "sample", given / "run", "--prompt", "wood", "--tokens", 4),
        "run",
    ),
    Task(
        "look",
        lambda given, out: ("jaxgpt", "look", given / "run", "--text", "wood", "--out", out),
        "run", "look.png",
    ),
    Task("export", lambda given, out: ("jaxgpt", "export", given / "model", "--out", out), "model", "programs.zip"),
    Task(
        "to-flax .pt",
        lambda given, out: ("jaxgpt-convert", "to-flax", given / "ckpt.pt", out, "--set", "num_heads=2"),
        "ckpt.pt", "flax",
    ),
    Task(
        "to-flax folder", lambda given, out: ("jaxgpt-convert", "to-flax", given / "hf", out), "hf", "flax",
    ),
    Task(
        "to-torch .pt",
        lambda given, out: ("jaxgpt-convert", "to-torch", given / "gpt2", out, "--dialect", "gpt2"),
        "gpt2", "w.pt",
    ),
    Task(
        "to-torch .safetensors",
        lambda given, out: ("jaxgpt-convert", "to-torch", given / "gpt2", out, "--dialect", "gpt2"),
        "gpt2", "w.safetensors",
    ),
    Task(
        "to-torch folder",
        lambda given, out: ("jaxgpt-convert", "to-torch", given / "gpt2", out, "--max-shard-size", "4KB"),
        "gpt2", "hf",
    ),
    Task(
        "inspect",
        lambda given, out: ("jaxgpt-convert", "inspect", given / "ckpt.pt", "--set", "num_heads=2"),
        "ckpt.pt",
    ),
)  # fmt: skip
GOES_ON = "train on"


def begin(task: Task, given: Path, out: Path) -> None:
    """Fill the empty folder `out` with what `task` needs to find there."""
    if task.name == GOES_ON:
        shutil.copytree(given / "run", out / task.writes)


def copy_read(task: Task, given: Path, to: Path) -> None:
    """Copy what `task` reads into the folder `to`."""
    to.mkdir()
    source = given / task.reads
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, to / task.reads)


def done_and_right(task: Task, given: Path, out: Path, expected: Any) -> None:
    """Run `task`, and require that it does its work and that the result means `expected`."""
    ended = task(given, out)
    require(refusal_of(ended) == "", f"{task.name} does not do its work: {ended.err[-300:]}")
    require_right(task, ended, out, expected)


def require_right(task: Task, ended: Outcome, out: Path, *expected: Any) -> None:
    """Require that what `task` said or wrote has one of the `expected` meanings."""
    require(
        meaning(task, ended, out) in expected,
        f"{task.name} ended with 0, but its result is wrong",
    )


def meaning(task: Task, ended: Outcome, out: Path) -> Any:
    """What a finished task said or wrote, without what differs between two equal runs."""
    if not task.writes:
        return ended.out
    names = sorted(path.name for path in out.iterdir())
    require(names == [task.writes], f"besides {task.writes} there are other files: {names}")
    return meaning_of(out / task.writes)


def meaning_of(path: Path) -> Any:
    """The content of a file or folder that a task wrote."""
    from jaxgpt.system.directories import check_manifest

    require(path.exists(), f"{path.name} was not written")
    if path.suffix == ".png":
        return path.read_bytes()[-8:] == b"IEND\xaeB`\x82"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.testzip(), archive.namelist(), archive.read("about.json")
    if path.is_file():
        return checkpoint_file(path)["tensors"]
    if (path / "checkpoints").is_dir():
        return _of_run(path)
    check_manifest(path)
    if (path / "train.bin").exists():
        return [(path / name).read_bytes() for name in ("train.bin", "val.bin", "tokenizer.json")]
    if (path / "weights").is_dir():
        return _of_model(path)
    return plain(json.loads((path / "config.json").read_text())), checkpoint_file(path)["tensors"]


def _of_model(path: Path) -> Any:
    from jaxgpt.storage.model_directory import ModelDirectory

    opened = ModelDirectory(path)
    return [plain(vars(opened.config)), plain(opened.params()), plain(opened.moments())]


def _of_run(path: Path) -> Any:
    from jaxgpt.storage import run_directory

    kept = run_directory.checkpoints(path)
    lines = [{**line, "tokens_per_second": 0} for line in run_directory.read_metrics(path)]
    odd = [each.name for each in path.rglob(".*") if each.name != ".lock"]
    require(not odd, f"partial files are left behind: {odd}")
    return [each.name for each in kept], plain(lines), [_of_model(each) for each in kept]


@functools.cache
def expected_of(task: Task, given: Path) -> Any:
    """The meaning of what an unhindered `task` says or writes."""
    out = given.with_name(f"expected {task.name}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    begin(task, given, out)
    ended = task(given, out)
    require(ended.code == 0, f"{task.name} fails unhindered: {ended.err}")
    return meaning(task, ended, out)


@functools.cache
def calls_of(task: Task, given: Path, kind: str) -> int:
    """How many calls of `kind` an unhindered `task` makes."""
    out = given.with_name("counted")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    begin(task, given, out)
    with watched(out if kind == WRITE else given, counted := Count(kind)):
        ended = task(given, out)
    require(ended.code == 0, f"{task.name} fails unhindered: {ended.err}")
    return max(1, counted.calls)


@functools.cache
def bytes_of(task: Task, given: Path) -> int:
    """The bytes that `task` writes."""
    expected_of(task, given)
    folder = given.with_name(f"expected {task.name}")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@functools.cache
def given_in(folder: Path) -> Path:
    """The folder with all that tasks read, written once in each process."""
    given = folder / "given"
    make_given(given)
    return given


def snapshot(folder: Path) -> dict[str, Any]:
    """Every path below `folder`, with the bytes of a file or the target of a link; without locks."""
    return {
        str(path.relative_to(folder)): (
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in folder.rglob("*")
        if path.name != ".lock"
    }
