"""The commands that are killed and disturbed, and the files that they read."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import convert.__main__
import jaxgpt.__main__
from tests.helpers import TEXT, settings, write_toml
from tests.torture import valid_files

STEPS: dict[str, Any] = {"steps": 12, "save_every": 4, "eval_every": 6, "log_every": 3, "keep": 1}
PAIRS: dict[str, dict[str, Any]] = {
    "data": {"path": "dates:120"},
    "model": {"context_length": 12, "model_dim": 16, "num_blocks": 1},
    "encoder": {"context_length": 40},
}


@dataclass(frozen=True)
class Command:
    """A command: `main` with `words`, in a folder with the files that `make` writes."""

    name: str
    make: Callable[[Path], None]
    words: str
    main: Callable[[], None] = jaxgpt.__main__.main
    processes: int = 1

    def all_words(self) -> list[tuple[str, ...]]:
        """The words of each process."""
        words = tuple(self.words.split())
        if self.processes == 1:
            return [words]
        meet = (
            "--mesh.coordinator",
            f"127.0.0.1:{free_port()}",
            "--mesh.processes",
            f"{self.processes}",
        )
        return [(*words, *meet, "--mesh.process", f"{i}") for i in range(self.processes)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def text(folder: Path) -> None:
    (folder / "wood.txt").write_text(TEXT)


def config(folder: Path, **sections: Any) -> None:
    text(folder)
    ours = settings(Path("wood.txt"), Path("run"), **{"train": STEPS, **sections})
    write_toml(folder / "run.toml", ours)


def averaged(folder: Path) -> None:
    config(folder, optim={"ema": 0.9})


def adapters(folder: Path) -> None:
    """Settings to train adapters of a model, which is there as well."""
    valid_files.model_folder(folder, 0)
    text(folder)
    train = {"batch_size": 4, "eval_batches": 3, "sample_tokens": 0, "lora_rank": 2, **STEPS}
    sections = {"data": {"path": "wood.txt"}, "run": {"dir": "run", "init": "model"}}
    write_toml(folder / "run.toml", {**sections, "optim": {"warmup_steps": 2}, "train": train})


def pairs(folder: Path) -> None:
    config(folder, **PAIRS)


def checkpoint(folder: Path) -> None:
    valid_files.whole_checkpoint(folder, 0)


def model(folder: Path) -> None:
    valid_files.model_folder(folder, 0)


def converted(folder: Path) -> None:
    """A model directory that came from a folder of Hugging Face."""
    from convert import api

    source = folder / "source"
    source.mkdir()
    valid_files.hugging_face_folder(source, 0)
    api.to_flax(source).save(folder / "model")


def lines(folder: Path) -> None:
    """A data set of the datasets library, in two files."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for shard in range(2):
        rows = [f'{{"text": "record {i}, {"x" * (i % 7)}"}}\n' for i in range(shard, 300, 2)]
        (corpus / f"train-{shard}.jsonl").write_text("".join(rows))


def streaming() -> None:
    """jaxgpt, which saves its place in a stream after fewer characters than usual."""
    from jaxgpt.data import encoding

    encoding.TOGETHER = 600
    jaxgpt.__main__.main()


CONVERT = convert.__main__.main
COMMANDS = (
    Command("train", averaged, "train run.toml"),
    Command("train adapters", adapters, "train run.toml"),
    Command("train on pairs", pairs, "train run.toml"),
    Command("train in two processes", config, "train run.toml", processes=2),
    Command("to-flax", checkpoint, "to-flax ckpt.pt model --set num_heads=2", CONVERT),
    Command("to-torch, a file", model, "to-torch model out.pt --dialect gpt", CONVERT),
    Command("to-torch, a folder", converted, "to-torch model out --max-shard-size 3KB", CONVERT),
    Command("prepare a text", text, "prepare wood.txt --out data"),
    Command("prepare pairs", text, "prepare dates:120 --out data"),
    Command("prepare a stream", lines, "prepare hf:corpus --out data", streaming),
    Command("export", model, "export model --out programs.zip"),
)  # fmt: skip
