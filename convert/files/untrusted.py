"""What a zip archive and a pickle say of themselves, learnt without inflating the one or executing the other.

Knows of torch only how its files are laid out; imports none of it.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, ClassVar

from jaxgpt.errors import UserError, in_a_row

# Trained weights hardly shrink when deflated. Masks and zero biases shrink a thousandfold, but are the smaller part
# of a model; an archive that grows a hundredfold was made to fill memory. Below 64 MiB it cannot hurt.
MAX_GROWTH = 100
HARMLESS_BYTES = 64 * 2**20

KINDS = {
    1: "Untyped Byte Char Bool QInt8 QUInt8",
    2: "Half BFloat16 Short",
    4: "Float Int QInt32",
    8: "Double Long ComplexFloat",
    16: "ComplexDouble",
}
ITEM_BYTES = {f"{kind}Storage": size for size, kinds in KINDS.items() for kind in kinds.split()}
ORDINARY = re.compile(
    r"torch\.\w+|torch\.storage\.\w+|torch\._utils\._rebuild_\w+|collections\.OrderedDict"
)
# torch allows these by name, but makes them as large as a file says, of bytes that the file does not have.
HUNGRY = re.compile(r"(builtins|__builtin__)\.bytearray|torch\.(\w+\.)*[A-Z]\w*Tensor")
RESAVE = (
    "In the program that wrote it, save the weights alone, torch.save(model.state_dict(), 'weights.pt'), with settings "
    "as plain numbers and strings if at all, and give that file."
)


def report(who: str, problems: list[str]) -> None:
    if problems:
        raise UserError(
            f"{who} cannot be trusted: {in_a_row(problems)}. torch.save does not write such files; get it again from "
            "where it came, or save it again with the program that wrote it."
        )


class Archive:
    """The entries of a torch zip, each of them compared with its checksum: torch itself never looks at those."""

    def __init__(self, path: Path, who: str) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                self.entries = {entry.filename: entry for entry in archive.infolist()}
                report(who, objections(archive.infolist(), path.stat().st_size))
                self.top = next(iter(self.entries), "").split("/")[0]
                require_checkpoint(who, self.top, self.entries)
                damaged = archive.testzip()  # streams, whatever the size
                if damaged:
                    raise UserError(
                        f"{who} is damaged: its entry {in_a_row([damaged])} does not match its checksum (or torch was "
                        "told to write none). Copy or download it again."
                    )
                self.ledger = Ledger(io.BytesIO(archive.read(f"{self.top}/data.pkl"))).follow(1)
        except UserError:
            raise
        except Exception as error:  # on hostile input zipfile raises a dozen kinds
            raise UserError(
                f"{who} begins as a zip archive but cannot be read as one ({in_a_row([str(error)])}): it is truncated "
                "or damaged, for the table of contents stands at the very end. Copy or download it again."
            ) from None

    @property
    def stored(self) -> bool:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in self.entries.values())

    @property
    def inflated_bytes(self) -> int:
        return sum(entry.file_size for entry in self.entries.values())

    def overdrawn(self) -> list[str]:
        """Storages that claim another size than their entry has: mapped, they would show their neighbours' bytes."""
        problems = []
        for key, claim in self.ledger.claims.items():
            entry = self.entries.get(f"{self.top}/data/{key}")
            held = (
                f"the entry for it has {entry.file_size}" if entry else "there is no entry for it"
            )
            if not entry or claim != entry.file_size:
                problems.append(f"its storage {key} is declared with {claim} bytes, but {held}")
        return problems


def objections(entries: list[zipfile.ZipInfo], size: int) -> list[str]:
    """What is wrong with an archive by its table of contents alone: nothing has been inflated yet."""
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
        if (
            entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or entry.flag_bits & 1
        ):
            problems.append(
                f"its entry {entry.orig_filename} is encrypted, or compressed as torch cannot do it"
            )
    if len({name.casefold() for name in names}) < len(names):
        problems.append(
            "two of its entries have the same name, and two readers may pick different ones"
        )
    return problems


def require_checkpoint(who: str, top: str, names: Collection[str]) -> None:
    if f"{top}/constants.pkl" in names:
        raise UserError(f"{who} is a TorchScript archive: a program, not a checkpoint. {RESAVE}")
    if f"{top}/archive_format" in names:
        raise UserError(f"{who} is an exported program (.pt2), not a checkpoint. {RESAVE}")
    if f"{top}/data.pkl" not in names:
        listed = in_a_row(names, ", ") or "nothing"
        raise UserError(
            f"{who} is a zip archive, but not a torch checkpoint, which has an entry data.pkl; this one holds "
            f"{listed}. Unpack it if the checkpoint is inside."
        )


class Dummy:
    """Stands for whatever a pickle names, and takes whatever the pickle then does with it, to no effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Dummy":
        return super().__new__(cls)

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __init__ = __setitem__ = __setstate__ = append = extend = add = ignore


class Ledger(pickle._Unpickler):
    """Follows a pickle, and notes which names it wants and how many bytes each of its storages claims.

    Nothing it names is ever looked up, so nothing can be run. It is Python's unpickler in Python, because the one in C
    allocates gigabytes when a hostile memo index says so; and without the opcode that fills as many bytes with zeros
    as the pickle asks for.
    """

    proto: int  # of the pickle last followed
    dispatch: ClassVar = {
        code: step
        for code, step in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin-1")  # strings from Python 2 may hold any byte
        self.names: set[str] = set()
        self.claims: dict[Any, int] = {}
        self.broken = ""

    def follow(self, pickles: int) -> "Ledger":
        try:
            for _ in range(pickles):
                self.load()
        except Exception as error:
            self.broken = in_a_row([f"{type(error).__name__} {error}".strip()])
        return self

    @property
    def foreign(self) -> list[str]:
        return sorted(name for name in self.names if not ORDINARY.fullmatch(name))

    @property
    def hungry(self) -> list[str]:
        return sorted(name for name in self.names if HUNGRY.fullmatch(name))

    def find_class(self, module: str, name: str) -> Any:
        """A storage's class is stood for by the size of its items, all else by a dummy."""
        self.names.add(f"{module}.{name}")
        return ITEM_BYTES.get(name, Dummy)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"extension code {code}")

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            _, item_bytes, key, _, count = pid[:5]
            if not (isinstance(item_bytes, int) and isinstance(count, int) and count >= 0):
                raise pickle.UnpicklingError(f"a storage of {count!r} elements")
            claim = item_bytes * count
            self.claims[key] = max(self.claims.get(key, claim), claim)
        return Dummy()
