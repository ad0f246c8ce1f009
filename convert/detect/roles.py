"""Assigns a role to each tensor of an unknown class, from the structure of names and shapes."""

import itertools
import re

from jaxgpt.errors import in_a_row

from ..names.unsupported import reasons
from ..rows.axes import LABELS
from ..rows.kinds import EMBEDDING, HEAD, POSITIONS, Kind, ignored, mask, row, tied
from .tensor_names import Table, alike, biases, is_mask, joined, said

THREE, MLP, NORMS = tuple(LABELS["qkv"]), ("up", "down"), ("norm1", "norm2")
QKV = "blocks/attn/qkv/kernel : layer d head qkv k"
OUT = "blocks/attn/out/kernel : layer head k d"
ROLES = {  # flax view; torch axes, out and in; description; beginnings of typical words
    "token": (EMBEDDING.text, "v", "d", "token embedding", "tok|word|wte|emb|char"),
    "positions": (f"{POSITIONS} : t d", "t", "d", "position table", "pos|wpe|pe "),
    **dict.fromkeys(THREE, (QKV, "head k", "d", "query, key, value", ".")),
    "fused": (QKV, "qkv head k", "d", "query, key, value", "qkv|att|in proj"),
    "out": (OUT, "d", "head k", "attention's output", "out|proj|att|o |wo "),
    "up": ("blocks/mlp/up/kernel : layer d f", "f", "d", "first matrix of the MLP", "."),
    "down": ("blocks/mlp/down/kernel : layer f d", "d", "f", "second matrix of the MLP", "."),
    "norm1": ("blocks/norm1/scale : layer d", "d", "", "norm of attention", "."),
    "norm2": ("blocks/norm2/scale : layer d", "d", "", "norm of the MLP", "."),
    "final": ("final_norm/scale : d", "d", "", "norm after the blocks", "."),
    "head": (HEAD.text, "v", "d", "head", "head|out|proj|fc|lin|vocab|log|dec|lm |unemb"),
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
            n: mask(f"{n} : {'() ' * (len(s) - 2)}t t") for n, s in shapes if is_mask(n, s)
        }
        row_of |= {n: ignored(n) for n, s in shapes if not s and "mask" in n}
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
                names, tied(f"{name} : v d") if flax == HEAD.text else row(flax, f"{name} : {dims}")
            )
            vectors = [self.biases[name] for name in names]
            wanted = {"layer", "qkv", *outs.split()}
            axes = " ".join(axis for axis in flax.partition(" : ")[2].split() if axis in wanted)
            bias = row(
                f"{flax.rpartition('/')[0]}/bias : {axes}", f"{joined(vectors)[0]} : {sides[0]}"
            )
            row_of |= dict.fromkeys(filter(None, vectors), bias)
        return row_of

    def why(self, name: str) -> str:
        """The reason why `name` has no role."""
        role = max(self.roles, key=lambda role: alike(self.roles[role], name))
        text = f"one too many beside {self.roles[role]}, the {ROLES[role][3]}"
        return next(iter(reasons([name])), text).removeprefix(f"{name} ")
