"""Checks zip archives without inflating them; `ledger` follows the pickles in them.

The checks know the structure of torch's files, but do not import torch.
"""

import io
import zipfile
from collections.abc import Collection
from pathlib import Path

from jaxgpt.errors import UserError, in_a_row, is_of_the_system

from .ledger import Ledger

# Trained weights hardly shrink when deflated. Masks and zero biases shrink a thousandfold, but are
# the smaller part of a model, so an archive that grows a hundredfold was made to fill memory. Below
# 64 MiB that does no harm.
MAX_GROWTH = 100
HARMLESS_BYTES = 64 * 2**20
SUPPORTED, ENCRYPTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), 1  # a flag bit
FOLDER = 0x10  # a bit among the external attributes

RESAVE = (
    "In the program that wrote it, save the weights alone, torch.save(model.state_dict(), "
    "'weights.pt'), with settings as plain numbers and strings if at all, and give that file."
)
RESAVE_CPP = (
    "torch.jit.save writes such files, and so does C++ with torch::save of a module. If you trust "
    "its writer, make a checkpoint of it in Python: module = torch.jit.load('FILE', "
    "map_location='cpu'); torch.save(dict(module.state_dict()), 'weights.pt')."
)


def report(who: str, problems: list[str]) -> None:
    """Raise UserError with all of `problems` of the file `who`, if there are any."""
    if problems:
        raise UserError(
            f"{who} cannot be trusted: {in_a_row(problems)}. torch.save does not write such files; "
            "get it again from where it came, or save it again with the program that wrote it."
        )


class Archive:
    """The entries of a torch zip, each compared with its checksum, which torch never does."""

    def __init__(self, path: Path, who: str) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                self._check(archive, path.stat().st_size, who)
        except UserError:
            raise
        except Exception as error:  # on hostile input zipfile raises a dozen kinds of exception
            if is_of_the_system(error):
                raise
            raise UserError(
                f"{who} begins as a zip archive but cannot be read as one "
                f"({in_a_row([str(error)])}): it is truncated or damaged, because the table of "
                "contents is at the very end. Copy or download it again."
            ) from None

    def _check(self, archive: zipfile.ZipFile, size: int, who: str) -> None:
        entries = archive.infolist()
        report(who, objections(entries, size))
        self.entries = {entry.filename: entry for entry in entries}
        self.top = next(iter(self.entries), "").split("/")[0]
        require_checkpoint(who, self.top, self.entries)
        damaged = archive.testzip()  # reads in chunks, whatever the size
        if damaged:
            raise UserError(
                f"{who} is damaged: its entry {in_a_row([damaged])} does not match its checksum "
                "(or torch was told to write none). Copy or download it again."
            )
        self.ledger = Ledger(io.BytesIO(archive.read(f"{self.top}/data.pkl"))).follow(1)

    @property
    def stored(self) -> bool:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in self.entries.values())

    @property
    def inflated_bytes(self) -> int:
        return sum(entry.file_size for entry in self.entries.values())

    def overdrawn(self) -> list[str]:
        """Problems with storages that claim another size than their entry has.

        If mapped, they would expose the bytes of neighbouring entries.
        """
        problems = []
        for key, claim in self.ledger.claims.items():
            entry = self.entries.get(f"{self.top}/data/{key}")
            if not entry:
                has = "there is no entry for it"
            elif claim != entry.file_size:
                has = f"the entry for it has {entry.file_size}"
            else:
                continue
            problems.append(f"its storage {key} is declared with {claim} bytes, but {has}")
        return problems


def objections(entries: list[zipfile.ZipInfo], size: int) -> list[str]:
    """Problems with the table of contents of an archive of `size` bytes."""
    problems = []
    total = sum(entry.file_size for entry in entries)
    if total > max(HARMLESS_BYTES, MAX_GROWTH * size):
        problems.append(
            f"it would inflate to {total} bytes, {total // size} times its size (a zip bomb)"
        )
    names = [entry.orig_filename.replace("\\", "/") for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        first, *rest = name.split("/")
        if not first or ":" in first or ".." in (first, *rest):
            problems.append(f"its entry {entry.orig_filename} points outside of the archive")
        if entry.compress_type not in SUPPORTED or entry.flag_bits & ENCRYPTED:
            problems.append(
                f"its entry {entry.orig_filename} is encrypted, or compressed as torch cannot do it"
            )
        # torch takes such an entry for empty, and leaves in its tensor whatever the memory held.
        if entry.file_size and (entry.external_attr & FOLDER or name.endswith("/")):
            problems.append(f"its entry {entry.orig_filename} has bytes, but is marked as a folder")
    if len({name.casefold() for name in names}) < len(names):
        problems.append(
            "two of its entries have the same name, and two readers may pick different ones"
        )
    return problems


def require_checkpoint(who: str, top: str, names: Collection[str]) -> None:
    """Raise UserError unless `names`, all below the folder `top`, are those of a checkpoint."""
    if f"{top}/constants.pkl" in names:
        raise UserError(
            f"{who} is a TorchScript archive: a program, not a checkpoint. {RESAVE_CPP}"
        )
    if f"{top}/archive_format" in names:
        raise UserError(f"{who} is an exported program (.pt2), not a checkpoint. {RESAVE}")
    if f"{top}/data.pkl" not in names:
        listed = in_a_row(names, ", ") or "nothing"
        raise UserError(
            f"{who} is a zip archive, but not a torch checkpoint, which has an entry data.pkl; "
            f"this one holds {listed}. Unpack it if the checkpoint is inside."
        )
