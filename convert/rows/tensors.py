"""The tensors of a file, as the rows of dialects see them: names and shapes."""

from collections.abc import Mapping

from .pattern import LabelWords, Match, Pattern

Shape = tuple[int, ...]


class Tensors:
    """Names and shapes of tensors, and which names fit a pattern; each pattern is matched once."""

    def __init__(self, shapes: Mapping[str, Shape]):
        self.shapes = shapes
        self._matching: dict[tuple[str, LabelWords], dict[str, Match]] = {}

    def matching(self, pattern: Pattern, words: LabelWords) -> Mapping[str, Match]:
        """The names that fit `pattern`, and how; `words` are those of label axes in names."""
        key = pattern.text, words if pattern.labels else ()
        if key not in self._matching:
            match = pattern.matcher(words)
            matches = ((name, match(name)) for name in self.shapes)
            self._matching[key] = {name: found for name, found in matches if found}
        return self._matching[key]
