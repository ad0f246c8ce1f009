"""Assigns a role to each tensor of an unknown class, from the structure of names and shapes."""

import itertools
import re

from jaxgpt.errors import in_a_row

from ..names.gates import VALUE_FIRST, down_ranks, gate_ranks, halves
from ..names.roles import FIRST, GLU, JOINED, MLP, NORMS, ORDER, ROLES, SECOND, STEPS, THREE
from ..names.tensor_names import Table, alike, biases, count_words, is_mask, joined
from ..names.unsupported import reasons
from ..rows.kinds import HEAD, Kind, ignored, mask, row, tied
from ..rows.labels import LABELS


class Draft:
    """An assignment of roles to the names of a table, step by step through STEPS.

    `heads` is the number of heads that are modules of their own, and `ordered` whether the file
    has the order of the class. Reasons why a role cannot be assigned are added to `problems`.
    """

    def __init__(self, table: Table, heads: int, ordered: bool, problems: list[str]) -> None:
        self.table, self.heads, self.ordered, self.problems = table, heads, ordered, problems
        self.roles: dict[str, str] = {}  # role -> name
        self.assumed: list[str] = []  # sentences on what was assumed
        self.biases = biases(table)
        self.place = {name: i for i, name in enumerate(table)}
        self.rank = {
            n: count_words(n, FIRST) - count_words(n, SECOND) - sum(map(int, re.findall(r"\d+", n)))
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
        for step in STEPS:
            if not self.assign(*step):
                break

    def assign(self, inside: bool, sides: int, groups: list[list[tuple[str, ...]]]) -> bool:
        """Assign the largest set of roles that shapes allow, in the way that `rate` rates highest.

        The candidates are names in blocks if `inside`, else outside them, whose tensors have
        `sides` dimensions (2 stands for 2 or more). Returns whether some set fits.
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
                # Which matrix is the gate is a field: gate_order.
                if len(candidates) > 1 and role not in GLU:
                    self.problems.append(
                        f"{' or '.join(candidates)}: nothing shows which is the {ROLES[role][3]}"
                    )
            if best:
                self.roles = dict(sorted(best[0].items(), key=lambda pair: self.place[pair[1]]))
                return True
        listed = in_a_row(
            (f"{n} {self.table[n]}{' with a bias' * bool(self.biases[n])}" for n in names), ", "
        )
        wanted = "; ".join(ROLES[role][3] for role in groups[-1][0])
        self.problems.append(
            f"{listed} cannot be {wanted}" if listed else f"no tensor can be {wanted}"
        )
        return False

    def rate(self, way: dict[str, str]) -> tuple[int, int] | None:
        """The rating of an assignment `way` (role -> name): by words, then by order.

        None if shapes forbid it, or if a matrix of the MLP is named closer to attention than the
        MLP's matrices are to each other.
        """
        linear = self.fits(way, 1)
        if not (linear or self.fits(way, -1)):
            return None
        words = joined([way[label] for label in THREE if label in way])[1]
        letters = "".join(next((x for x in "{qkv" if x in word.lower()), "-") for word in words)
        parts = {role: name.split(".") for role, name in way.items()}
        query, out = parts.get("query") or parts["fused"], parts.get("out", [])
        mlp = [parts[role] for role in way if "/mlp/" in ROLES[role][0]]
        apart = any(alike(each, query) > alike(*mlp) for each in mlp)
        apart |= any(alike(each, out) > alike(out, query) for each in mlp)
        if letters not in ("", "qkv") or apart:
            return None
        hints = sum(bool(count_words(name, ROLES[role][4])) for role, name in way.items())
        ranks = [
            (self.rank[way[one]], self.rank[way[two]])
            for one, two in (MLP, ("both", "down"), NORMS)
            if one in way and two in way
        ]
        if "gate" in way:
            gate, gated = (way[role] for role in GLU)
            ranks += [gate_ranks(gate, gated), *down_ranks(gate, gated, way["down"])]
        strays = [
            self.place[way[one]] > self.place[way[two]]
            for one, two in ORDER
            if one in way and two in way
        ]
        hints += sum((one > two) - (one < two) for one, two in ranks)
        return hints, linear - self.ordered * sum(strays)

    def words(self) -> dict[str, tuple[str, ...]]:
        """The words of the labels in names, and the order of the halves of a matrix."""
        spelled = {"qkv": " ".join(self._joined(THREE)[1] or THREE)}
        if "both" in self.roles:
            spelled["glu"] = halves(self.roles["both"]) or VALUE_FIRST
        if "gate" in self.roles:
            labels = dict(zip(GLU, LABELS["glu"], strict=True))
            order = [labels[role] for role in self.roles if role in GLU]
            pairs = zip(order, self._joined(GLU)[1], strict=True)
            spelled["glu"] = " ".join(f"{label}={word}" for label, word in pairs)
        return {axis: (text,) for axis, text in spelled.items()}

    def _joined(self, roles: tuple[str, ...]) -> tuple[str, list[str]]:
        return joined([name for role, name in self.roles.items() if role in roles])

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
            rows = shape[0] / 2 if role == "both" else shape[0] * heads
            axes = [axis.removeprefix("glu ") for axis in (outs, ins) if axis]
            if role in ("key", "value"):
                axes[0] = "head k" if "{head}" in name else "kv k"
            if role == "fused":
                queries = self.table[way["out"]][::step][1] if "out" in way else self.sizes["d"]
                axes, rows = ["kv k", "d"], (shape[0] - queries) / 2
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
        queries = sizes.get("head k", sizes["d"])
        keys = sizes.get("kv k", queries)
        shared = keys > 0 and keys % 1 == 0 and queries % keys == 0
        return shared and "emb" not in way.get("final", "")

    def rows(self) -> dict[str, Kind]:
        """The row of each name; names that differ only in a label, such as {qkv}, share a row."""
        shapes = self.table.items()
        row_of: dict[str, Kind] = {
            n: mask(f"{n} : {'() ' * (len(s) - 2)}t t") for n, s in shapes if is_mask(n, s)
        }
        row_of |= {n: ignored(n) for n, s in shapes if not s and "mask" in n}
        linear = self.fits(self.roles, 1)
        for label, roles in dict.fromkeys(map(_together, self.roles)):
            names = [name for role, name in self.roles.items() if role in roles]
            name = joined(names, label)[0]
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
            wanted = {"layer", "qkv", "glu", *outs.split()}
            axes = " ".join(axis for axis in flax.partition(" : ")[2].split() if axis in wanted)
            bias = row(
                f"{flax.rpartition('/')[0]}/bias : {axes}",
                f"{joined(vectors, label)[0]} : {sides[0]}",
            )
            row_of |= dict.fromkeys(filter(None, vectors), bias)
        return row_of

    def why(self, name: str) -> str:
        """The reason why `name` has no role."""
        role = max(self.roles, key=lambda role: alike(self.roles[role], name))
        text = f"one too many beside {self.roles[role]}, the {ROLES[role][3]}"
        return next(iter(reasons({name: self.table[name]})), text).removeprefix(f"{name} ")


def _together(role: str) -> tuple[str, tuple[str, ...]]:
    """The label axis of the row of `role`, and all roles that share this row."""
    return next(((axis, roles) for axis, roles in JOINED.items() if role in roles), ("", (role,)))
