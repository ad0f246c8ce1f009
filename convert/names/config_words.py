"""Translates the configs in a checkpoint file, or alongside it, to fields of ModelConfig."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxgpt.errors import UserError

from ..rows.dialect import Dialect

SYNONYMS = {
    "vocab_size": "vocab_size n_vocab",
    "context_length": "block_size context_length context_size ctx ctx_len max_len max_seq "
    "max_seq_len max_seq_length seq_length seq_len n_positions n_ctx max_position_embeddings "
    "context_window sequence_len",
    "model_dim": "n_embd n_embed n_emb d_model embed_dim embedding_dim model_dim emb_dim "
    "dim_embedding emb_size embed_size hidden_size dim",
    "num_blocks": "n_layer num_layers num_blocks n_layers n_blocks num_hidden_layers",
    "num_heads": "n_head num_heads n_heads heads nhead num_attention_heads",
    "head_dim": "head_dim head_size",
    "num_kv_heads": "num_key_value_heads num_kv_heads n_kv_heads n_kv_head n_query_groups",
    "mlp_dim": "intermediate_size n_inner d_ff ff_dim ffn_dim dim_feedforward mlp_dim ff_hidden",
    "dropout": "dropout dropout_rate drop_rate resid_pdrop",
    "norm_eps": "layer_norm_epsilon layer_norm_eps norm_eps",
    "qkv_bias": "qkv_bias",
    "tied": "tie_word_embeddings tie_weights weight_tying",
    "attention_scale_by_layer": "scale_attn_by_inverse_layer_idx",
    "activation": "activation_function activation act afn",
    "attention_scale": "scale_attn_weights",
    "norm": "norm_first do_layer_norm_before",
    "rotary_theta": "rope_theta rope_base",
    "rotary_fraction": "rotary_percentage",
    "embedding_scale": "embedding_scale",
    "logit_softcap": "final_logit_softcapping",
    "attention_softcap": "attention_logit_softcapping",
}
FIELD = {word: name for name, words in SYNONYMS.items() for word in words.split()}
VALUES: dict[str, dict[Any, Any]] = {
    "activation": {
        "relu": "relu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh"), "gelu_tanh"),
    },
    "attention_scale": {True: "head_dim", False: "none"},
    "norm": {True: "pre", False: "post"},
}
# Keys of nested configs. A resumed nanoGPT run has its trainer's defaults under `config`.
SECTIONS = (
    "model_args",
    "model",
    "model_config",
    "config",
    "gpt_config",
    "args",
    "hparams",
    "hyper_parameters",
    "data",
)
FRACTIONS, FLAGS = ("dropout", "norm_eps"), ("qkv_bias", "tied", "attention_scale_by_layer")
NUMBERS = (  # above 0
    "rotary_theta", "rotary_fraction", "embedding_scale", "logit_softcap", "attention_softcap"
)  # fmt: skip
CLASS = "the class"  # prefix of a source that is only the default of a class
Word = tuple[str, str, Any]  # the place of a config, a key in it, and the plain value of the key
REFUSED = {"add_cross_attention": "attends to a second text (add_cross_attention)"}


class Statement(NamedTuple):
    """The value of a field of ModelConfig, and the place that states it, for errors."""

    value: Any
    where: str

    @property
    def by_default(self) -> bool:
        """Whether no config states the value, but only the class that one of them names."""
        return self.where.startswith(CLASS)


def stated_fields(
    configs: Mapping[str, Mapping[str, Any]],
    dialect: Dialect,
    path: object,
    given: Collection[str] = (),
    shown: Mapping[str, Any] | None = None,
) -> dict[str, Statement]:
    """What `configs`, those in the file and alongside it by name, state of fields of ModelConfig.

    They may contradict each other in the fields of `given`, which the caller sets anyway, and where
    one of them agrees with the tensors, which `shown` are the fields of.

    Example: {"config.json": {"model_type": "gpt2", "n_head": 4, "n_layer": "x"}} states that
    num_heads is 4, and what model_type = 'gpt2' implies for the dialect gpt2, such as the
    activation gelu_tanh. It states nothing of num_blocks, as no number of blocks can be "x".
    """
    _require_known_class(configs, dialect, path)
    words = list(_words(configs))
    _require_supported(words, path)
    stated = _implied_by_class(words, dialect)
    for where, key, value in words:
        field = FIELD.get(key, "")
        if not field or value in dialect.says.get(key, {}) or not _fits(field, value):
            continue
        place = f"{where}: {key} = {value!r}"
        new = Statement(_meaning(field, value, f"{path}: {where} says {key} = {value!r}"), place)
        old = stated.get(field)
        if old is None or old.by_default or old.value == new.value:
            stated[field] = new
        elif shown and field in shown and shown[field] in (old.value, new.value):
            stated[field] = old if old.value == shown[field] else new
        elif field not in given and not _overrides(old, field):
            raise UserError(
                f"{path}: {old.where}, but {place}. Say which with --set {field}=VALUE."
            )
    return stated


def _require_supported(words: Iterable[Word], path: object) -> None:
    """Raise UserError for a word that asks for something which ModelConfig lacks."""
    for where, key, value in words:
        if value is True and key in REFUSED:
            raise UserError(
                f"{path}: {where} says that the model {REFUSED[key]}, which has no counterpart "
                "here."
            )


def _implied_by_class(words: Iterable[Word], dialect: Dialect) -> dict[str, Statement]:
    """The fields that the class has where its config names it; the first such place counts."""
    implied: dict[str, Statement] = {}
    for where, key, value in words:
        for field, meant in dialect.says.get(key, {}).get(value, {}).items():
            place = f"{CLASS} of {where}, {key} = {value!r},"
            implied.setdefault(field, Statement(meant, place))
    return implied


def _overrides(statement: Statement, field: str) -> bool:
    """Whether `statement` may be contradicted by later ones, and counts nevertheless.

    nanoGPT's model_args are those of the model, and its trainer's defaults may be others. A dropout
    may have changed between runs.
    """
    return "model_args" in statement.where or field == "dropout"


def _meaning(name: str, value: Any, who: str) -> Any:
    """The value of the field `name` that the config's `value` stands for; `who` begins errors."""
    if name not in VALUES:
        return value
    spelled = value.lower() if isinstance(value, str) else value
    if spelled not in VALUES[name]:
        choices = ", ".join(map(str, VALUES[name]))
        raise UserError(
            f"{who}; there can be {choices}. If that config is not the file's, "
            "--ignore-config passes over it."
        )
    return VALUES[name][spelled]


