"""The names that a tensor may have in the files of a class.

`blocks.{layer}.(sa|attn).proj.bias? : d` is parsed once: text with axes in braces, choices of words
in parentheses, of which a file uses one throughout, and a `?` for a tensor that a file may lack.
"""

import functools
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .axes import Dims, Spelling, View, parse_dims
from .labels import LABELS

MOST_DIGITS = 9  # of a number in a name
MOST_ENDINGS = 100  # that a name is compared with before it is matched
LabelWords = tuple[tuple[str, tuple[str, ...]], ...]  # each label axis, and the words on it


@dataclass(frozen=True)
class Choice:
    """Alternative words, of which a file uses the same one wherever this choice occurs."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """An axis in a name."""

    name: str


@dataclass(frozen=True)
class Match:
    """How a name fits a pattern: the word of each axis, and of each choice."""

    axes: Mapping[str, str]
    words: Mapping[Choice, str]

    def having(self, part: str | Choice | Axis, word: str) -> "Match":
        """The match with the `word` of one more part."""
        if isinstance(part, Axis):
            return Match({part.name: word, **self.axes}, self.words)
        if isinstance(part, Choice):
            return Match(self.axes, {part: word, **self.words})
        return self


@dataclass(frozen=True)
class Pattern:
    """A pattern of names, and the axes of the tensor's dimensions."""

    pieces: tuple[str | Choice, ...]  # the text between choices has its axes in braces
    dims: Dims
    optional: bool = False

    @staticmethod
    @functools.cache  # the variants of a family share most of theirs
    def parse(text: str) -> "Pattern":
        """Parse `name : axes`, or a name alone, whose dimensions are not looked at."""
        name, _, dims = text.partition(" : ")
        pieces = [
            Choice(tuple(piece.split("|"))) if i % 2 else piece
            for i, piece in enumerate(re.split(r"\(([^)]*)\)", name.strip().removesuffix("?")))
        ]
        optional = name.strip().endswith("?")
        return Pattern(tuple(pieces), parse_dims(dims), optional)

    @functools.cached_property
    def choices(self) -> list[Choice]:
        """The choices of the pattern, in the order of the name."""
        return [piece for piece in self.pieces if isinstance(piece, Choice)]

    def has(self, axis: str) -> bool:
        """Whether `axis` is one of those in the name."""
        return any(f"{{{axis}}}" in piece for piece in self.pieces if isinstance(piece, str))

    def numbered(self, axis: str, number: str) -> "Pattern":
        """The pattern with `number` in place of `axis` in its name."""
        pieces = tuple(
            piece.replace(f"{{{axis}}}", number) if isinstance(piece, str) else piece
            for piece in self.pieces
        )
        return replace(self, pieces=pieces)

    def required(self) -> "Pattern":
        """The pattern of a tensor that a file must have."""
        return _shared(replace(self, optional=False)) if self.optional else self

    def worded(self, words: Mapping[Choice, str]) -> "Pattern":
        """The pattern with the word of `words`, or else the first one, for each choice."""
        if not self.choices:
            return self
        name = "".join(
            words.get(piece, piece.words[0]) if isinstance(piece, Choice) else piece
            for piece in self.pieces
        )
        return _shared(replace(self, pieces=(name,)))

    def view(self, spelling: Spelling | None = None) -> View:
        """The view of the tensors, once every choice is made."""
        if self.choices:
            raise ValueError(f"{self.pieces} still has choices")
        return View("".join(map(str, self.pieces)), self.dims, spelling or {})

    def match(self, name: str, spellings: Iterable[Spelling] = ()) -> Match | None:
        """How `name` fits the pattern with any of `spellings`; None if it does not."""
        return self.matcher(label_words(spellings))(name)

    def matcher(self, words: LabelWords) -> Callable[[str], Match | None]:
        """The function that `match` is, for many names and the same words of label axes.

        It has no regular expression: to compile one takes longer than to match all names of a file.
        """
        key = words if self.labels else ()
        if key not in self._matchers:
            self._matchers[key] = self._matcher(dict(words))
        return self._matchers[key]

    def _matcher(self, of_labels: Mapping[str, tuple[str, ...]]) -> Callable[[str], Match | None]:
        parts = self._parts
        alternatives = [_words_of(part, of_labels) for part in parts]
        endings = _endings(alternatives)

        def match(name: str) -> Match | None:
            # Most names are ruled out by their ending.
            return rest(name, 0, 0) if name.endswith(endings) else None

        def rest(name: str, start: int, number: int) -> Match | None:
            """How `name` from `start` on fits the parts from `number` on."""
            if number == len(parts):
                return Match({}, {}) if start == len(name) else None
            for word in alternatives[number] or _numbers(name, start):
                if name.startswith(word, start):
                    match = rest(name, start + len(word), number + 1)
                    if match is not None:
                        return match.having(parts[number], word)
            return None

        return match

    @functools.cached_property
    def _matchers(self) -> dict[LabelWords, Callable[[str], Match | None]]:
        return {}

    @functools.cached_property
    def text(self) -> str:
        """The pattern of the name, without the axes of the dimensions."""
        return "".join(
            f"({'|'.join(piece.words)})" if isinstance(piece, Choice) else piece
            for piece in self.pieces
        )

    @functools.cached_property
    def labels(self) -> list[str]:
        """The label axes in the name."""
        return [axis for axis in LABELS if self.has(axis)]

    @functools.cached_property
    def _parts(self) -> tuple["str | Choice | Axis", ...]:
        parts = list[str | Choice | Axis]()
        for piece in self.pieces:
            if isinstance(piece, Choice):
                parts.append(piece)
                continue
            for i, text in enumerate(re.split(r"{(\w+)}", piece)):
                parts.append(Axis(text) if i % 2 else text)
        return tuple(part for part in parts if part != "")


@functools.lru_cache(4096)
def _shared(pattern: Pattern) -> Pattern:
    """The first pattern that equals `pattern`, with all that it has cached."""
    return pattern


def _words_of(
    part: str | Choice | Axis, of_labels: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The words that a part may be; none for a number."""
    if isinstance(part, str):
        return (part,)
    return part.words if isinstance(part, Choice) else of_labels.get(part.name, ())


def _endings(alternatives: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The possible endings of a name whose parts are these words; an empty one allows any name."""
    endings: tuple[str, ...] = ("",)
    for words in reversed(alternatives):
        if not 0 < len(words) * len(endings) <= MOST_ENDINGS:
            break
        endings = tuple(word + ending for word in words for ending in endings)
    return endings


def _numbers(name: str, start: int) -> list[str]:
    """The numbers at `start` in `name`, the longest first."""
    end = start
    while end < min(len(name), start + MOST_DIGITS) and name[end] in string.digits:
        end += 1
    return [name[start:stop] for stop in range(end, start, -1)]


def label_words(spellings: Iterable[Spelling]) -> LabelWords:
    """The words that each label axis may have, in a form to cache by."""
    spellings = tuple(spellings)
    words = {
        axis: [word for each in spellings if axis in each for word in each[axis].values()]
        for axis in LABELS
    }
    return tuple(
        (axis, tuple(dict.fromkeys(known)) or tuple(LABELS[axis])) for axis, known in words.items()
    )
