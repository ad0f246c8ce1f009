"""Opened pairs of a source and a target, for an encoder-decoder."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.kinds import require_model
from jaxgpt.data.tokens import open_tokens, require_ids, require_rising
from jaxgpt.errors import require
from jaxgpt.file_names import ABOUT, OFFSETS, SPLITS, TARGET_TOKENIZER, TOKENIZER
from jaxgpt.system.directories import check_manifest
from jaxgpt.system.json_files import DAMAGED, read_json
from jaxgpt.system.unchanged import NO_FILES, Unchanged

NUMBERS = ("source_vocab_size", "target_vocab_size", "start", "end", "left_out")


@dataclass(frozen=True, eq=False)
class PairSplit:
    """The pairs of a split: `split[i]` is a source and its target, int32, without start and end."""

    ids: np.ndarray  # the ids of source 0, target 0, source 1, target 1 and so on
    offsets: np.ndarray  # where each of these texts begins; at the end, the number of ids
    start: int  # the id that every target begins with
    end: int  # the id that every target ends with

    def __len__(self) -> int:
        return len(self.offsets) // 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        first, middle, last = self.offsets[2 * index : 2 * index + 3].tolist()
        return self.ids[first:middle].astype(np.int32), self.ids[middle:last].astype(np.int32)

    @cached_property
    def source_lengths(self) -> np.ndarray:
        """The number of ids of each source; no ids are read for it."""
        return np.diff(self.offsets.astype(np.int64))[0::2]

    @cached_property
    def target_lengths(self) -> np.ndarray:
        """The number of ids of each target, start and end not counted."""
        return np.diff(self.offsets.astype(np.int64))[1::2]


@dataclass(frozen=True, eq=False)
class PairDataset:
    """An opened prepared directory of pairs."""

    path: Path
    source_vocab_size: int
    target_vocab_size: int  # including start and end
    start: int
    end: int
    left_out: int  # pairs that were too long when the data were prepared
    train: PairSplit
    val: PairSplit
    train_sha256: str  # hash of the ids and offsets, to compare the data of two directories
    files: Unchanged = NO_FILES  # the files of the ids, if they were verified

    @property
    def source_tokenizer(self) -> Path:
        """The file with the tokenizer of the sources."""
        return self.path / TOKENIZER

    @property
    def target_tokenizer(self) -> Path:
        """The file with the tokenizer of the targets, which may also be that of the sources."""
        own = self.path / TARGET_TOKENIZER
        return own if own.exists() else self.source_tokenizer


def open_pairs(path: Path, verify: bool = True) -> PairDataset:
    """Open the pairs in `path`; `verify` compares the sha256 of every file first."""
    require_model(path, "pairs")
    files = check_manifest(path) if verify else NO_FILES
    about = read_json(path / ABOUT)
    numbers: dict[str, Any] = {name: about.get(name) for name in NUMBERS}
    for name, number in numbers.items():
        require(type(number) is int, f"{path / ABOUT} has no number {name}. {DAMAGED}")
    splits = {name: _open_split(path, name, numbers["start"], numbers["end"]) for name in SPLITS}
    vocabularies = {
        f"the vocabulary of its {side}s": numbers[f"{side}_vocab_size"]
        for side in ("source", "target")
    }
    for name, (split, _) in splits.items() if verify else ():
        require_ids(path / SPLITS[name], vocabularies, split.offsets)
    (train, sha256), (val, _) = splits["train"], splits["val"]
    return PairDataset(path, **numbers, train=train, val=val, train_sha256=sha256, files=files)


def _open_split(path: Path, name: str, start: int, end: int) -> tuple[PairSplit, str]:
    """The split `name`, and the sha256 of its checksums."""
    ids, header = open_tokens(path / SPLITS[name])
    offsets, offsets_header = open_tokens(path / OFFSETS[name])
    require(
        len(offsets) % 2 == 1 and len(offsets) > 2 and int(offsets[-1]) == len(ids),
        f"{path / OFFSETS[name]} and {SPLITS[name]} do not belong together: the last of "
        f"{len(offsets)} offsets is {offsets[-1]}, and there are {len(ids)} ids. Prepare it again.",
    )
    require_rising(path / OFFSETS[name], offsets)
    both = header["sha256"] + offsets_header["sha256"]
    return PairSplit(ids, offsets, start, end), hashlib.sha256(both.encode()).hexdigest()
