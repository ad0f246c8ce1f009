"""Checks of zip archives and pickles that inflate no archive and execute no pickle.

They know how torch lays its files out, and import none of it.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, ClassVar

from jaxgpt.errors import UserError, in_a_row

# Trained weights hardly shrink when deflated. Masks and zero biases shrink a thousandfold, but are
# the smaller part of a model; an archive that grows a hundredfold was made to fill memory. Below
# 64 MiB it does no harm.
MAX_GROWTH = 100
MAX_ELEMENTS = 10**6  # of a tuple, with those of the tuples in it
HARMLESS_BYTES = 64 * 2**20
SUPPORTED, ENCRYPTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), 1  # a bit among the flags

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
# torch allows these by name, and makes them as large as a file says, without bytes in the file.
HUNGRY = re.compile(r"(builtins|__builtin__)\.bytearray|torch\.(\w+\.)*[A-Z]\w*Tensor")
RESAVE = (
    "In the program that wrote it, save the weights alone, torch.save(model.state_dict(), "
    "'weights.pt'), with settings as plain numbers and strings if at all, and give that file."
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
        except Exception as error:  # on hostile input zipfile raises a dozen kinds
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
        damaged = archive.testzip()  # streams, whatever the size
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
        """Complaints about storages that claim another size than their entry has.

        Mapped, they would show the bytes of their neighbours.
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
    """Complaints about the table of contents of an archive of `size` bytes."""
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
    if len({name.casefold() for name in names}) < len(names):
        problems.append(
            "two of its entries have the same name, and two readers may pick different ones"
        )
    return problems


def require_checkpoint(who: str, top: str, names: Collection[str]) -> None:
    """Raise UserError unless `names`, all below the folder `top`, are those of a checkpoint."""
    if f"{top}/constants.pkl" in names:
        raise UserError(f"{who} is a TorchScript archive: a program, not a checkpoint. {RESAVE}")
    if f"{top}/archive_format" in names:
        raise UserError(f"{who} is an exported program (.pt2), not a checkpoint. {RESAVE}")
    if f"{top}/data.pkl" not in names:
        listed = in_a_row(names, ", ") or "nothing"
        raise UserError(
            f"{who} is a zip archive, but not a torch checkpoint, which has an entry data.pkl; "
            f"this one holds {listed}. Unpack it if the checkpoint is inside."
        )


class Dummy:
    """A stand-in for anything that a pickle names; what the pickle does with it has no effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Dummy":
        return super().__new__(cls)

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __init__ = __setitem__ = __setstate__ = append = extend = add = ignore


class Ledger(pickle._Unpickler):
    """The names that a pickle asks for, and the bytes that each of its storages claims.

    Nothing that it names is ever looked up, so that nothing can be run. This is Python's unpickler
    in Python, because the one in C allocates gigabytes when a hostile memo index says so; without
    the opcode that fills as many bytes with zeros as the pickle asks for; and without tuples that
    contain each other so often that to hash one, as a key, would take forever.
    """

    proto: int  # of the pickle last followed
    stack: list[Any]
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin-1")  # strings from Python 2 may hold any byte
        self.names: set[str] = set()
        self.claims: dict[Any, int] = {}
        self.broken = ""
        self.elements: dict[int, tuple[tuple[Any, ...], int]] = {}  # of tuples, by their id

    def follow(self, pickles: int) -> "Ledger":
        """Read so many `pickles`, one after the other; what stops it is noted in `broken`."""
        try:
            for _ in range(pickles):
                self.load()
        except Exception as error:
            self.broken = in_a_row([f"{type(error).__name__} {error}".strip()])
        return self

    @property
    def foreign(self) -> list[str]:
        """Names that torch.save does not write."""
        return sorted(name for name in self.names if not ORDINARY.fullmatch(name))

    @property
    def hungry(self) -> list[str]:
        """Names that take as much memory as the file says."""
        return sorted(name for name in self.names if HUNGRY.fullmatch(name))

    def find_class(self, module: str, name: str) -> Any:
        """The size of its items for the class of a storage, a dummy for all else."""
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

    def measure_tuple(self) -> None:
        """Refuse the tuple on the stack if it is too large once shared tuples are written out."""
        value = self.stack[-1]
        inner = (self.elements[id(item)][1] for item in value if id(item) in self.elements)
        size = len(value) + sum(inner)
        if size > MAX_ELEMENTS:
            raise pickle.UnpicklingError(f"tuples within tuples, of {size} elements")
        self.elements[id(value)] = value, size  # the tuple too, so that no other gets its id


def _measured(step: Callable[[Any], None]) -> Callable[[Any], None]:
    def measured(ledger: Any) -> None:
        step(ledger)
        ledger.measure_tuple()

    return measured


for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    Ledger.dispatch[code[0]] = _measured(Ledger.dispatch[code[0]])
