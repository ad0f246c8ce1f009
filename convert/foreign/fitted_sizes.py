"""Finds arguments of a foreign class by the shapes in its file, whatever their names are.

One number at a time is doubled. The lengths of axes and the counts of modules that change with it
show which value gives those of the file.
"""

import contextlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from .config_objects import MEANING
from .constructor_args import Answers, Lacking

Shapes = Mapping[str, tuple[int, ...]]
Build = Callable[[Answers], Any]
STAND_IN = 48  # for a number that is not known yet: it has many divisors
PASSES = 3  # some numbers show only when others are right, such as a factor of the width


def fit(answers: Answers, build: Build, wanted: Callable[[Shapes], Shapes]) -> bool:
    """Give `answers` the arguments that shapes show; whether there are any.

    `build` is what takes the arguments. `wanted` gives the shapes of the file under the names of a
    module with the shapes that it is given.
    """
    answers.fitted = _shown(answers, build, wanted)
    answers.told.clear()
    answers.defaults.clear()
    return bool(answers.fitted)


def confirm(answers: Answers, build: Build) -> None:
    """Move the defaults that the shapes of the class show from `answers.defaults` to `told`.

    Shapes show a number if they change when it is doubled, and do not stay the same when another
    default is doubled or halved with it. Doubling the heads alone changes the shapes of grouped
    queries, for example, but doubling heads and groups together does not.
    """
    if not answers.defaults:
        return
    trial = _Trial(answers, build, lambda shapes: shapes)
    now, numbers = trial.shapes({}), trial.numbers({})
    kept = {word: numbers[word] for word in answers.defaults if word in numbers}
    shown = {word for word in kept if trial.shapes({word: 2 * kept[word]}) not in (None, now)}
    for one, other in itertools.permutations(sorted(shown), 2):
        for times in (2, 0.5):
            changed = {one: 2 * kept[one], other: type(kept[other])(times * kept[other])}
            if trial.shapes(changed) == now:
                shown -= {one, other}
    for word in shown:
        answers.told[word] = answers.defaults.pop(word)


def _shown(answers: Answers, build: Build, wanted: Callable[[Shapes], Shapes]) -> dict[str, Any]:
    """The arguments with which `build` gives the shapes of the file, besides those known before."""
    trial = _Trial(answers, build, wanted)
    values = trial.stand_ins()
    if values is None:
        return {}
    shown: dict[str, Any] = {}
    for _ in range(PASSES):
        for word, value in trial.numbers(values).items():
            now = trial.shapes(values)
            if now is None or not trial.problems(now):
                break
            for right in _values(now, trial.shapes({**values, word: 2 * value}), value, wanted):
                changed = {**values, word: type(value)(right)}
                shapes = trial.shapes(changed)
                if shapes is not None and trial.problems(shapes) <= trial.problems(now):
                    values = changed
                    shown[word] = changed[word]
                    break
    return shown


class _Trial:
    """The class built with trial values of its arguments, for the sake of its shapes."""

    def __init__(self, answers: Answers, build: Build, wanted: Callable[[Shapes], Shapes]):
        self._answers, self._build, self._wanted = answers, build, wanted
        self._made: dict[tuple[Any, ...], tuple[Answers, Shapes] | None] = {}

    def stand_ins(self) -> dict[str, Any] | None:
        """A value for each argument that is lacking; None if the class cannot be built so."""
        values: dict[str, Any] = {}
        while True:
            try:
                self._module(values)
            except Lacking as lacking:
                new = [word for word in lacking.words if word not in values]
                if not new:
                    return None
                values |= {word: 1 if _means_heads(word) else STAND_IN for word in new}
            except (Exception, SystemExit):
                return None
            else:
                return values

    def numbers(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers among the arguments that the user has not given."""
        made = self._of(values)
        if made is None:
            return {}
        words = {**made[0].defaults, **made[0].told}
        return {
            word: value
            for word, value in words.items()
            if word not in self._answers.given
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
            and value > 0
        }

    def shapes(self, values: Mapping[str, Any]) -> Shapes | None:
        """The shapes of the class with these arguments; None if it cannot be built."""
        made = self._of(values)
        return None if made is None else made[1]

    def problems(self, shapes: Shapes) -> int:
        """The number of tensors in which `shapes` and the file differ."""
        return len(set(shapes.items()) ^ set(self._wanted(shapes).items()))

    def _of(self, values: Mapping[str, Any]) -> tuple[Answers, Shapes] | None:
        key = tuple(sorted(values.items()))
        if key not in self._made:
            try:
                self._made[key] = self._module(values)
            except (Exception, SystemExit):
                self._made[key] = None
        return self._made[key]

    def _module(self, values: Mapping[str, Any]) -> tuple[Answers, Shapes]:
        """The class without its data, if it can be built so."""
        with contextlib.redirect_stdout(io.StringIO()):
            for device in ("meta", "cpu"):
                answers = replace(self._answers, fitted=values, told={}, defaults={})
                try:
                    with torch.device(device):
                        module = self._build(answers)
                except Exception as error:
                    if device == "cpu" or isinstance(error, Lacking):
                        raise
                else:
                    shapes = {name: tuple(t.shape) for name, t in module.state_dict().items()}
                    return answers, shapes
        raise AssertionError


def _means_heads(word: str) -> bool:
    return word.lower() in ("h", "nhead") or "head" in MEANING.get(word.lower(), word.lower())


def _values(
    now: Shapes, doubled: Shapes | None, value: float, wanted: Callable[[Shapes], Shapes]
) -> Iterator[float]:
    """Yield the values of an argument that is `value` now, the one that most tensors show first.

    `doubled` has the shapes with twice the value.
    """
    if doubled is None:
        return
    lengths: list[tuple[int, int, int]] = []  # with the value, with twice the value, in the file
    file = wanted(now)
    for name, shape in now.items():
        lengths += zip(shape, doubled.get(name, ()), file.get(name, ()), strict=False)
    for stem in {stem for name in doubled.keys() - now.keys() for stem in _stems(name)}:
        if one := _count(stem, now):
            lengths.append((one, _count(stem, doubled), _count(stem, wanted(doubled))))
    votes: Counter[float] = Counter()
    for one, two, theirs in lengths:
        if one == 2 * two:  # a width that is divided by it
            votes[value * one / theirs] += 1
        elif one != two:
            votes[value + (theirs - one) * value / (two - one)] += 1
    for right, _ in votes.most_common():
        if right > 0 and (isinstance(value, float) or right == int(right)):
            yield right


def _stems(name: str) -> Iterator[str]:
    """Yield the beginnings of `name` that a number follows."""
    yield from (name[: match.start(1)] for match in re.finditer(r"(?:^|\.)(\d+)(?=\.|$)", name))


def _count(stem: str, shapes: Shapes) -> int:
    """The number of modules in `shapes` that `stem` and a number name."""
    return len({n[len(stem) :].partition(".")[0] for n in shapes if n.startswith(stem)})
