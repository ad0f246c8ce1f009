"""The parts of a dialect: its rows, its defaults, its checkpoint container, its Hugging Face class.

Builds on the notation of `axes` and the fields of ModelConfig; independent of files and arrays.

In the torch name of a row, `(a|b)` is a choice of words, of which a file uses one throughout; `?`
after the name marks a tensor that a file may lack: `blocks.{layer}.(sa|attn).proj.bias? : d`.
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxgpt.config import ModelConfig

from .axes import View

# The axes that size a model -> their fields of ModelConfig.
FIELDS = {
    "v": "vocab_size",
    "t": "context_length",
    "d": "model_dim",
    "layer": "num_blocks",
    "head": "num_heads",
    "k": "head_dim",
    "f": "mlp_dim",
}
# Usual values of fields that no tensor shows. The head count of a fused q/k/v has none.
USUAL = {
    "norm": "pre",
    "final_norm": True,
    "activation": "relu",
    "attention_scale": "head_dim",
    "attention_scale_by_layer": False,
    "positions": "sinusoidal",  # of a file without a position table
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
    """The matrix of the head, which is the token embedding if equal to it or absent."""

    torch: str


@dataclass(frozen=True)
class Mask:
    """A causal mask stored among the tensors: checked on reading, and made again on writing."""

    torch: str
    kind: str = "lower"  # its form: see `masks.KINDS`
    dtype: str = "float32"
    written: bool = True  # whether the current version of the class stores it


@dataclass(frozen=True)
class Ignore:
    """A tensor that is not carried, and why."""

    torch: str
    because: str


Kind = Row | Tied | Mask | Ignore


def linear(flax: str, torch: str, bias: str = "", conv: bool = False) -> tuple[Row, ...]:
    """The rows of kernel and bias of a linear layer: `blocks/mlp/up : layer d f`, `mlp.c_fc : f d`.

    The bias has the first torch axis, or the last if `conv` (Conv1D). `bias` is "?" where a file
    may lack it, "no" where the class has none.
    """
    flax_name, flax_axes = flax.split(" : ")
    torch_name, torch_axes = torch.split(" : ")
    kernel = Row(f"{flax_name}/kernel : {flax_axes}", f"{torch_name}.weight : {torch_axes}")
    view = View.parse(torch)
    out = view.dims[-1 if conv else 0]
    bias_axes = " ".join(axis for axis in flax_axes.split() if axis in {*view.spread, *out})
    merged = out[0] if len(out) == 1 else f"({' '.join(out)})"
    if bias == "no":
        return (kernel,)
    return kernel, Row(f"{flax_name}/bias : {bias_axes}", f"{torch_name}.bias{bias} : {merged}")


def norm(
    flax: str, torch: str, bias: str = "", words: str = "weight bias", absent: str = ""
) -> tuple[Row, ...]:
    """The rows of scale and shift of the norm `flax`, such as `blocks/norm1` or `final_norm`.

    `absent` is "?" where a file may lack both tensors.
    """
    layer = "layer " if flax.startswith("blocks/") else ""
    scale, shift = words.split()
    return (
        Row(f"{flax}/scale : {layer}d", f"{torch}.{scale}{absent} : d"),
        Row(f"{flax}/bias : {layer}d", f"{torch}.{shift}{absent or bias} : d"),
    )


def embeddings(token: str, positions: str) -> tuple[Row, ...]:
    """The rows of the token embedding `token` and the position table `positions`."""
    return Row(EMBEDDING, f"{token}.weight : v d"), Row(f"{POSITIONS} : t d", f"{positions} : t d")


@dataclass(frozen=True)
class Container:
    """The keys under which a training script of the class saves a whole run."""

    weights: str = "model_state_dict"
    optimizer: str = "optimizer_state_dict"
    settings: str = ""  # the class's own settings, which its programs need to open a file
    words: Mapping[str, str] = field(default_factory=dict)  # each setting -> fields of ModelConfig
    step: str = ""
    loss: str = ""
    # The parameters of the optimiser's first group, which the second lacks; "": as in the run.
    groups: str = ""


@dataclass(frozen=True)
class Hub:
    """The Hugging Face class that opens a folder of such tensors, and its words in config.json."""

    architecture: str
    words: str  # those that stand for a field of ModelConfig, by `config_words.SYNONYMS`
    repeated: Mapping[str, str] = field(default_factory=dict)  # word -> the word whose value it has


@dataclass(frozen=True)
class Dialect:
    """One class of PyTorch GPT: its tensor names, and the fields that its files leave open."""

    name: str
    about: str  # one line for readers: whose class it is
    rows: tuple[Kind, ...]
    # Field that no tensor shows -> its usual value.
    unsaid: Mapping[str, Any] = field(default_factory=lambda: dict(USUAL))
    fixed: Mapping[str, Any] = field(default_factory=dict)  # field -> its value in every file
    # Spellings of query, key and value, in the order in which the class defines them.
    qkv: tuple[str, ...] = ("query key value",)
    # Word of the class's config -> its value -> the fields of ModelConfig that it implies.
    says: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict)
    # The dialect whose files look the same; this one is chosen by name, or by `told_by`.
    twin: str = ""
    told_by: frozenset[str] = frozenset()  # "mask", "untied", or a key alongside the state dict
    # Covers many classes of one structure; never for a part of another dialect's file.
    family: bool = False
    beware: str = ""  # a warning to users of this class, on what no file shows
    container: Container = Container()
    hub: Hub | None = None  # the Hugging Face class that opens folders of it
    own: str = ""  # "module:Class" of a torch class of this package to prove against

    @property
    def reference(self) -> str:
        """The torch class to prove against, as "module:Class"; "" if there is none."""
        return self.own or (f"transformers:{self.hub.architecture}" if self.hub else "")

    @functools.cached_property
    def views(self) -> tuple[tuple[View, View], ...]:
        """(flax, torch) of each row; the dialect must be settled."""
        rows = (row for row in self.rows if isinstance(row, Row))
        return tuple((View.parse(row.flax), View.parse(row.torch, self.spelling)) for row in rows)

    @functools.cached_property
    def tensors(self) -> tuple[View, ...]:
        """The torch views of all parameters and masks, in the order of the class."""
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
        """Fields that no tensor shows and that differ from the class: (value in `config`, usual).

        Leaves out the fields in `known`, on which the class is certain to agree with `config`.
        """
        shown = {"dropout", *known} | ({"positions"} if config.position_rows else set())
        shown |= {"final_norm"} if config.final_norm is False else set()
        return {
            field: (getattr(config, field), usual)
            for field, usual in self.unsaid.items()
            if field not in shown and getattr(config, field) != usual
        }

    def written(self) -> dict[str, Any]:
        """The settled rows as JSON values, stored in a model directory to export the same names."""
        rows = [{"row": type(row).__name__, **vars(row)} for row in self.rows]
        return {"dialect": self.name, "qkv": self.qkv[0], "rows": rows}

    def reread(self, written: Mapping[str, Any]) -> "Dialect":
        """This dialect with the rows that `written()` returned."""
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
    """Label -> its word in e.g. `W_key W_query W_value`; each word contains one of q, k, v."""
    labels = {"q": "query", "k": "key", "v": "value"}
    return {
        labels[next(letter for letter in "qkv" if letter in word.lower())]: word
        for word in words.split()
    }
