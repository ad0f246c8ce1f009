"""The names that a tensor may have in the files of a class.

`blocks.{layer}.(sa|attn).proj.bias? : d` is parsed once: text with axes in braces, choices of words
in parentheses, of which a file uses one throughout, and a `?` for a tensor that a file may lack.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from .axes import LABELS, Dims, Spelling, View, parse_dims

LabelWords = tuple[tuple[str, tuple[str, ...]], ...]  # each label axis, and the words on it


@dataclass(frozen=True)
class Choice:
    """Words of which a file uses one, wherever the same choice stands."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """How a name fits a pattern: the word of each axis, and of each choice."""

    axes: Mapping[str, str]
    words: Mapping[Choice, str]


@dataclass(frozen=True)
class Pattern:
    """A pattern of names, and the axes of the tensor's dimensions."""

    pieces: tuple[str | Choice, ...]  # the text between choices has its axes in braces
    dims: Dims
    optional: bool = False

    @staticmethod
    def parse(text: str) -> "Pattern":
        """Parse `name : axes`, or a name alone, whose dimensions are not looked at."""
        name, _, dims = text.partition(" : ")
        pieces = [
            Choice(tuple(piece.split("|"))) if i % 2 else piece
            for i, piece in enumerate(re.split(r"\(([^)]*)\)", name.strip().removesuffix("?")))
        ]
        optional = name.strip().endswith("?")
        return Pattern(tuple(pieces), parse_dims(dims), optional)

    @property
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
        return replace(self, optional=False)

    def worded(self, words: Mapping[Choice, str]) -> "Pattern":
        """The pattern with the word of `words`, or else the first one, for each choice."""
        name = "".join(
            words.get(piece, piece.words[0]) if isinstance(piece, Choice) else piece
            for piece in self.pieces
        )
        return replace(self, pieces=(name,))

    def view(self, spelling: Spelling | None = None) -> View:
        """The view of the tensors, once every choice is made."""
        if self.choices:
            raise ValueError(f"{self.pieces} still has choices")
        return View("".join(map(str, self.pieces)), self.dims, spelling or {})

    def match(self, name: str, spellings: Iterable[Spelling] = ()) -> Match | None:
        """How `name` fits the pattern with any of `spellings`; None if it does not."""
        return self.matcher(label_words(spellings))(name)

    def matcher(self, words: LabelWords) -> Callable[[str], Match | None]:
        """The function that `match` is, for many names and the same words of label axes."""
        choices = self.choices
        start, end = self.ends
        regex: re.Pattern[str] | None = None

        def match(name: str) -> Match | None:
            nonlocal regex
            if not (name.startswith(start) and name.endswith(end)):
                return None  # most names: without a regular expression, which is slow to compile
            regex = regex or _regex(self.pieces, words)
            found = regex.fullmatch(name)
            if found is None:
                return None
            groups = found.groupdict()
            chosen = {choice: groups.pop(f"choice{i}") for i, choice in enumerate(choices)}
            return Match(groups, chosen)

        return match

    @functools.cached_property
    def ends(self) -> tuple[str, str]:
        """The text before the first axis or choice, and the text after the last one."""
        first, last = (
            piece if isinstance(piece, str) else "" for piece in (self.pieces[0], self.pieces[-1])
        )
        return first.partition("{")[0], last.rpartition("}")[2]

    def may_match(self, name: str) -> bool:
        """Whether the words of the pattern occur in `name`: told without a regular expression."""
        return all(any(word in name for word in words) for words in self._words)

    @functools.cached_property
    def _words(self) -> list[tuple[str, ...]]:
        return [piece.words for piece in self.choices] + [
            (text,)
            for piece in self.pieces
            if isinstance(piece, str)
            for text in re.split(r"{\w+}", piece)
        ]


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


@functools.cache
def _regex(pieces: tuple[str | Choice, ...], of_labels: LabelWords) -> re.Pattern[str]:
    words, regex, count = dict(of_labels), "", 0
    for piece in pieces:
        if isinstance(piece, Choice):
            regex += f"(?P<choice{count}>{'|'.join(map(re.escape, piece.words))})"
            count += 1
            continue
        for i, part in enumerate(re.split(r"{(\w+)}", piece)):
            if i % 2:
                alternatives = map(re.escape, words[part]) if part in words else ["[0-9]{1,9}"]
                regex += f"(?P<{part}>{'|'.join(alternatives)})"
            else:
                regex += re.escape(part)
    return re.compile(regex)
