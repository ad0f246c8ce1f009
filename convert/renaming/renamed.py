"""The tensors of a file under other names, and the way back to its own."""

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxgpt.errors import UserError

from ..names import parts
from ..rows.axes import Sizes, View
from ..rows.dialect import Dialect
from ..rows.kinds import Kind
from ..rows.labels import LABELS, Place
from .forms import Form, widths_of

Shapes = Mapping[str, tuple[int, ...]]
HEADS_FIRST = (
    "where a kernel has two dimensions for its heads, the first is assumed to be their number and "
    "the second their width; set num_heads to decide it"
)
HEADS_EQUAL = (
    "where a kernel has two equal dimensions for its heads, the first is assumed to be their "
    "number and the second their width; only running the class can show which it is"
)
BY_NAME = (
    "no known class has these names; by their words or shapes, they are taken as follows: {taken}"
)
# The parts of a block whose shapes may be equal, so that only names tell them apart.
ALIKE = re.compile(
    r"(norm\d|(pre|post)_\w+_norm|self_attn|cross_attn|\w+\.(gate|up|down|wi))(?=\.)"
)
OF_MLP = {*f"{parts.UP} {parts.DOWN}".split()}


@dataclass(frozen=True)
class Template:
    """A name with {layer} and {head} in place of numbers; the same name in the file."""

    name: str
    own: str
    form: Form | None = None  # None if the tensor in the file has the usual dimensions

    @property
    def inside(self) -> tuple[str, str]:
        """The name in the file and the new one, without the list and the number of a block."""
        own, new = (re.split(r"{layer\w*}[._]?", each)[-1] for each in (self.own, self.name))
        return own, new


@dataclass(frozen=True)
class Renamed:
    """Names of tensors, each with its template and the numbers in place of {layer} and {head}."""

    places: Mapping[str, tuple[Template, Place]]  # by the name in the file
    widths: Mapping[str, int] = field(default_factory=dict)  # axis -> its size, shown by forms
    caveat: str = ""  # on what only the order of the file tells

    @property
    def changes(self) -> bool:
        """Whether a tensor has another name or another form in the file."""
        return any(each.name != each.own or each.form for each, _ in self.places.values())

    def caveats(self, given: Collection[str]) -> list[str]:
        """Warnings about what neither names, forms nor the `given` fields decide."""
        heads = HEADS_FIRST if self.widths and "num_heads" not in given else ""
        sides = [
            (t.form.lengths, s) for t, _ in self.places.values() if t.form for s in t.form.sides
        ]
        if any(len(s) > 1 and lengths[s[-1]] == lengths[s[-2]] for lengths, s in sides):
            heads = HEADS_EQUAL
        return [sentence for sentence in (self.caveat, self._taken, heads) if sentence]

    @property
    def _taken(self) -> str:
        """A warning that lists names whose part no shape shows; "" if all names are usual."""
        taken: dict[str, str] = {}
        for template, _ in self.places.values():
            own, new = template.inside
            part = ALIKE.match(new)
            if part and new != own and part[1].removesuffix("_attn") not in own:
                whole = template.own if own in ("weight", "bias") else own  # of a list of norms
                taken.setdefault(_module(whole, new, part[1]), part[1])
            elif "{layer" not in template.own and not f".{own}".endswith(f".{new}"):
                taken.setdefault(own.rpartition(".")[0] or own, new.rpartition(".")[0])
        usual = {own for own in taken if own.rpartition(".")[2] in OF_MLP}
        pairs = ", ".join(
            f"{own} for {new}" for own, new in taken.items() if own not in {new, *usual}
        )
        return BY_NAME.format(taken=pairs) if pairs else ""

    @property
    def with_heads_last(self) -> "Renamed | None":
        """The same names where heads are the last of two dimensions; None if there are no two."""
        if not self.widths:
            return None
        places = {
            own: (replace(each, form=each.form.with_heads_last) if each.form else each, place)
            for own, (each, place) in self.places.items()
        }
        widths = widths_of(each.form for each, _ in places.values() if each.form)
        return Renamed(places, widths, self.caveat)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The name in the file -> the new one."""
        return {own: View(t.name, ()).at(place) for own, (t, place) in self.places.items()}

    def shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """The shapes by the new names."""
        return {
            name: form.shape(shapes[own]) if (form := self.places[own][0].form) else shapes[own]
            for own, name in self.names.items()
        }

    def reading(self, read: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
        """The function that reads by the new names what `read` reads by those in the file."""
        own = {name: old for old, name in self.names.items()}

        def reading(name: str) -> np.ndarray:
            array, form = read(own[name]), self.places[own[name]][0].form
            return form.usual(array) if form else array

        return reading

    def in_file(self, dialect: Dialect, sizes: Sizes) -> Dialect:
        """The settled `dialect` with the names and dimensions in the file, for axes of `sizes`."""
        templates = {template.name: template for template, _ in self.places.values()}
        words: dict[str, Any] = dict(dialect.words)
        rows: list[Kind] = []
        for row in dialect.rows:
            view = dialect.view(row)
            axis = next((axis for axis in LABELS if row.torch.has(axis)), "")
            spelled = view.words(axis) if axis else {"": ""}
            found = [
                templates.get(name, Template(name, name))
                for name in (view.name.replace(f"{{{axis}}}", word) for word in spelled.values())
            ]
            name = found[0].own
            if axis:
                name, inner = joined([each.own for each in found], axis)
                pairs = zip(spelled, inner, strict=True)
                words[axis] = (" ".join(f"{label}={word}" for label, word in pairs),)
            form, dims = found[0].form, row.torch.dims
            dims = form.dims(dims) if form else dims
            rows.append(replace(row, torch=replace(row.torch, pieces=(name,), dims=dims)))
        own = replace(dialect, rows=tuple(rows), words=words)
        self._require_shapes(own, sizes)
        return own

    def _require_shapes(self, dialect: Dialect, sizes: Sizes) -> None:
        """Require that the rows of `dialect` give the tensors their shapes in the file."""
        for _, view in dialect.views:
            for place in view.places(sizes):
                name, shape = view.at(place), view.shape(sizes, place)
                form = self.places[name][0].form if name in self.places else None
                if form and form.lengths != shape:
                    raise UserError(
                        f"{name} is {form.lengths}, and {view.formula} would be {shape} with the "
                        "fields that were given."
                    )


def _module(own: str, new: str, part: str) -> str:
    """The beginning of the name `own` that corresponds to the `part` that `new` begins with."""
    rest = new.removeprefix(f"{part}.").count(".") + 1
    return own.rsplit(".", rest)[0]


def joined(names: list[str], axis: str) -> tuple[str, list[str]]:
    """The names as one, with {axis} in place of the letters that differ, and those letters."""
    start = _common(names)
    end = _common([name[start:][::-1] for name in names])
    shortest = min(map(len, names))
    end = min(end, shortest - 1)  # so that no word is empty
    start = min(start, shortest - 1 - end)
    words = [name[start : len(name) - end] for name in names]
    return f"{names[0][:start]}{{{axis}}}{names[0][len(names[0]) - end :]}", words


def _common(names: list[str]) -> int:
    """The length of the common prefix of `names`."""
    shortest = min(map(len, names))
    return next((i for i in range(shortest) if len({name[i] for name in names}) > 1), shortest)
