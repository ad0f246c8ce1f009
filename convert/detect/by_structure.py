"""Proposes a dialect for a file with unknown names, from the structure of names and shapes.

Reads no values.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxgpt.errors import in_a_row

from ..names.unsupported import reasons
from ..rows.axes import LABELS, View
from ..rows.dialect import EMBEDDING, HEAD, POSITIONS, Dialect, Ignore, Kind, Mask, Row, Tied

# Name, with numbers replaced by {layer} and {head} -> shape, in the order of the file.
Table = dict[str, tuple[int, ...]]
# Prefix of a name before a number -> the number -> the suffixes after it.
Lists = dict[str, dict[int, Table]]

NUMBER = r"(?<![^.])(0|[1-9][0-9]{0,8})\."
THREE, MLP, NORMS = LABELS["qkv"], ("up", "down"), ("norm1", "norm2")
QKV = "blocks/attn/qkv/kernel : layer d head qkv k"
OUT = "blocks/attn/out/kernel : layer head k d"
ROLES = {  # flax view; torch axes, out and in; description; beginnings of typical words
    "token": (EMBEDDING, "v", "d", "token embedding", "tok|word|wte|emb|char"),
    "positions": (f"{POSITIONS} : t d", "t", "d", "position table", "pos|wpe|pe "),
    **dict.fromkeys(THREE, (QKV, "head k", "d", "query, key, value", ".")),
    "fused": (QKV, "qkv head k", "d", "query, key, value", "qkv|att|in proj"),
    "out": (OUT, "d", "head k", "attention's output", "out|proj|att|o |wo "),
    "up": ("blocks/mlp/up/kernel : layer d f", "f", "d", "first matrix of the MLP", "."),
    "down": ("blocks/mlp/down/kernel : layer f d", "d", "f", "second matrix of the MLP", "."),
    "norm1": ("blocks/norm1/scale : layer d", "d", "", "norm of attention", "."),
    "norm2": ("blocks/norm2/scale : layer d", "d", "", "norm of the MLP", "."),
    "final": ("final_norm/scale : d", "d", "", "norm after the blocks", "."),
    "head": (HEAD, "v", "d", "head", "head|out|proj|fc|lin|vocab|log|dec|lm |unemb"),
}
# In blocks?; number of dimensions; groups of alternative sets of roles, the largest sets first.
STEPS: tuple[tuple[bool, int, list[list[tuple[str, ...]]]], ...] = (
    (True, 2, [[(*qkv, *out, *MLP)] for qkv in (THREE, ("fused",)) for out in (("out",), ())]),
    (True, 1, [[NORMS]]),
    (
        False,
        2,
        [
            [("token", "positions", "head")],
            [("token", "positions"), ("token", "head")],
            [("token",)],
        ],
    ),
    (False, 1, [[("final",)], [()]]),
)
ORDER = (MLP, NORMS, ("out", "up"), ("token", "positions"), ("positions", "up"), ("up", "head"))
FIRST, SECOND = "in|att|mha|sa ", "two |second|down|proj|out|contr|post|ff|feed|mlp"
BEWARE = (
    "nobody has seen this class: RMSNorm, rotary positions, another activation or no causal mask "
    "leave no trace"
)


@dataclass(frozen=True)
class Proposal:
    """The dialect proposed for a file, or the reasons why there is none."""

    dialect: Dialect | None  # None if a tensor has no role
    problems: list[str]


def propose(shapes: Mapping[str, tuple[int, ...]]) -> Proposal:
    """Propose a dialect for the tensors in `shapes`, for the user to confirm."""
    problems = [
        f"{n!a} is no name for a tensor"
        for n in shapes
        if not re.fullmatch(r"[^\s(){}|?:\\]{1,400}", n)
    ]
    table, lists, odd = folded(
        {} if problems else dict(shapes), "layer", lambda block: len(block) > 2
    )
    if len(lists) != 1:
        problems.append(
            f"more than one list of blocks: {in_a_row(lists, ', ')}"
            if lists
            else "no list of blocks"
        )
    if problems or odd:
        return Proposal(None, problems + odd)
    # A sorted file says nothing about the order of the modules.
    by_alphabet = any(list(block) == sorted(block) for block in lists.popitem()[1].values())
    table, heads, odd = folded(
        table, "head", lambda head: len(head) == 3 and len(set(head.values())) == 1
    )
    draft = Draft(table, max(map(len, heads.values()), default=1), not by_alphabet, odd)
    rows = draft.rows()
    lost = [
        name for name in table if "token" in draft.roles and (name not in rows or said(name, "rms"))
    ]
    draft.problems += [f"{name} {table[name]}: {draft.why(name)}" for name in lost]
    rows_in_order = tuple(dict.fromkeys(rows[name] for name in table if name in rows))
    words = " ".join(
        joined([name for role, name in draft.roles.items() if role in THREE])[1] or THREE
    )
    about = "a class without a name, its roles told by structure"
    dialect = Dialect("auto", about, rows_in_order, qkv=(words,), beware=BEWARE)
    return Proposal(None if draft.problems else dialect, draft.problems)


def described(dialect: Dialect) -> list[str]:
    """A line for each row of `dialect`: its names, their shape, and their role."""
    texts = {Mask: "causal mask, no weight", Tied: "head, or the token embedding again"}
    lines = []
    for row in dialect.rows:
        view = View.parse(row.torch)
        sides = [
            "".join("3" if axis == "qkv" else axis[0].upper() for axis in dim) or "1"
            for dim in view.dims
        ]
        text = row.because if isinstance(row, Ignore) else texts.get(type(row), "")
        if isinstance(row, Row):
            role, _, leaf = row.flax.rpartition("/")
            text = next(
                meaning for flax, _, _, meaning, _ in ROLES.values() if flax.startswith(f"{role}/")
            )
            text += f" (spelled {dialect.qkv[0]})" if "{qkv}" in view.name else ""
            if "qkv" in role:
                text += ", one head each" if "{head}" in view.name else ", all heads"
            text += ", bias" if leaf.startswith("bias") else ""
        lines.append((view.name, f"({', '.join(sides)})", text))
    names, shapes, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    return [f"{name:{names}}  {shape:{shapes}}  {text}" for name, shape, text in lines]


class Draft:
    """An assignment of roles to the names of a table, step by step through STEPS.

    `heads` is the number of modules for each head; `ordered` whether the file keeps the order of
    the class; `problems` collects what stands in the way.
    """

    def __init__(self, table: Table, heads: int, ordered: bool, problems: list[str]) -> None:
        self.table, self.heads, self.ordered, self.problems = table, heads, ordered, problems
        self.roles: dict[str, str] = {}  # role -> name
        self.biases = biases(table)
        self.place = {name: i for i, name in enumerate(table)}
        self.rank = {
            n: said(n, FIRST) - said(n, SECOND) - sum(map(int, re.findall(r"\d+", n)))
            for n in table
        }
        inside = {name: table[name] for name in self.biases if "{layer}" in name}
        scales = [shape[0] for shape in inside.values() if len(shape) == 1]
        # D is the norm width that is a dimension of the most tensors in blocks.
        d = max(
            scales, key=lambda width: sum(width in shape for shape in inside.values()), default=0
        )
        squares = [shape[-1] for name, shape in table.items() if is_mask(name, shape)]
        self.sizes: dict[str, float] = dict(
            zip(("embedding bias", "d", "t"), (0, d, *squares), strict=False)
        )
        all(self.assign(*step) for step in STEPS)

    def assign(self, inside: bool, sides: int, groups: list[list[tuple[str, ...]]]) -> bool:
        """Assign the largest set of roles that shapes allow, in the best way by `rate`.

        Considers names in blocks if `inside`, else outside, with `sides` dimensions (2 means 2 or
        more). False if no set fits.
        """
        names = [
            n
            for n in self.biases
            if ("{layer}" in n) == inside and min(len(self.table[n]), 2) == sides
        ]
        for group in groups if len(names) < 8 else ():
            ways = [
                dict(zip(r, o, strict=True))
                for r in group
                for o in itertools.permutations(names, len(r))
            ]
            rated = [
                (score, self.roles | way) for way in ways if (score := self.rate(self.roles | way))
            ]
            highest = max((score for score, _ in rated), default=None)
            best = [way for score, way in rated if score == highest]
            for role in best[0] if best else ():
                candidates = list(dict.fromkeys(way.get(role, "none") for way in best))
                if len(candidates) > 1:
                    self.problems.append(
                        f"{' or '.join(candidates)}: nothing tells which is the {ROLES[role][3]}"
                    )
            if best:
                self.roles = dict(sorted(best[0].items(), key=lambda pair: self.place[pair[1]]))
                return True
        listed = in_a_row(
            (f"{n} {self.table[n]}{' with a bias' * bool(self.biases[n])}" for n in names), ", "
        )
        self.problems.append(
            f"{listed or 'nothing'} cannot be {'; '.join(ROLES[role][3] for role in groups[-1][0])}"
        )
        return False

    def rate(self, way: dict[str, str]) -> tuple[int, int] | None:
        """The rating of an assignment `way` (role -> name): by words, then by order.

        None if shapes forbid it, or if a matrix of the MLP is named closer to attention than the
        MLP's matrices are to each other.
        """
        words = joined([way[label] for label in THREE if label in way])[1]
        letters = "".join(next((x for x in "{qkv" if x in word.lower()), "-") for word in words)
        parts = {role: name.split(".") for role, name in way.items()}
        query, out = parts.get("query") or parts["fused"], parts.get("out", [])
        apart = any(alike(parts[role], query) > alike(parts["up"], parts["down"]) for role in MLP)
        apart |= any(alike(parts[role], out) > alike(out, query) for role in MLP)
        linear = self.fits(way, 1)
        if letters not in ("", "qkv") or apart or not (linear or self.fits(way, -1)):
            return None
        hints = sum(bool(said(name, ROLES[role][4])) for role, name in way.items())
        ranks = [
            (self.rank[way[one]], self.rank[way[two]]) for one, two in (MLP, NORMS) if one in way
        ]
        strays = [
            self.place[way[one]] > self.place[way[two]]
            for one, two in ORDER
            if one in way and two in way
        ]
        hints += sum((one > two) - (one < two) for one, two in ranks)
        return hints, linear - self.ordered * sum(strays)

    def fits(self, way: dict[str, str], step: int) -> bool:
        """Whether shapes allow the assignment `way` (role -> name).

        Matrices in blocks are taken as [out, in], or as [in, out] if `step` is -1.
        """
        sizes = self.sizes | ({} if "out" in way else {"head k": self.sizes["d"]})
        for role, name in way.items():
            flax, outs, ins, *_ = ROLES[role]
            shape, bias = self.table[name][:: step if "{layer}" in name else 1], self.biases[name]
            misfit = bias and self.table[bias] != shape[:1]
            if role == "positions" and len(shape) == 3 and 1 in shape[:2]:
                shape = (max(shape[:2]), shape[2])
            heads = self.heads if "{head}" in name else 1
            rows = shape[0] / 3 if role == "fused" else shape[0] * heads
            axes = [axis.removeprefix("qkv ") for axis in (outs, ins) if axis]
            implied = dict(zip(axes, (rows, *shape[1:]), strict=False))
            # Within norms, the MLP's matrices, and q, k and v, either all have a bias or none.
            implied |= {
                f"{kind} bias": bool(bias)
                for kind in ("norm", "mlp", "qkv", "embedding")
                if kind in flax
            }
            if (
                misfit
                or len(axes) != len(shape)
                or any(sizes.get(axis, n) != n for axis, n in implied.items())
            ):
                return False
            sizes |= implied
        return "emb" not in way.get("final", "")

    def rows(self) -> dict[str, Kind]:
        """The row of each name; the three names that {qkv} joins share one."""
        shapes = self.table.items()
        row_of: dict[str, Kind] = {
            n: Mask(f"{n} : {'() ' * (len(s) - 2)}t t") for n, s in shapes if is_mask(n, s)
        }
        row_of |= {
            n: Ignore(n, "the number that masks, no weight")
            for n, s in shapes
            if not s and "mask" in n
        }
        linear = self.fits(self.roles, 1)
        for roles in dict.fromkeys(THREE if role in THREE else (role,) for role in self.roles):
            names = [name for role, name in self.roles.items() if role in roles]
            name = joined(names)[0]
            flax, outs, ins, *_ = ROLES[roles[0]]
            inner = [
                [axis for axis in axes.split() if f"{{{axis}}}" not in name]
                for axes in (outs, ins)
                if axes
            ]
            sides = [axes[0] if len(axes) == 1 else f"({' '.join(axes)})" for axes in inner]
            dims = " ".join(sides if linear or "{layer}" not in name else sides[::-1])
            if len(self.table[names[0]]) == 3:
                dims = "() t d" if self.table[name][0] == 1 else "t () d"
            row_of |= dict.fromkeys(
                names, Tied(f"{name} : v d") if flax == HEAD else Row(flax, f"{name} : {dims}")
            )
            vectors = [self.biases[name] for name in names]
            wanted = {"layer", "qkv", *outs.split()}
            axes = " ".join(axis for axis in flax.partition(" : ")[2].split() if axis in wanted)
            row = Row(
                f"{flax.rpartition('/')[0]}/bias : {axes}", f"{joined(vectors)[0]} : {sides[0]}"
            )
            row_of |= dict.fromkeys(filter(None, vectors), row)
        return row_of

    def why(self, name: str) -> str:
        """The reason why `name` has no role."""
        role = max(self.roles, key=lambda role: alike(self.roles[role], name))
        text = (
            "an RMSNorm"
            if said(name, "rms")
            else f"one too many beside {self.roles[role]}, the {ROLES[role][3]}"
        )
        return next(iter(reasons([name])), text).removeprefix(f"{name} ")


def folded(
    table: Table, axis: str, holds: Callable[[Table], bool]
) -> tuple[Table, Lists, list[str]]:
    """Replace the numbers of the outermost module lists by {axis}.

    Takes the lists whose members all have matrices that satisfy `holds`. Returns the table, these
    lists, and problems with members that differ from the first.
    """
    lists: defaultdict[str, dict[int, Table]] = defaultdict(dict)
    for name, shape in table.items():
        for number in itertools.islice(re.finditer(NUMBER, name), 8):
            lists[name[: number.start()]].setdefault(int(number[1]), {})[name[number.end() :]] = (
                shape
            )
    outermost, odd, outer = Lists(), list[str](), tuple[str, ...]()
    for stem in sorted(
        stem for stem, members in lists.items() if all(holds(matrices(m)) for m in members.values())
    ):
        if not stem.startswith(outer):
            outer, outermost[stem] = (stem,), dict(sorted(lists[stem].items()))
            first = next(iter(outermost[stem].values()))
            strange = [
                n
                for i, (n, member) in enumerate(outermost[stem].items())
                if n != i or member != first
            ]
            odd += [f"{stem}{n} is not one more of the same" for n in strange]
    table = {
        re.sub(
            NUMBER, lambda m: f"{{{axis}}}." if m.string[: m.start()] in outermost else m[0], name
        ): shape
        for name, shape in table.items()
    }
    return table, outermost, odd


def is_mask(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is square and has a name of a causal mask."""
    square = len(shape) > 1 and shape[-1] == shape[-2] and set(shape[:-2]) <= {1}
    return square and bool(
        re.search("mask|tri[lu]|^tri$|bias|causal", name.rpartition(".")[2].lower())
    )


