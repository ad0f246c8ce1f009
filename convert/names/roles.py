"""The roles that tensors of an unknown class may have: their shapes, and words typical of them."""

from ..rows.kinds import EMBEDDING, HEAD, POSITIONS
from ..rows.labels import LABELS

THREE, MLP, NORMS = tuple(LABELS["qkv"]), ("up", "down"), ("norm1", "norm2")
GLU = ("gate", "gated")  # the label `up` is the role `gated`
JOINED = {"qkv": THREE, "glu": GLU}  # roles whose names differ in the words of a label
QKV = "blocks/attn/qkv/kernel : layer d head qkv k"
OUT = "blocks/attn/out/kernel : layer head k d"
GATED = "blocks/mlp/gate_up/kernel : layer d glu f"
ROLES = {  # flax view; torch axes, out and in; description; beginnings of typical words
    "token": (EMBEDDING.text, "v", "d", "token embedding", "tok|word|wte|emb|char"),
    "positions": (f"{POSITIONS} : t d", "t", "d", "position table", "pos|wpe|pe "),
    **dict.fromkeys(THREE, (QKV, "head k", "d", "query, key, value", ".")),
    "fused": (QKV, "qkv head k", "d", "query, key, value", "qkv|att|in proj"),
    "out": (OUT, "d", "head k", "attention's output", "out|proj|att|o |wo "),
    "up": ("blocks/mlp/up/kernel : layer d f", "f", "d", "first matrix of the MLP", "."),
    "down": ("blocks/mlp/down/kernel : layer f d", "d", "f", "second matrix of the MLP", "."),
    "gate": (GATED, "f", "d", "gate of the MLP", "."),
    "gated": (GATED, "f", "d", "matrix of the MLP that is gated", "."),
    "both": (GATED, "glu f", "d", "gate of the MLP and what it gates", "."),
    "norm1": ("blocks/norm1/scale : layer d", "d", "", "norm of attention", "."),
    "norm2": ("blocks/norm2/scale : layer d", "d", "", "norm of the MLP", "."),
    "final": ("final_norm/scale : d", "d", "", "norm after the blocks", "."),
    "head": (HEAD.text, "v", "d", "head", "head|out|proj|fc|lin|vocab|log|dec|lm |unemb"),
}
MATRICES = [
    (*qkv, *out, *mlp)
    for qkv in (THREE, ("fused",))
    for out in (("out",), ())
    for mlp in (MLP, (*GLU, "down"), ("both", "down"))
]
# In blocks?; number of dimensions; groups of alternative sets of roles, the largest sets first.
STEPS: tuple[tuple[bool, int, list[list[tuple[str, ...]]]], ...] = (
    (
        True,
        2,
        [
            [each for each in MATRICES if len(each) == n and ("out" in each) is out]
            for n in range(7, 2, -1)
            for out in (True, False)
        ],
    ),
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
ORDER = (
    MLP, NORMS, ("both", "down"), ("out", "up"), ("out", "both"), ("out", "gate"),
    ("out", "gated"), ("token", "positions"), ("positions", "up"), ("up", "head"),
)  # fmt: skip
FIRST, SECOND = "in|att|mha|sa ", "two |second|down|proj|out|contr|post|ff|feed|mlp"
