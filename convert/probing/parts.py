"""The parts of a model whose sizes result from training, and which a wrong reading would resize.

If a model is read correctly, the loss rises when one of them is made larger or smaller.
"""

from dataclasses import dataclass

from jaxgpt.config import ModelConfig

SLIGHTLY = {"a quarter smaller": 0.75, "a third larger": 4 / 3}
GREATLY = {"halved": 0.5, "doubled": 2.0}
QUERIES, LOGITS = "its queries", "its logits"


@dataclass(frozen=True)
class Part:
    """The parameters whose paths start with `leaves`, or the field `number` of
    `losses.Numbers`."""

    leaves: str = ""
    number: str = ""


def parts_of(config: ModelConfig) -> dict[str, Part]:
    """The parts of a model, by name; the model may lack the parameters of some of them."""
    parts = {
        "its token embeddings": Part("token_embedding/"),
        "its positions": Part("pos_embedding/"),
        QUERIES: Part(number="scales_l"),
        "what attention adds": Part(_before_sum(config, "1", "blocks/attn/out/")),
        "what the MLPs add": Part(_before_sum(config, "2", "blocks/mlp/down/")),
        LOGITS: Part("head/"),
    }
    if config.positions in ("rotary", "alibi"):  # weights are trained for their distances
        parts["its positions"] = Part(number="stretch")
    if config.qk_norm != "none" and not config.norm_weight:  # no trained parameter can resize them
        del parts[QUERIES]
    return parts


def _before_sum(config: ModelConfig, norm: str, projection: str) -> str:
    """The parameters just before a sum: a norm would undo another size of a projection before it.

    The `norm` of a part is the first or the second one of a block.
    """
    if "sandwich" in config.extra_norms:
        return f"blocks/out_norm{norm}/"
    return f"blocks/norm{norm}/" if config.norm == "output" else projection
