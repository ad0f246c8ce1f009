"""Follows pickles without executing them, and records the names and storage sizes in them.

It knows the structure of torch's pickles, but does not import torch.
"""

import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import IO, Any, ClassVar

from jaxgpt.errors import in_a_row

MAX_ELEMENTS = 10**6  # the most elements of a tuple, including those of nested tuples
MAX_HASHED = 10**7  # the most elements of all keys in a pickle, counted like those of a tuple
MAX_EQUAL = 64  # the most keys of one container with the same hash; two can occur by chance

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
# torch allows these names, and allocates as much memory as the file claims, without any data.
ALLOCATING = re.compile(r"(builtins|__builtin__)\.bytearray|torch\.(\w+\.)*[A-Z]\w*Tensor")
# Classes that torch allows and that hash what they are called with.
HASHING = {"OrderedDict", "Counter", "set", "frozenset"}
Step = Callable[[Any], None]  # the action of an unpickler for an opcode


class Dummy:
    """A placeholder for anything that a pickle names; nothing done to it has an effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Dummy":
        return super().__new__(cls)

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __init__ = __setitem__ = __setstate__ = append = extend = add = ignore


class Hashing(Dummy):
    """A placeholder for a class that hashes the items that it is called with."""


class Ledger(pickle._Unpickler):
    """The names that a pickle asks for, and the bytes that each of its storages claims.

    No name is ever looked up, so that nothing can be run. The base class is Python's pure-Python
    unpickler, because the one in C allocates gigabytes for a hostile memo index. It refuses what
    could exhaust memory or time: the opcode that makes any number of zero bytes; tuples nested so
    often that hashing one, as a key, would take forever; and many keys with the same hash, each of
    which is compared with all earlier ones.
    """

    proto: int  # the names in the pickle that was last followed
    stack: list[Any]
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin-1")  # strings from Python 2 may hold any byte
        self.names: set[str] = set()
        self.claims: dict[Any, int] = {}
        self.broken = ""
        self.elements: dict[int, tuple[tuple[Any, ...], int]] = {}  # of tuples, by their id
        self.hashed = 0  # the elements of all keys so far
        self.hashes: dict[int, tuple[object, Counter[int]]] = {}  # of keys, by their container's id

    def follow(self, pickles: int) -> "Ledger":
        """Read `pickles` pickles; an error that ends the reading is recorded in `broken`."""
        try:
            for _ in range(pickles):
                self.load()
        except Exception as error:
            self.broken = in_a_row([f"{type(error).__name__} {error}".strip()])
        return self

    @property
    def foreign(self) -> list[str]:
        """The names in the pickle that torch.save never writes."""
        return sorted(name for name in self.names if not ORDINARY.fullmatch(name))

    @property
    def allocating(self) -> list[str]:
        """The names in the pickle that allocate as much memory as the file claims."""
        return sorted(name for name in self.names if ALLOCATING.fullmatch(name))

    def find_class(self, module: str, name: str) -> Any:
        """The item size for the class of a storage, and a placeholder for anything else."""
        self.names.add(f"{module}.{name}")
        return ITEM_BYTES.get(name, Hashing if name in HASHING else Dummy)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"extension code {code}")

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            _, item_bytes, key, _, count = pid[:5]
            if not (isinstance(item_bytes, int) and isinstance(count, int) and count >= 0):
                raise pickle.UnpicklingError(f"a storage of {count!r} elements")
            claim = item_bytes * count
            self.check_keys(self.claims, [key])
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

    def check_keys(self, container: object, keys: Iterable[Any]) -> None:
        """Refuse `keys` of `container` that would take forever to hash or to tell apart."""
        for key in keys:
            if isinstance(key, (str, bytes, Dummy)):  # a file cannot choose the hashes of these
                continue
            self.hashed += self.elements[id(key)][1] if id(key) in self.elements else 1
            if self.hashed > MAX_HASHED:
                raise pickle.UnpicklingError(f"keys of over {MAX_HASHED} elements")
            _, counts = self.hashes.setdefault(id(container), (container, Counter()))
            counts[hash(key)] += 1
            if counts[hash(key)] > MAX_EQUAL:
                raise pickle.UnpicklingError(f"over {MAX_EQUAL} keys of the same hash")


def _measured(step: Step) -> Step:
    def measured(ledger: Any) -> None:
        step(ledger)
        ledger.measure_tuple()

    return measured


def _with_keys(step: Step, keys: Callable[[Any], tuple[object, Iterable[Any]]]) -> Step:
    """`step` after a check of the keys that it hashes; `keys` returns their container and them."""

    def checked(ledger: Any) -> None:
        ledger.check_keys(*keys(ledger))
        step(ledger)

    return checked


def _put(ledger: Any) -> None:
    """Memoize the top of the stack under a number of any size, which old pickles write in
    decimal."""
    index = int(ledger.readline()[:-1])
    ledger.check_keys(ledger.memo, [index])
    ledger.memo[index] = ledger.stack[-1]


def _arguments(ledger: Any) -> tuple[object, Iterable[Any]]:
    """The values that the call on the stack hashes: the items of its arguments, or the first of
    each."""
    called, arguments = ledger.stack[-2:]
    if called is not Hashing:
        return None, ()
    items = [item for each in arguments if isinstance(each, (list, tuple)) for item in each]
    firsts = [item[0] for item in items if isinstance(item, (list, tuple)) and item]
    hashed = [item for item in (*items, *firsts) if not isinstance(item, list)]
    return items, hashed


KEYS: dict[bytes, Callable[[Any], tuple[object, Iterable[Any]]]] = {
    pickle.SETITEM: lambda ledger: (ledger.stack[-3], ledger.stack[-2:-1]),
    pickle.SETITEMS: lambda ledger: (ledger.metastack[-1][-1], ledger.stack[::2]),
    pickle.DICT: lambda ledger: (ledger.stack, ledger.stack[::2]),
    pickle.ADDITEMS: lambda ledger: (ledger.metastack[-1][-1], ledger.stack),
    pickle.FROZENSET: lambda ledger: (ledger.stack, ledger.stack),
    pickle.REDUCE: _arguments,
    pickle.NEWOBJ: _arguments,
}
for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    Ledger.dispatch[code[0]] = _measured(Ledger.dispatch[code[0]])
Ledger.dispatch[pickle.PUT[0]] = _put
for code, keys in KEYS.items():
    Ledger.dispatch[code[0]] = _with_keys(Ledger.dispatch[code[0]], keys)
