"""A dialect: one class of PyTorch GPT as rows, with what its files leave open."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .axes import Spelling, View
from .fields import USUAL, is_relevant, usual_of
from .hub import Hub
from .kinds import Buffer, Filled, Kind, Row, Scaled, Shifted
from .labels import LABELS
from .pattern import LabelWords, Pattern, label_words


@dataclass(frozen=True)
class Container:
    """The keys under which a training script of the class saves a whole run."""

    weights: str = "model_state_dict"
    optimizer: str = "optimizer_state_dict"
    settings: str = ""  # the class's own settings, which its programs need to open a file
    words: Mapping[str, str] = field(default_factory=dict)  # each setting -> fields of ModelConfig
    step: str = ""
    loss: str = ""
    # The parameters that the class's script decays, as a key of `optimizer.DECAYED`: they are the
    # optimiser's first group, the others the second. "": as optim.decay says.
    groups: str = ""
    # The setting that rounds up the width of a gated MLP, from 8/3 of the model's.
    mlp_multiple: str = ""


@dataclass(frozen=True)
class Dialect:
    """One class of PyTorch GPT: its tensor names, and the fields that its files leave open."""

    name: str
    about: str  # one line for readers: whose class it is
    rows: tuple[Kind, ...]
    # Field that no tensor shows -> its usual value.
    unsaid: Mapping[str, Any] = field(default_factory=lambda: dict(USUAL))
    fixed: Mapping[str, Any] = field(default_factory=dict)  # field -> its value in every file
    # Label axis -> its spellings, each with the words in the order in which the class has them.
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Word of the class's config -> its value -> the fields of ModelConfig that it implies.
    says: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict)
    # The dialect whose files look the same; this one is chosen by name, or by `told_by`.
    twin: str = ""
    # A file that fits both dialects and has no config is taken for this one.
    yields_to: str = ""
    told_by: frozenset[str] = frozenset()  # marks of `detect/values`, or keys beside the state dict
    # Other rows of the same class or family, for models that these rows have no place for, such as
    # gated MLPs. A file fits only one of the variants.
    variants: tuple["Dialect", ...] = ()
    grouped: bool = False  # whether several query heads may share a key and a value
    # The rotary layout that the class has; "": as the config says.
    layout: str = ""
    backward: bool = False  # rotates by minus the angle
    # Covers many classes of one structure; never for a part of another dialect's file.
    family: bool = False
    beware: str = ""  # a warning to users of this class, on what no file shows
    container: Container = Container()
    hub: Hub | None = None  # the Hugging Face class that opens folders of it
    order: tuple[str, ...] = ()  # the tensors of one file, where it has another order than the rows
    own: str = ""  # "module:Class" of a torch class of this package to prove against

    @property
    def reference(self) -> str:
        """The torch class to prove against, as "module:Class"; "" if there is none."""
        return self.own or (f"transformers:{self.hub.architecture}" if self.hub else "")

    @property
    def spellings(self) -> tuple[Spelling, ...]:
        """The spellings of labels that files of the class may have."""
        return tuple(
            {axis: labelled(axis, words)}
            for axis, spellings in self.words.items()
            for words in spellings
        )

    @functools.cached_property
    def label_words(self) -> LabelWords:
        """The words that each label axis may have in names."""
        return label_words(self.spellings)

    @functools.cached_property
    def claims(self) -> dict[str, bool]:
        """Names of tensors that were matched with all rows before, and whether a row fits them."""
        return {}

    @functools.cached_property
    def spelling(self) -> Spelling:
        """The spelling of each label axis; a settled dialect has only one."""
        return {axis: labelled(axis, spellings[0]) for axis, spellings in self.words.items()}

    @functools.cached_property
    def views(self) -> tuple[tuple[View, View], ...]:
        """(flax, torch) of each row; the dialect must be settled."""
        return tuple((row.flax, self.view(row)) for row in self.rows if isinstance(row, Row))

    @functools.cached_property
    def tensors(self) -> tuple[View, ...]:
        """The torch views of all parameters and buffers that matter, in the order of the class."""
        return tuple(self.view(row) for row in self.rows if not is_ignored(row))

    @functools.cached_property
    def buffers(self) -> tuple[tuple[Buffer, View], ...]:
        """The buffers that matter, and their torch views."""
        return tuple(
            (row, self.view(row))
            for row in self.rows
            if isinstance(row, Buffer) and not is_ignored(row)
        )

    def view(self, row: Kind) -> View:
        """The torch view of `row`.

        The words of a label axis give the order of labels that are merged in a matrix. But if they
        occur in names, they give only the order of these tensors in a file.
        """
        spelling = {
            axis: words
            for axis, words in self.spelling.items()
            if axis not in self._named or row.torch.has(axis)
        }
        return row.torch.view(spelling)

    @functools.cached_property
    def _named(self) -> frozenset[str]:
        """The label axes that are in the name of a row."""
        return frozenset(axis for row in self.rows for axis in self.words if row.torch.has(axis))

    @property
    def positions_offset(self) -> int:
        """The number of rows before position 0 in the class's position table."""
        return max((row.by for row in self.rows if isinstance(row, Shifted)), default=0)

    @property
    def certain(self) -> dict[str, Any]:
        """The fields that have one value in every file of the class."""
        return {"positions_offset": self.positions_offset, **self.fixed}

    def unlike(
        self,
        config: Any,
        known: Collection[str] = (),
    ) -> dict[str, tuple[Any, Any]]:
        """Fields that no tensor shows and that differ from the class: (value in `config`, usual).

        Leaves out the fields in `known`, on which the class is certain to agree with `config`.
        """
        shown = {"dropout", "rotary_layout", "qkv_order", "gate_order", *known}
        shown |= {"positions"} if config.position_rows else set()
        shown |= {"qk_norm"} if config.qk_norm == "full_width" else set()
        shown |= {"final_norm"} if config.final_norm is False else set()
        views = [row.flax for row in self.rows if isinstance(row, Row)]
        return {
            field: (getattr(config, field), usual)
            for field, usual in usual_of(
                self.unsaid, [] if config.qk_norm == "none" else views, vars(config)
            ).items()
            if field not in shown
            and is_relevant(field, vars(config))
            and getattr(config, field) != usual
        }

    def written(self) -> dict[str, Any]:
        """The settled rows as JSON values, stored in a model directory to export the same names."""
        rows = [{"kind": type(row).__name__, **_as_json(row)} for row in self.rows]
        return {
            "dialect": self.name,
            "words": self.words,
            "rows": rows,
            "layout": self.layout,
            "backward": self.backward,
            "grouped": self.grouped,
            "order": self.order,
        }

    def reread(self, written: Mapping[str, Any]) -> "Dialect":
        """This dialect with the rows that `written()` returned."""
        words = {axis: tuple(spellings) for axis, spellings in written["words"].items()}
        rows = tuple(_from_json(row) for row in written["rows"])
        return replace(
            self,
            name=written["dialect"],
            rows=rows,
            words=words,
            layout=written["layout"],
            backward=written["backward"],
            grouped=written.get("grouped", self.grouped),
            order=tuple(written.get("order", ())),
        )


