"""What a dialect is made of. Knows the notation of `axes` and the fields of ModelConfig; no file, no array.

In the torch name of a row, `(a|b)` are words of which a file uses one, everywhere; `?` after the name says that a file
may lack it: `blocks.{layer}.(sa|attn).proj.bias? : d`.
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxgpt.config import ModelConfig

from .axes import View

# The axes that size a model, and the field of ModelConfig that each one is.
FIELDS = {
    "v": "vocab_size",
    "t": "context_length",
    "d": "model_dim",
    "layer": "num_blocks",
    "head": "num_heads",
    "k": "head_dim",
    "f": "mlp_dim",
}
# What most classes do where no tensor shows it. The head count of a fused q/k/v has no usual value.
USUAL = {
    "norm": "pre",
    "final_norm": True,
    "activation": "relu",
    "attention_scale": "head_dim",
    "attention_scale_by_layer": False,
    "positions": "sinusoidal",  # of a file with no position table
    "norm_eps": 1e-5,
    "dropout": 0.0,
}
HEAD, EMBEDDING, POSITIONS = (
    "head/kernel : d v",
    "token_embedding/embedding : v d",
    "pos_embedding/embedding",
)


@dataclass(frozen=True)
class Row:
    """One tensor seen from both sides: its flax view and its torch view."""

    flax: str
    torch: str


@dataclass(frozen=True)
class Tied:
    """The matrix of the head, which may be the token embedding again: the numbers tell, or that it is absent."""

    torch: str


@dataclass(frozen=True)
class Mask:
    """A causal mask kept among the tensors. It is no parameter: looked at, not carried, and written anew."""

    torch: str
    kind: str = "lower"  # how it is written: see `evidence.KINDS`
    dtype: str = "float32"
    written: bool = True  # whether today's class has it


@dataclass(frozen=True)
class Ignore:
    """What needs no place, and why."""

    torch: str
    because: str


Kind = Row | Tied | Mask | Ignore


def linear(flax: str, torch: str, bias: str = "", conv: bool = False) -> tuple[Row, ...]:
    """`blocks/mlp/up : layer d f` and `mlp.c_fc : f d`, whose first axis is the bias's; the last one of a Conv1D.
    `bias` is "?" where a file may lack it, and "no" where the class has none."""
    flax_name, flax_axes = flax.split(" : ")
    torch_name, torch_axes = torch.split(" : ")
    kernel = Row(f"{flax_name}/kernel : {flax_axes}", f"{torch_name}.weight : {torch_axes}")
    view = View.parse(torch)
    out = view.dims[-1 if conv else 0]
    kept = " ".join(axis for axis in flax_axes.split() if axis in {*view.spread, *out})
    merged = out[0] if len(out) == 1 else f"({' '.join(out)})"
    if bias == "no":
        return (kernel,)
    return kernel, Row(f"{flax_name}/bias : {kept}", f"{torch_name}.bias{bias} : {merged}")


def norm(
    flax: str, torch: str, bias: str = "", words: str = "weight bias", absent: str = ""
) -> tuple[Row, ...]:
    """`blocks/norm1` or `final_norm`; `absent` is "?" where a file may lack both of its tensors."""
    layer = "layer " if flax.startswith("blocks/") else ""
    scale, shift = words.split()
    return (
        Row(f"{flax}/scale : {layer}d", f"{torch}.{scale}{absent} : d"),
        Row(f"{flax}/bias : {layer}d", f"{torch}.{shift}{absent or bias} : d"),
    )


def embeddings(token: str, positions: str) -> tuple[Row, ...]:
    return Row(EMBEDDING, f"{token}.weight : v d"), Row(f"{POSITIONS} : t d", f"{positions} : t d")


@dataclass(frozen=True)
class Container:
    """How the people of a class save a whole run: under which keys."""

    weights: str = "model_state_dict"
    optimizer: str = "optimizer_state_dict"
    settings: str = ""  # the class's own, without which its programs do not open a file
    words: Mapping[str, str] = field(
        default_factory=dict
    )  # each of them -> the fields that it stands for
    step: str = ""
    loss: str = ""
    groups: str = (
        ""  # what its optimiser's first group holds, and its second does not; "": as the run has it
    )


@dataclass(frozen=True)
class Hub:
    """The class of Hugging Face that opens a folder of such tensors, and its words in config.json."""

    architecture: str
    words: str  # those that say a field of ModelConfig; `said` knows which
    repeated: Mapping[str, str] = field(
        default_factory=dict
    )  # further words of the class, and which they repeat


@dataclass(frozen=True)
class Dialect:
    """One class of PyTorch GPT: how it names its tensors, and what its files leave unsaid."""

    name: str
    about: str  # one line for people: whose class it is
    rows: tuple[Kind, ...]
    unsaid: Mapping[str, Any] = field(
        default_factory=lambda: dict(USUAL)
    )  # field that no tensor shows -> usual value
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what is so in every file of this class
    qkv: tuple[str, ...] = (
        "query key value",
    )  # how names spell the three, in the order of the class's own list
    says: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(
        default_factory=dict
    )  # words of its config -> fields
    twin: str = ""  # the dialect whose files look the same; this one is taken by name, or where `told_by` is there
    told_by: frozenset[str] = frozenset()  # "mask", "untied", or a key beside the state dict
    family: bool = (
        False  # many classes of one structure; not for a file that is a part of another dialect's
    )
    beware: str = ""  # what a user of this class must know, and no file shows
    container: Container = Container()
    hub: Hub | None = None  # where a class of Hugging Face opens folders of it
    own: str = ""  # "module:Class" of a torch class of ours to prove against

    @property
    def reference(self) -> str:
        """ "module:Class" of a torch class to prove against, ours or a library's; "" where none is at hand."""
        return self.own or (f"transformers:{self.hub.architecture}" if self.hub else "")

    @functools.cached_property
    def views(self) -> tuple[tuple[View, View], ...]:
        """(flax, torch) of each row, once it is settled which rows there are."""
        rows = (row for row in self.rows if isinstance(row, Row))
        return tuple((View.parse(row.flax), View.parse(row.torch, self.spelling)) for row in rows)

    @functools.cached_property
    def tensors(self) -> tuple[View, ...]:
        """The torch view of everything that a file holds, in the order of the class."""
        return tuple(
            View.parse(row.torch, self.spelling) for row in self.rows if not isinstance(row, Ignore)
        )

    @functools.cached_property
    def masks(self) -> tuple[tuple[Mask, View], ...]:
        return tuple(
            (row, View.parse(row.torch, self.spelling))
            for row in self.rows
            if isinstance(row, Mask)
        )

    def unlike(
        self,
        config: ModelConfig,
        known: Collection[str] = (),
    ) -> dict[str, tuple[Any, Any]]:
        """Fields that no file of this dialect holds and its class has otherwise: (ours, usual).
        Of fields in `known` it is certain that the class has them as `config` has."""
        shown = {"dropout", *known} | ({"positions"} if config.position_rows else set())
        shown |= {"final_norm"} if config.final_norm is False else set()
        return {
            field: (getattr(config, field), usual)
            for field, usual in self.unsaid.items()
            if field not in shown and getattr(config, field) != usual
        }

    def written(self) -> dict[str, Any]:
        """The settled rows as plain text: a model directory keeps them, to be able to write the same names again."""
        rows = [{"row": type(row).__name__, **vars(row)} for row in self.rows]
        return {"dialect": self.name, "qkv": self.qkv[0], "rows": rows}

    def reread(self, written: Mapping[str, Any]) -> "Dialect":
        kinds = {kind.__name__: kind for kind in (Row, Mask)}
        rows = tuple(
            kinds[row["row"]](**{k: v for k, v in row.items() if k != "row"})
            for row in written["rows"]
        )
        return replace(self, name=written["dialect"], rows=rows, qkv=(written["qkv"],))

    @property
    def spelling(self) -> Mapping[str, Mapping[str, str]]:
        return {"qkv": labelled(self.qkv[0])}


def labelled(words: str) -> dict[str, str]:
    """`W_key W_query W_value` -> which is which: each word holds one of the letters q, k, v."""
    labels = {"q": "query", "k": "key", "v": "value"}
    return {
        labels[next(letter for letter in "qkv" if letter in word.lower())]: word
        for word in words.split()
    }
