"""Tensor names of unsupported architectures, to tell the user why a file is refused."""

import re
from collections.abc import Mapping

SIGNS = {
    r"kv_[ab]_proj|wkv_[ab]\b|q_a_proj|kv_down_proj": "a decoder with latent attention, "
    "as DeepSeek's",
    r"(^|\.)(experts?|block_sparse_moe|moe|router|shared_experts?)(\.|_)|\.fc1\.\d+\.weight": "a "
    "decoder with experts (a mixture of experts)",
    r"(^|\.)(A_log|A_logs|dt_bias|ssm\w*|mamba\w*|time_(mix|decay|first)\w*)(\.|$)|(dt|x)_proj\.|"
    r"linear_attn|in_proj_(qkvz|ba)|delta_?net": "a decoder with state spaces or linear attention",
    r"qk_bank|vo_bank|mlp_bank|mudd_|skip_weights|(^|\.)(v_?)?lamb(da)?s?$": "modded-nanogpt "
    "since November 2024, with weighted residuals and other parts that change every few weeks",
    r"resid_lambdas|x0_lambdas|value_embeds|smear_|backout_": "nanochat since 2026, with value "
    "embeddings and weighted residuals",
    r"value_embed|v0_lambdas|ve_gate|(^|\.)v?_?embs?\.v": "a decoder with value embeddings",
    r"(rnn|lstm|gru)\b|weight_[ih]h_l\d|xh_to_h": "a recurrent network",
    r"(^|\.)conv\w*\.\d*\.?weight": "a convolution",
    r"relative_attention_bias|rel_pos|r_w_bias": "relative positions",
    r"lora_|loraA|loraB": "a LoRA adapter, not a model; merge it into the model first",
    r"qweight|qzeros|weight_scale|SCB\b|absmax|quant_map|weight_packed|\.g_idx|_packed_params|"
    r"weight_quantizer|zero_point": "quantised weights",
    r"project_(in|out)\.weight": "embeddings of another width than the model's (project_in, "
    "project_out)",
    r"(^|\.)score\.weight|classifier\.|multiple_choice_head": "a classifier's head instead of a "
    "language model's",
    r"(^|\.)bias_[kv]$": "attention with bias_k and bias_v",
    r"token_type_embed|segment_embed|pooler\.dense|cls_token|\.mlm": "an encoder of "
    "the BERT family",
    r"patch_embed|vision_|visual\.|image_": "a model that looks at images",
}

QUERIES = r"(w_?|to_?|fc_?|linear_?)?q(uer(y|ies))?(_?(proj|linear|layer))?$"

# What a class of Hugging Face is -> the model_type of each such class.
KINDS = {
    "a Llama-like decoder with experts": "mixtral qwen2_moe qwen3_moe gpt_oss olmoe phimoe "
    "deepseek_v2 deepseek_v3 dbrx jetmoe granitemoe granitemoeshared ernie4_5_moe glm4_moe dots1 "
    "hunyuan_v1_moe flex_olmo llama4_text afmoe bailing_hybrid cohere2_moe exaone_moe minimax_m2",
    "a Llama-like decoder that multiplies what each part adds (residual_multiplier)": "granite",
    "a decoder with state spaces or linear attention": "mamba mamba2 falcon_mamba falcon_h1 jamba "
    "bamba zamba zamba2 rwkv xlstm recurrent_gemma qwen3_next qwen3_5 nemotron_h minimax "
    "granitemoehybrid kimi_linear olmo_hybrid lfm2 lfm2_moe",
    "an encoder of the BERT family": "bert roberta distilbert albert electra deberta deberta-v2 "
    "camembert xlm-roberta modernbert mpnet eurobert",
    "an encoder-decoder with relative positions": "t5 mt5 umt5 longt5 switch_transformers t5gemma",
    "a model that sees images or hears": "gemma3 gemma3n gemma4 llava mllama llama4 qwen2_vl "
    "qwen2_5_vl qwen3_vl paligemma idefics2 idefics3 smolvlm internvl mistral3 whisper",
}


def reasons(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A sentence for each architecture that `shapes` shows, with the first name that shows it.

    A convolution of width 1 is a linear layer.
    """
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 2 and {*shape[2:]} == {1}:
            continue
        for sign, meaning in SIGNS.items():
            if meaning not in found and re.search(sign, name):
                found[meaning] = name
    return [f"{name} belongs to {meaning}" for meaning, name in found.items()]