def matrices(table: Table) -> Table:
    """The tensors of two or more dimensions, without masks."""
    return {
        name: shape for name, shape in table.items() if len(shape) > 1 and not is_mask(name, shape)
    }


def biases(table: Table) -> dict[str, str]:
    """The bias of each matrix and each norm's scale, by its name; "" if it has none."""
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        modules[name.rpartition(".")[0]] |= {} if is_mask(name, shape) else {name: shape}
    bias_of: dict[str, str] = {}
    for inside in modules.values():
        scales = [
            name for name in inside if not name.rpartition(".")[2].startswith(("b", "offset"))
        ]
        wide = list(matrices(inside)) or scales[:1]
        vectors = [name for name, shape in inside.items() if name not in wide and len(shape) == 1]
        bias_of |= dict.fromkeys(wide, vectors[0] if len(wide) == len(vectors) == 1 else "")
    return bias_of


def joined(names: list[str]) -> tuple[str, list[str]]:
    """The three names as one, with {qkv} in place of the words that differ, and those words."""
    if len(names) < 2:
        return "".join(names), []
    pieces = [re.findall("[A-Z]?[^A-Z._]+|[A-Z._]", name) for name in names]
    start = alike(*pieces)
    end = alike(*(piece[start:][::-1] for piece in pieces))
    words = ["".join(piece[start : len(piece) - end]) for piece in pieces]
    return "".join([*pieces[0][:start], "{qkv}", *pieces[0][len(pieces[0]) - end :]]), words


def alike(*rows: Sequence[str]) -> int:
    """The length of the common prefix of `rows`."""
    return len(
        list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
    )


def said(name: str, beginnings: str) -> int:
    """The number of words in `name` that match `beginnings`, where a blank ends a word."""
    words = re.findall(r"[A-Z]?[^\W\dA-Z_]+|[A-Z]+", name)
    return len(re.findall(f" (?:{beginnings})", f" {'  '.join(words)} ".lower()))
