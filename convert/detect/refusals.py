"""The reasons to refuse a file, or to ask for a field, once a dialect was fitted to its tensors."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import UserError

from ..names.stated import Statement
from ..names.unsupported import KINDS
from ..rows.arranged import ORDERS, PERMUTED
from ..rows.fit import Fit, joint_width
from ..rows.kinds import is_embedding
from .errors import Asked
from .inputs import Inputs
from .open_orders import open_orders
from .values import Evidence

LONGEST = 2**22  # largest context length accepted without a position table


def require_supported_kinds(inputs: Inputs) -> set[str]:
    """The model_type of each Hugging Face config; refuses those of KINDS by what they are."""
    kinds = {
        where: config["model_type"]
        for where, config in inputs.configs.items()
        if "architectures" in config and isinstance(config.get("model_type"), str)
    }
    for where, kind in kinds.items():
        for meaning, members in KINDS.items():
            if kind in members.split():
                raise UserError(
                    f"{inputs.path}: {where} says model_type = {kind!r}, which is {meaning}: it "
                    "has no counterpart here. If that config does not belong to the file, leave it "
                    "out with --ignore-config."
                )
    return {*kinds.values()}


def require_agreement(
    inputs: Inputs,
    evidence: Evidence,
    shown: Mapping[str, Any],
    stated: Mapping[str, Statement],
) -> None:
    """Refuse given or stated fields that contradict the tensors or one another."""
    contradictions = []
    repeated = sum(map(is_embedding, evidence.dialect.rows)) > 1
    if inputs.given.get("final_norm") is False and "final_norm" not in shown:
        contradictions.append(
            "final_norm = False was given, but the file has a final norm; if the class never "
            "applies it, set final_norm=unused"
        )
    if inputs.given.get("positions") == "learned" and "positions" not in shown:
        contradictions.append("positions = learned was given, but the file has no position table")
    contradictions += [
        f"{name} = {inputs.given[name]} was given, but the tensor names already fix that order"
        for name in ORDERS.keys() - open_orders(evidence.dialect)
        if name in inputs.given
    ]
    named = any(row.torch.has("qkv") for row in evidence.dialect.rows)
    if named and inputs.given.get("qkv_order") in PERMUTED:
        contradictions.append(
            f"qkv_order = {inputs.given['qkv_order']} was given, but some matrices name queries, "
            "keys and values separately, and then fused ones can only be read in the order qkv"
        )
    for name, value in inputs.given.items():
        others = [("the tensors show", shown[name])] if name in shown else []
        others += [(f"{stated[name].where} says", stated[name].value)] if name in stated else []
        contradictions += [
            f"{name} = {value} was given, but {where} {other}"
            for where, other in others
            if value != other
        ]
    for name, statement in stated.items():
        value, where = statement
        # A head equal to the embedding computes the same, tied or not, and stored sinusoids can be
        # extended beyond the context.
        equal = name == "tied" and repeated
        longer = name == "context_length" and shown.get("positions_stored") and value < shown[name]
        harmless = equal or longer or statement.by_default
        if name in shown and shown[name] != value and not harmless:
            contradictions.append(
                f"{where} says {name} = {value}, but the tensors show {shown[name]}"
            )
    if contradictions:
        way = (
            "--ignore-config leaves out the config"
            if stated
            else "Do not set what the file itself shows"
        )
        raise UserError(f"{inputs.path}: {'; '.join(contradictions)}. {way}.")


def require_all(inputs: Inputs, fitted: Fit, fields: Mapping[str, Any]) -> None:
    """Require the fields that have no usual value, and a context length within LONGEST."""
    if "num_heads" not in fields or not {"kv", "k"} <= fitted.sizes.keys():
        raise _question_of_heads(inputs, fitted, fields)
    if "positions" not in fields:
        raise Asked(
            f"{inputs.side}positions",
            f"{inputs.path}: it has no table of positions, and nothing else in it shows how the "
            f"model encodes positions. Set it with --set {inputs.side}positions=rotary, alibi, "
            "none or sinusoidal. Your class settles it: to-flax FILE DIR --torch module:Class; so "
            "can a text that the model knows: jaxgpt-convert probe FILE --text TEXT.",
            ("rotary", "alibi", "none", "sinusoidal"),
        )
    if "norm_kind" not in fields:
        raise Asked(
            f"{inputs.side}norm_kind",
            f"{inputs.path}: its blocks have no tensors of norms. If they have norms without "
            f"weights, set their kind with --set {inputs.side}norm_kind=rms or layer; if they "
            "have none at all, the class has no counterpart here. Your class settles it: to-flax "
            "FILE DIR --torch module:Class.",
            ("rms", "layer"),
        )
    if "context_length" not in fields:
        raise Asked(
            f"{inputs.side}context_length",
            f"{inputs.path}: it has no table of positions, so nothing shows how long the "
            f"context is: set it with --set {inputs.side}context_length=N.",
        )
    if fields["context_length"] > LONGEST:
        raise UserError(
            f"{inputs.path}: a context length of {fields['context_length']} is more than "
            f"{LONGEST}. Set a smaller one with --set {inputs.side}context_length=N."
        )
    turned = fields.get("rotary_fraction", 1) * fitted.sizes["k"]
    if fields["positions"] == "rotary" and "rotary_fraction" not in inputs.given and turned % 2:
        raise Asked(
            f"{inputs.side}rotary_fraction",
            f"{inputs.path}: heads are {fitted.sizes['k']} wide, and elements rotate in pairs, "
            f"but the usual fraction of this class, {fields['rotary_fraction']}, would rotate "
            f"{turned:g} of them: set the fraction with --set {inputs.side}rotary_fraction=X.",
        )


def _question_of_heads(inputs: Inputs, fitted: Fit, fields: Mapping[str, Any]) -> Asked:
    """The question for the number of heads, with those that fit."""
    sizes = {axis: n for axis, n in fitted.sizes.items() if axis not in ("kv", "k")}
    group = sizes.get("group", 1)
    width = (joint_width(fitted.dialect, inputs.shapes, sizes) or 0) * group
    why = (
        f"num_heads = {fields['num_heads']} does not divide that"
        if "num_heads" in fields
        else "no tensor shows how many heads there are"
    )
    # The elements of a head that rotates as a whole are pairs.
    pairs = fields.get("positions") == "rotary" and fields.get("rotary_fraction", 1) == 1
    whole = width // 2 if pairs and width % 2 == 0 else width
    counts = [n for n in range(group, whole + 1, group) if whole % n == 0]
    text = (
        f"{inputs.path}: the queries of all heads together are {width} wide, and {why}. Head "
        f"counts that fit are {', '.join(map(str, counts))}: set it with --set "
        f"{inputs.side}num_heads=N."
    )
    if group > 1:
        text += (
            f" Keys and values are {width // group} wide, so that {group} heads share each: "
            f"num_kv_heads is then N / {group}, and --set {inputs.side}num_kv_heads=N / {group} "
            "would do as well."
        )
    return Asked(f"{inputs.side}num_heads", text, counts)
