"""The Markdown tables of dialects in `docs/bridge.md`. Run as a program, it prints them."""

from collections import defaultdict
from collections.abc import Iterable

from .dialects import DIALECTS, PAIRS
from .rows.dialect import Dialect
from .rows.kinds import Row

MATRICES = {"up": "blocks/mlp/up/kernel", "gate": "blocks/mlp/gate_up/kernel"}
POSITION_TABLE = "pos_embedding/embedding"
QUERY_NORM = "blocks/attn/q_norm/scale"
BRANCHES = {
    "sequential": "sequential",
    "parallel": "parallel",
    "parallel_one_norm": "parallel, one norm",
}


def dialect_table() -> str:
    """The table of all dialects: the class of each, and where its head count comes from."""
    return _markdown(
        ("dialect", "class", "dropout", "heads"),
        (
            (f"`{dialect.name}`", dialect.about, str(dialect.unsaid["dropout"]), _heads(dialect))
            for dialect in DIALECTS.values()
        ),
    )


def pair_table() -> str:
    """The table of the dialects of encoder-decoders: the class of each, and what it computes."""
    return _markdown(
        ("dialect", "class", "positions", "norms", "MLP"),
        (
            (
                f"`{pair.name}`",
                pair.about,
                _positions(pair.decoder),
                _norms(pair.decoder),
                _mlp(pair.decoder),
            )
            for pair in PAIRS.values()
        ),
    )


def architecture_table() -> str:
    """The table of what each dialect computes, unless its tensors or a config say otherwise."""
    return _markdown(
        ("dialect", "positions", "norms", "MLP", "attention and MLP", "key and value heads"),
        (
            (
                f"`{dialect.name}`",
                _positions(dialect),
                _norms(dialect),
                _mlp(dialect),
                BRANCHES[dialect.unsaid["residual"]],
                "may be grouped" if dialect.grouped else "one for each query head",
            )
            for dialect in DIALECTS.values()
        ),
    )


def _markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [*map(_line, [heads, *rows])]
    return "\n".join([lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heads(dialect: Dialect) -> str:
    """Whether every file of `dialect` shows the number of heads, in names or in shapes."""
    alternatives: defaultdict[str, list[bool]] = defaultdict(list)  # by parameter
    for row in dialect.rows:
        if isinstance(row, Row):
            shows = row.torch.has("head") or ("head",) in row.torch.dims or row.flax.diagonal
            alternatives[row.flax.name].append(shows and not row.torch.optional)
    counted = any(map(all, alternatives.values()))
    return "counted" if counted else "from a config, or asked for"


def _parameters(dialect: Dialect, optional: bool = True) -> set[str]:
    """The Flax paths in files of `dialect`, including `optional` ones and those of other
    variants."""
    variants = (dialect, *dialect.variants) if optional else (dialect,)
    rows = [row for variant in variants for row in variant.rows if isinstance(row, Row)]
    return {row.flax.name for row in rows if optional or not row.torch.optional}


def _positions(dialect: Dialect) -> str:
    """The kind of positions, and the usual rotary layout."""
    if POSITION_TABLE in _parameters(dialect, optional=False):
        return "a table"
    unstored = dialect.unsaid.get("positions", "asked for")
    layout = f", {dialect.layout}" if unstored == "rotary" and dialect.layout else ""
    stored = "a table, or " if POSITION_TABLE in _parameters(dialect) else ""
    return stored + unstored + layout


def _norms(dialect: Dialect) -> str:
    """The place and the kind of the norms, and any additional norms."""
    kind = {"layer": "LayerNorm", "rms": "RMSNorm"}[dialect.unsaid["norm_kind"]]
    weights = "" if "blocks/norm1/scale" in _parameters(dialect) else " without weights"
    words = [f"{dialect.unsaid['norm']}, {kind}{weights}", *dialect.unsaid["extra_norms"]]
    always = dialect.unsaid["qk_norm"] != "none" or QUERY_NORM in _parameters(dialect, False)
    if always or QUERY_NORM in _parameters(dialect):
        words.append("queries and keys" if always else "queries and keys in some files")
    return ", ".join(words)


def _mlp(dialect: Dialect) -> str:
    """The activation, and whether the MLP has a gate: always, never or as the file shows."""
    parameters = _parameters(dialect)
    plain, gated = (MATRICES[name] in parameters for name in ("up", "gate"))
    activation = dialect.unsaid["activation"]
    if plain and gated:
        return f"{activation}, a gate where the file has one"
    return f"{activation}, gated" if gated else activation


if __name__ == "__main__":
    print(dialect_table(), architecture_table(), pair_table(), sep="\n\n")
