"""Plain values read from a pickle by an allow-list of opcodes.

Nothing that a pickle names is imported or run.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from jaxgpt.errors import UserError, require

SUFFIXES = (".pkl", ".pickle")
MOST_BYTES = 2**24
MOST_OPCODES = 2**21  # each may build an empty dict: 130 MB in all
FRAME_BYTES = 9  # length of the opcode FRAME with its argument
LARGEST = 2**63  # larger integers can be chosen so that all collide as keys of a dict
PLAIN = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 PUT BINPUT LONG_BINPUT MEMOIZE
GET BINGET LONG_BINGET EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS
"""
TUPLES = ("TUPLE1", "TUPLE2", "TUPLE3")
AS_LISTS = {"EMPTY_TUPLE": "EMPTY_LIST", "TUPLE": "LIST"}
CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
WAY_OUT = (
    "Only dicts, lists, strings and whole numbers are read from a pickle, and nothing in it is "
    "run. In the program that wrote it, save the characters in the order of their ids as JSON, "
    'json.dump(list(stoi), open("characters.json", "w")), and name that file.'
)


def is_pickle(path: Path, head: bytes) -> bool:
    """Whether a file is a pickle, judged by its name or by the first opcode of newer pickles."""
    return path.suffix.lower() in SUFFIXES or head[:1] == pickle.PROTO


def load(path: Path) -> Any:
    """The value in the pickle at `path`, read by `loads`; too large a file is not opened."""
    size = path.stat().st_size
    limit = f"it is a pickle of {size:,} bytes, above {MOST_BYTES:,}. {WAY_OUT}"
    require(size <= MOST_BYTES, limit)
    return loads(path.read_bytes())


def loads(content: bytes) -> Any:
    """The plain value that a pickle builds, tuples as lists; UserError for anything else."""
    try:
        _require_plain(content)
        return _PlainUnpickler(io.BytesIO(content)).load()
    except UserError:
        raise
    except Exception as error:  # damaged opcodes raise a dozen types
        problem = ascii(f"{type(error).__name__}: {error}")[1:160]
        raise UserError(f"it is not a complete pickle of plain values ({problem}).") from None


def _require_plain(content: bytes) -> None:
    """Refuse, before any is executed, opcodes that are not plain or are meant to fill memory."""
    allowed = {*PLAIN.split(), *TUPLES, *AS_LISTS}
    texts = ["", ""]
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content), 1):
        if opcode.name not in allowed:
            context = argument if isinstance(argument, str) else " ".join(texts[-2:])
            raise UserError(
                f"it is a pickle that asks for more than plain values, opcode {opcode.name} after "
                f"{ascii(context)[:80]} at byte {position}. {WAY_OUT}"
            )
        if opcode.name == "FRAME" and (position or 0) + FRAME_BYTES + (argument or 0) > len(
            content
        ):
            raise UserError("it is a pickle that was cut short. Copy or download it again.")
        if isinstance(argument, str):
            texts = [texts[-1], argument]
        if isinstance(argument, int) and abs(argument) >= LARGEST:
            raise UserError(f"it is a pickle with a number of over 64 bits. {WAY_OUT}")
        if count > MOST_OPCODES:
            raise UserError(f"it is a pickle of over {MOST_OPCODES:,} opcodes. {WAY_OUT}")


def _listed(count: int) -> Callable[[Any], None]:
    """Make an unpickler step that joins the topmost `count` values of the stack into a list."""

    def step(unpickler: Any) -> None:
        values = unpickler.stack[-count:]
        del unpickler.stack[-count:]
        unpickler.stack.append(values)

    return step


class _PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler without the opcodes that import, call or build anything.

    Tuples become lists, because the keys of a dict are hashed, and hashing tuples that nest each
    other twice at many levels takes forever. Unlike the unpickler in C, this one does not allocate
    gigabytes for a large memo index.
    """

    dispatch: ClassVar = {
        **{CODES[name]: pickle._Unpickler.dispatch[CODES[name]] for name in PLAIN.split()},
        **{CODES[name]: pickle._Unpickler.dispatch[CODES[same]] for name, same in AS_LISTS.items()},
        **{CODES[name]: _listed(count) for count, name in enumerate(TUPLES, 1)},
    }

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it is a pickle that names {module!a}.{name!a}. {WAY_OUT}")