def _require_known_class(
    configs: Mapping[str, Mapping[str, Any]], dialect: Dialect, path: object
) -> None:
    """Refuse a Hugging Face config of another class, whose tensors may have the same names."""
    for where, config in configs.items():
        kind = config.get("model_type")
        if (
            "architectures" in config
            and isinstance(kind, str)
            and kind not in dialect.says.get("model_type", {})
        ):
            raise UserError(
                f"{path}: {where} says model_type = {kind!r}, which is another class than "
                f"{dialect.name}. If that config is not the file's, --ignore-config passes over it."
            )


def as_written(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every key of `configs` and their sections -> its value in the first place that has it."""
    return {key: value for _, key, value in reversed(list(_words(configs)))}


def pads(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the class has a padding token, which it may hide from attention.

    The key of Hugging Face, pad_token_id, does not count: its classes hide no token by themselves.
    """
    return any(key in ("pad_id", "pad_idx", "padding_idx") for _, key, _ in _words(configs))


def characters(extras: Mapping[str, Any]) -> list[str]:
    """The character of each id, if the extras of a file list them; [] otherwise."""
    for key in (
        "itos",
        "int_to_char",
        "idx_to_char",
        "idx2char",
        "id_to_char",
        "chars",
        "vocab",
        "stoi",
        "char_to_int",
    ):
        words = extras.get(key)
        if isinstance(words, dict) and all(isinstance(word, str) for word in words):
            words = {index: word for word, index in words.items() if isinstance(index, int)}
        if isinstance(words, dict):
            words = [words.get(index) for index in range(len(words))]
        one_each = isinstance(words, list) and all(
            isinstance(word, str) and len(word) == 1 for word in words
        )
        if words and one_each and len({*words}) == len(words):
            return words
    return []


def _words(configs: Mapping[str, Mapping[str, Any]], depth: int = 0) -> Iterator[Word]:
    """Yield (place, key, value) for the plain values of `configs` and their sections.

    The depth is limited because a dict in an untrusted file may contain itself.
    """
    for where, config in configs.items():
        yield from (
            (where, key, value)
            for key, value in config.items()
            if isinstance(key, str) and _plain(value)
        )
        if depth < 2:
            inner = {
                f"{where}, {key}": config[key]
                for key in SECTIONS
                if isinstance(config.get(key), dict)
            }
            yield from _words(inner, depth + 1)


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _fits(name: str, value: Any) -> bool:
    """Whether `value` has a type and range possible for the field `name`."""
    if name in VALUES:
        return isinstance(value, str if name == "activation" else bool)
    if name in FLAGS:
        return isinstance(value, bool)
    if name in FRACTIONS:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0 and (isinstance(value, int) or name in NUMBERS)
