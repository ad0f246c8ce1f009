"""The words that configs in a checkpoint file, or next to it, use for fields of ModelConfig."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxgpt.errors import UserError

SYNONYMS = {
    "vocab_size": "vocab_size n_vocab",
    "context_length": "block_size context_length context_size ctx ctx_len max_len max_seq "
    "max_seq_len max_seq_length seq_length seq_len n_positions n_ctx max_position_embeddings "
    "context_window sequence_len",
    "model_dim": "n_embd n_embed n_emb d_model embed_dim embedding_dim model_dim emb_dim "
    "dim_embedding emb_size embed_size hidden_size dim",
    "num_blocks": "n_layer num_layers num_blocks n_layers n_blocks num_hidden_layers layers",
    "num_heads": "n_head num_heads n_heads heads nhead num_attention_heads attention_heads "
    "num_head nheads n_attn_heads num_attn_heads n_attention_heads",
    "head_dim": "head_dim head_size",
    "num_kv_heads": "num_key_value_heads num_kv_heads n_kv_heads n_kv_head n_query_groups",
    "mlp_dim": "n_inner d_ff ff_dim ffn_dim dim_feedforward mlp_dim ff_hidden intermediate_size "
    "ffn_hidden_size",
    "dropout": "dropout dropout_rate drop_rate resid_pdrop attention_dropout hidden_dropout "
    "resid_dropout residual_dropout",
    "norm_eps": "layer_norm_epsilon layer_norm_eps norm_eps rms_norm_eps norm_epsilon",
    "qkv_bias": "qkv_bias",
    "tied": "tie_word_embeddings tie_weights weight_tying",
    "attention_scale_by_layer": "scale_attn_by_inverse_layer_idx",
    "cross_attention": "add_cross_attention",
    "activation": "activation_function activation act afn hidden_act hidden_activation",
    "attention_scale": "scale_attn_weights",
    "norm": "norm_first do_layer_norm_before",
    "rotary_theta": "rope_theta rope_base",
    "rotary_fraction": "rotary_percentage",
    "embedding_scale": "embedding_scale",
    "logit_scale": "logit_scale",
    "logit_softcap": "final_logit_softcapping logit_softcap",
    "attention_softcap": "attn_logit_softcapping attention_logit_softcapping attention_softcap",
}
FIELD = {word: name for name, words in SYNONYMS.items() for word in words.split()}
VALUES: dict[str, dict[Any, Any]] = {
    "activation": {
        "relu": "relu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh"), "gelu_tanh"),
        **dict.fromkeys(("silu", "swish"), "silu"),
        **dict.fromkeys(("relu2", "relu_squared"), "relu2"),
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
    "cfg",
    "model_cfg",
    "args",
    "hparams",
    "hyper_parameters",
    "hyperparameters",
    "hyperparams",
    "params",
    "model_params",
    "model_kwargs",
    "settings",
    "data",
)
FRACTIONS = ("dropout", "norm_eps")
FLAGS = ("qkv_bias", "tied", "attention_scale_by_layer", "cross_attention")
NUMBERS = (  # above 0
    "rotary_theta", "rotary_fraction", "embedding_scale", "logit_scale", "logit_softcap",
    "attention_softcap",
)  # fmt: skip
Word = tuple[str, str, Any]  # the place of a config, a key in it, and the plain value of the key


def meaning(name: str, value: Any, who: str) -> Any:
    """The value of the field `name` that the config's `value` stands for; `who` begins errors."""
    if name not in VALUES:
        return value
    spelled = value.lower() if isinstance(value, str) else value
    if spelled not in VALUES[name]:
        choices = ", ".join(map(str, VALUES[name]))
        raise UserError(f"{who}; supported values are {choices}")
    return VALUES[name][spelled]


def as_written(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every key of `configs` and their sections -> its value in the first place that has it.

    Of Hugging Face's configs, lists, dicts and nulls are settings as well.
    """
    whole = {
        key: value
        for config in reversed(list(configs.values()))
        if "architectures" in config
        for key, value in config.items()
        if isinstance(key, str)
    }
    return whole | {key: value for _, key, value in reversed(list(words_in(configs)))}


def pads(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the class has a padding token, which it may hide from attention.

    The key of Hugging Face, pad_token_id, does not count: its classes hide no token by themselves.
    """
    return any(key in ("pad_id", "pad_idx", "padding_idx") for _, key, _ in words_in(configs))


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


def words_in(configs: Mapping[str, Mapping[str, Any]], depth: int = 0) -> Iterator[Word]:
    """Yield (place, key, value) for the plain values of `configs` and their sections.

    The depth is limited because a dict in an untrusted file may contain itself.
    """
    for where, config in configs.items():
        yield from (
            (where, key, value)
            for key, value in config.items()
            if isinstance(key, str) and is_plain(value)
        )
        if depth < 2:
            inner = {
                f"{where}, {key}": config[key]
                for key in SECTIONS
                if isinstance(config.get(key), dict)
            }
            yield from words_in(inner, depth + 1)


def is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def fits(name: str, value: Any) -> bool:
    """Whether `value` has a type and range possible for the field `name`."""
    if name in VALUES:
        return isinstance(value, str if name == "activation" else bool)
    if name in FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if name in FRACTIONS:
        return 0 <= value < 1
    return value > 0 and (isinstance(value, int) or name in NUMBERS)
