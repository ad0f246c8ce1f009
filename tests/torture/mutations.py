"""Random changes of a valid file, which a seed repeats."""

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

Change = Callable[[Random, bytes, bytes], bytes]  # (random, content, another valid content)

# Sizes and counts that a reader might trust: they overflow, are negative, or ask for all memory.
LIES = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)
DEEP = 50_000
# Values of JSON and TOML; some are valid in only one of them, and some in neither.
HOSTILE = (
    "-1", "0", "1", "1.5", "1e999", "-1e999", "NaN", "nan", "Infinity", "9" * 30, "9" * 5000,
    str(2**31), str(2**32), str(2**63), str(2**64), "null", "true", "{}", "[]", "[[]]", '[""]',
    '{"a": 1}', '""', '"1"', '"\\u001b[31m\\n"', '"../../outside"', '"/etc/passwd"', '"\\ud800"',
    '"\\u0000"', '"F64"', '"float64"', '"none"', '"' + "a" * 10_000 + '"',
    "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[0, 0, 0]", "[-1, 4]",
)  # fmt: skip
VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null')
OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]
# Pickles of their own: a call, huge numbers, a memo index and texts that claim gigabytes.
BOMBS = (
    b"cos\nsystem\n(S'true'\ntR", b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b"\x8a\xff" + b"\xff" * 255, b"r\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
    b"(" * 10_000, b"]" * 10_000, b"0" * 50, b"ctorch\nzeros\nJ\xff\xff\xff\x7f\x85R",
)  # fmt: skip


def change(random: Random, content: bytes, other: bytes) -> bytes:
    """`content` after one to three changes, of bytes or of its structure."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        family = random.choice((BYTES, structure_of(content)))
        content = random.choice(family)(random, content, other)
    return content


def structure_of(content: bytes) -> tuple[Change, ...]:
    """The changes that suit the format of `content`."""
    if content.startswith(b"PK"):
        return ZIP
    if content[8:9] == b"{":
        return (header,)
    if content[:1] == b"\x80":
        return (opcodes,)
    if VALUE.search(content[:4096]) and content[:4096].isascii():
        return (value, value, value, swapped_values, lines)
    return BYTES


def flip_bit(random: Random, content: bytes, other: bytes = b"") -> bytes:
    """One bit is flipped."""
    changed = bytearray(content or b"\0")
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(random: Random, content: bytes, other: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def splice(random: Random, content: bytes, other: bytes) -> bytes:
    """The beginning of one file is followed by the end of the other."""
    at = random.randrange(len(content) + 1)
    return content[:at] + other[random.choice((at, random.randrange(len(other) + 1))) :]


def repeat(random: Random, content: bytes, other: bytes) -> bytes:
    """A piece is repeated or removed."""
    start, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + random.choice((content[start:], content[end + end - start :]))


def overwrite(random: Random, content: bytes, other: bytes) -> bytes:
    """Some bytes become zeros, ones, or random."""
    at, count = random.randrange(len(content) + 1), random.choice((1, 2, 8, 64, 512))
    piece = random.choice((bytes(count), b"\xff" * count, random.randbytes(count)))
    return content[:at] + piece + content[at + count :]


def lying_number(random: Random, content: bytes, other: bytes) -> bytes:
    """1 to 8 bytes become one of LIES, most often near the ends, where formats keep sizes."""
    width = random.choice((1, 2, 4, 8))
    span = random.choice((32, 256, len(content)))
    at = random.choice((0, max(0, len(content) - span))) + random.randrange(span + 1)
    number = random.choice(LIES) & (2 ** (8 * width) - 1)
    return (
        content[:at]
        + number.to_bytes(width, random.choice(("little", "big")))
        + content[at + width :]
    )


def value(random: Random, content: bytes, other: bytes) -> bytes:
    """A value of JSON or TOML becomes one of HOSTILE."""
    places = [match.span() for match in VALUE.finditer(content)]
    if not places:
        return flip_bit(random, content)
    start, end = random.choice(places)
    return content[:start] + random.choice(HOSTILE).encode() + content[end:]


def swapped_values(random: Random, content: bytes, other: bytes) -> bytes:
    """A value or key becomes another one of this file or the other."""
    sources = VALUE.findall(content) + VALUE.findall(other)
    places = [match.span() for match in VALUE.finditer(content)]
    if not places:
        return flip_bit(random, content)
    start, end = random.choice(places)
    return content[:start] + random.choice(sources) + content[end:]


def lines(random: Random, content: bytes, other: bytes) -> bytes:
    """A line, or what is between two commas, is removed, moved or repeated."""
    mark = b"\n" if content.count(b"\n") > 2 else b","
    parts = content.split(mark)
    part = parts.pop(random.randrange(len(parts)))
    for _ in range(random.choice((0, 1, 2))):
        parts.insert(random.randrange(len(parts) + 1), part)
    return mark.join(parts)


def header(random: Random, content: bytes, other: bytes) -> bytes:
    """The JSON header of a safetensors file is changed; the length before it fits."""
    length = int.from_bytes(content[:8], "little")
    text = random.choice((value, swapped_values, lines))(
        random, content[8 : 8 + length], other[:4096]
    )
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def opcodes(random: Random, content: bytes, other: bytes) -> bytes:
    """An operation of a pickle is replaced, removed, or preceded by one of BOMBS."""
    places = _operations(content)
    if len(places) < 3:
        return flip_bit(random, content)
    index = random.randrange(1, len(places) - 1)
    start, end = places[index], places[index + 1]
    kind = random.randrange(4)
    if kind == 0:
        return content[:start] + bytes([random.choice(OPCODES)]) + content[start + 1 :]
    if kind == 1:
        return content[:start] + content[end:]
    if kind == 2:
        return content[:start] + random.choice(BOMBS) + content[start:]
    source = random.randrange(len(places) - 1)
    return content[:start] + content[places[source] : places[source + 1]] + content[end:]


def _operations(content: bytes) -> list[int]:
    """Where each operation of the pickles at the start of `content` begins."""
    places: list[int] = []
    stream = io.BytesIO(content)
    while True:
        start = stream.tell()
        try:
            for _, _, at in pickletools.genops(stream):
                places.append(at if at is not None else start)
        except (ValueError, UnicodeError, pickle.UnpicklingError, OverflowError, MemoryError):
            return places


def entry(random: Random, content: bytes, other: bytes) -> bytes:
    """An entry of a zip archive is changed, renamed, removed or doubled; checksums fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # an earlier change has broken it
        return flip_bit(random, content)
    index = random.randrange(len(entries))
    name, data = entries[index]
    kind = random.randrange(6)
    if kind == 0:
        del entries[index]
    elif kind == 1:
        names = ("../outside", "/outside", name.upper(), name.replace("/", "\\"), "data.pkl", "\0")
        entries[index] = random.choice(names), data
    elif kind == 2:
        entries.append((name, random.choice(entries)[1]))
    elif kind == 3:
        entries[index] = name, bytes(random.choice((0, 1, 2**20, 2**26)))
    else:
        index = next((i for i, (one, _) in enumerate(entries) if one.endswith("data.pkl")), index)
        name, data = entries[index]
        entries[index] = name, opcodes(random, data, b"")
    packed = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,))
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", method) as archive:
        warnings.simplefilter("ignore")  # two entries of one name are intended
        for one, data in entries:
            archive.writestr(zipfile.ZipInfo(one), data)
    return packed.getvalue()


BYTES: tuple[Change, ...] = (flip_bit, truncate, splice, repeat, overwrite, lying_number)
ZIP: tuple[Change, ...] = (entry, entry, lying_number)