def is_ignored(row: Kind) -> bool:
    """Whether `row` is of a tensor of no consequence."""
    return isinstance(row, Buffer) and not row.form


def labelled(axis: str, words: str) -> dict[str, str]:
    """Label -> its word, in the order of `words`.

    A word is `label=word`, or contains the first letter of its label: `W_key W_query W_value`.
    """
    labels: dict[str, str] = {}
    for word in words.split():
        label, _, spelled = word.rpartition("=")
        label = label or next(each for each in LABELS[axis] if each[0] in word.lower())
        labels[label] = spelled
    return labels


KINDS = {
    kind.__name__: kind for kind in (Row, Filled, Shifted, Scaled, Buffer)
}  # those of settled rows


def _as_json(row: Kind) -> dict[str, Any]:
    views = {"torch": row.torch.view().text}
    if isinstance(row, Row):
        views["flax"] = row.flax.text
    return {**vars(row), **views}


def _from_json(written: Mapping[str, Any]) -> Kind:
    fields = {name: value for name, value in written.items() if name != "kind"}
    fields["torch"] = Pattern.parse(fields["torch"])
    if "flax" in fields:
        fields["flax"] = View.parse(fields["flax"])
    kind: Any = KINDS[written["kind"]]
    for name in ("shape", "bits"):
        if name in fields:
            fields[name] = tuple(fields[name])
    made: Kind = kind(**fields)
    return made
