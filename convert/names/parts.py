"""Names that classes give to the parts of a GPT, and rows with them for the families of dialects.

Each list holds the alternatives for one name in a row; a file uses one of them throughout. A family
reads all of them, and writes the one that it passes as `first`, or under the name of the part.
"""

from ..rows.kinds import (
    EMBEDDING,
    POSITIONS,
    Kind,
    Row,
    linear,
    norm,
    row,
    tied,
)

TOKEN = (
    "token_embedding_table token_embedding token_embeddings token_emb token_embed tok_emb "
    "tok_embed tok_embedding tok_embeddings tok_emb_table token_emb_table word_embedding "
    "word_embeddings word_emdedding embedding embeddings embed emb embed_tokens wte "
    "transformer.wte transformer.tok_emb tok_embeds tokens_embed embedding_layer input_emb "
    "encoder token_embedding_layer embedding.token embeddings.token_embedding "
    "embeddings.token_embeddings token_emb.embedding token_embedding.embedding tok_emb.embedding "
    "embedding.embedding tok token tokens lookup_table model.embed_tokens token_emb.emb "
    "char_embedding input_embedding src_embed tok_embed.embedding vocab_embedding core.embedding "
    "embedder embeddings.tok_embed embeddings.tok_emb embedding.tok_embed embed.tok_emb word_embed "
    "word_emb embeddings.token embeddings.tok"
)
POSITION = (
    "position_embedding_table position_embedding position_embeddings pos_embedding "
    "pos_embeddings pos_emb pos_embed pos_emb_table positional_embedding positional_embeddings "
    "positional_encoding position_encoding wpe transformer.wpe transformer.pos_emb "
    "positions_embed pos_embeds pos_embedding_table positional_embedding_table "
    "embedding.position embeddings.position_embedding embeddings.position_embeddings "
    "position_emb pos_encoding pos_emb.embedding position_embedding.embedding "
    "positional_embedding.embedding pos_embedding.embedding positional_encoding.embedding "
    "position_encoding.embedding pos position positions PE core.PE pos_embed.embedding pos_table "
    "position_table embeddings.pos_embed embeddings.pos_emb embedding.pos_embed embed.pos_emb "
    "embed_positions embeddings.position embeddings.pos"
)
TABLE = (  # a parameter or buffer, not a module with a weight
    "pos_emb pos_embed pos_embedding pos_embeddings position_embedding position_embeddings "
    "positional_embedding positional_encoding position_encoding pos_encoding pos_enc pe "
    "pos_enc.pe pos_encoder.pe pos_encoding.pe pos_emb.pe pos_embed.pe pos_embedding.pe "
    "positional_encoding.pe position_encoding.pe positional_embedding.pe positional_encoder.pe "
    "position_embedding.pe pos_encoder.pos_embedding position_encoding.position_table "
    "position_encoding.encoding positional_encoding.encoding pos_encoding.encoding "
    "transformer.pos_emb positional_encoding.positional_encoding "
    "positional_encoding.pos_embedding position_encoder.pe PE core.PE pos_emb.weights "
    "positional_embedding.weights position_embedding.weights positional_encoding.weights "
    "pos_embedding.weights position_encoding.weights pos pos_encoder pos_table pos_embeddings.pe "
    "pos_encoding.pos_embedding pos_embed.pos_embedding pos_emb.pos_embedding"
)
BLOCKS = (
    "blocks layers transformer_blocks trf_blocks decoder_blocks transformers transformer_layers "
    "decoder_layers block h transformer.h transformer.blocks transformer.layers encoder.layers "
    "decoder.layers decoder.blocks transformer_encoder.layers transformer_decoder.layers decoder "
    "encoder_layers dec_layers attention_blocks blocks.blocks core.layers core.blocks model.layers "
    "model.blocks decoder_stack.layers stack.layers stack.blocks layers.layers trunk body"
)
UNLISTED = "block_ layer_ blocks_ layers_ transformer_block_ block layer blks.block"  # no lists
ATTENTION = (
    "sa attn sa_head sa_heads mha mhsa mhsf attention att self_attn self_attention "
    "multi_head_attention multihead_attention masked_attention masked_self_attention "
    "causal_attention causal_self_attention mmha_gen multi_head_self_attention masked_mha "
    "mh_attention head_attentions multihead_attn attn_layer csa mh_attn attention_layer "
    "multi_head_attn gqa grouped_query_attention mqa attn_block attention_block masked_attn 0 "
    "0.fn attn1 0.sublayer 0.module causal_attn self_mha slf_attn self_att selfattn "
    "attention.mha attn.mha attn.attn attention.attention attn.attention attention.attn"
)
HEADS = (
    "heads. attention_heads. att_heads. attn_heads. head_attentions. heads_list. sa_heads. head_ "
    "heads_ mha. "
)
OUT = (
    "proj projection compute out_proj output_proj out_projection output_projection c_proj linear "
    "fc_out out fc W_o wo w_o Wo o_proj dense output proj_out linear_out out_linear final_linear "
    "to_out proj_layer o combine_heads linear_layer output_linear output_layer WO W_O compress "
    "out_layer o_linear fc_o lin_o merge combine c_out attn_out proj_o to_out.0"
)
MLP = (
    "ffwd ffn ff mlp feed_forward feedforward feed_fwd linear_network vanilla_nn snn ff_gen fc "
    "feed_forward_network ffn_layer ff_layer position_wise_feed_forward feed_forward_layer ffw "
    "ffd feedfoward feedforward_network multi_layer_perceptron multilayer_perceptron swiglu "
    "geglu glu swiglu_ffn mlp_layer feed_forward_block positionwise_feedforward pos_ffn "
    "positionwise_feed_forward position_wise_ffn ffn_block pos_wise_ffn positionwise_ffn 1 1.fn "
    "transformer_block.feed_forward 1.sublayer 1.module"
)
PAIRS = (
    "net.0/net.2 net.0/net.3 layers.0/layers.2 layers.0/layers.3 0/2 0/3 ffn.0/ffn.2 ffn.0/ffn.3 "
    "ff.0/ff.2 ff.0/ff.3 fc.0/fc.2 fc.0/fc.3 mlp.0/mlp.2 mlp.0/mlp.3 model.0/model.2 "
    "sequential.0/sequential.2 layer.0/layer.2 linear.0/linear.2 ffwd.0/ffwd.2 seq.0/seq.2 "
    "network.0/network.2 feed_forward.0/feed_forward.2 c_fc/c_proj fc1/fc2 fc_1/fc_2 "
    "linear1/linear2 linear_1/linear_2 lin1/lin2 lin_1/lin_2 "
    "first_linear_layer/second_linear_layer liner_1/liner_2 up_projection/down_projection "
    "up_proj/down_proj up/down w1/w2 w_1/w_2 fc_in/fc_out dense1/dense2 layer1/layer2 "
    "linear_layer_1/linear_layer_2 linear_up/linear_down dense_h_to_4h/dense_4h_to_h l1/l2 "
    "expand/contract fully_connected.0/fully_connected.2 fc/proj linear_in/linear_out W1/W2 1/4 "
    "1/3 net.1/net.4 net.1/net.3 linear_net.0/linear_net.3 linear_net.0/linear_net.2"
)
UP, DOWN = (
    " ".join(dict.fromkeys(pair.split("/")[end] for pair in PAIRS.split())) for end in (0, 1)
)
NORM1 = (
    "ln1 ln_1 norm1 norm_1 layer_norm_one layer_norm1 layer_norm_1 layernorm1 layernorm_1 "
    "first_norm first_layer_norm attn_norm attention_norm norm_layer_1 layer_norm_mmha ln_attn "
    "norm_attn sa_norm layer_norm_attn norm_one ln_one self_attn_layer_norm attn_ln layerNorm1 "
    "layer_norm.0 norms.0 ln.0 input_layernorm input_norm input_layer_norm rmsnorm1 rmsnorm_1 "
    "rms1 rms_1 rms_norm1 rms_norm_1 norm_attention attn_rms attn_rmsnorm rms_attn rmsnorm_attn "
    "pre_attn_norm pre_attention_norm att_norm attention_layernorm attn_layernorm attn_rms_norm "
    "norms.attn pre_attention_layernorm attn_layer_norm residual_conn1.norm residual1.norm "
    "residual_connection1.norm residual_connections.0.norm residuals.0.norm sublayer.0.norm "
    "res1.norm add_norm1.norm addnorm1.ln residual_1.norm 0.norm norm ln layer_norm layernorm "
    "pre_norm rms_norm rmsnorm pre_norm_1 attn.norm attention.norm self_attn.norm mha.norm"
)
NORM2 = (
    "ln2 ln_2 norm2 norm_2 layer_norm_two layer_norm2 layer_norm_2 layernorm2 layernorm_2 "
    "second_norm second_layer_norm ff_norm ffn_norm norm_layer_2 layer_norm_ff ln_ff ln_ffn "
    "norm_ff norm_ffn ffwd_norm mlp_norm ln_mlp norm_mlp layer_norm_ffn norm_two ln_two "
    "final_layer_norm mlp_ln ffn_ln layerNorm2 layer_norm.1 norms.1 ln.1 "
    "post_attention_layernorm post_attention_norm post_attention_layer_norm post_attn_norm "
    "rmsnorm2 rmsnorm_2 rms2 rms_2 rms_norm2 rms_norm_2 norm_feed_forward ffn_rms ffn_rmsnorm "
    "rms_ffn rms_mlp mlp_rms mlp_rmsnorm pre_ffn_norm pre_mlp_norm pre_ff_norm feed_forward_norm "
    "mlp_layernorm ffn_layernorm mlp_rms_norm ffn_rms_norm norms.mlp norms.ffn "
    "pre_feedforward_layernorm mlp_layer_norm ffn_layer_norm residual_conn2.norm residual2.norm "
    "residual_connection2.norm residual_connections.1.norm residuals.1.norm sublayer.1.norm "
    "res2.norm add_norm2.norm addnorm2.ln residual_2.norm 1.norm 1.0 1.net.0 ff_layer_norm "
    "feed_forward_layer_norm ff_layernorm "
    "pre_norm_2 post_norm ff.norm ffn.norm mlp.norm feed_forward.norm feedforward.norm"
)
FINAL = (
    "ln_f ln ln_final norm final_norm norm_f norm_final layer_norm_three layer_norm layer_norm_f "
    "layer_norm_final final_ln final_layer_norm norm_layer_3 ln_3 ln3 norm3 ln_out norm_out "
    "layernorm layernorm_f output_norm out_norm transformer.ln_f transformer.norm encoder.norm "
    "decoder.norm transformer_encoder.norm transformer_decoder.norm ln_head last_norm lnf "
    "rmsnorm rms_norm final_rmsnorm final_rms_norm rms_final rms_f rms norm_out final_layernorm "
    "model.norm transformer.rmsnorm_f transformer.rms_f transformer.rms_norm ln1 layer_norm1 "
    "core.norm core.ln_f transformer.norm_f to_logits.0 ln_post norm_post post_norm"
)
EMBEDDING_NORM = (
    "embedding_norm embed_norm emb_norm norm_emb norm_embed norm_embedding ln_emb emb_ln ln_embed "
    "embed_ln embedding_ln layernorm_embedding embedding_layernorm embeddings.norm "
    "embeddings.layer_norm embeddings.LayerNorm embedding.norm embedding.layer_norm"
)
HEAD = (
    "lm_head head out_head fc_out output_projection output_proj vocab_projection vocab_proj "
    "final_projection final_linear final_linear.linear linear fc output last_linear_layer "
    "linear_3 out to_logits output_layer projection proj linear_head unembed unembedding decoder "
    "fc_final final_layer final_fc out_proj lm_head.linear linear_out output_head logits_head "
    "language_model_head transformer.lm_head final_proj vocab_head classifier_head token_head "
    "logits to_vocab vocab_out unembed.linear head.linear output.linear core.lm_head to_logits.1"
)
HEAD_BIAS = "head_bias out_bias output_bias bias final_bias logits_bias vocab_bias out_head_bias"
BEWARE = (
    "a class may also scale its embeddings by the root of model_dim, compute attention and MLP "
    "in parallel, or normalise the embeddings: these leave no trace in a file, and this model does "
    "none of them"
)
NORM_WORDS = "(weight|scale|gamma|g|alpha|a_2|w) (bias|shift|beta|b|b_2|offset)"
SQUARES = ("t t", "() t t", "() () t t")
MASKS = "tril mask causal_mask attn_mask bias attention_mask _mask causal tri"


def choice(words: str, first: str) -> str:
    """The choice `(first|others|...)`; a trailing blank in `words` allows the empty word."""
    return f"({'|'.join(dict.fromkeys([first, *words.split(' ')]))})"


def block(first: str) -> str:
    """The prefix of the names in a block; `first` is the word that is written."""
    lists = " ".join(f"{word}." for word in BLOCKS.split())
    return f"{choice(f'{lists} {UNLISTED}', f'{first}.')}{{layer}}"


def embeddings(token: str, position: str) -> tuple[Kind, ...]:
    """The rows of the token embedding and of an optional position table, module or tensor."""
    table = choice(TABLE, "pos_emb")
    return (
        row(EMBEDDING.text, f"{choice(TOKEN, token)}.weight : v d"),
        row(f"{POSITIONS} : t d", f"{choice(POSITION, position)}.weight? : t d"),
        *(row(f"{POSITIONS} : t d", f"{table}? : {dims}") for dims in ("t d", "() t d", "t () d")),
        *norm(
            "embedding_norm", choice(EMBEDDING_NORM, "embedding_norm"), "?", NORM_WORDS, absent="?"
        ),
    )


def mlp(blocks: str, module: str, up: str, down: str) -> tuple[Row, ...]:
    """The rows of the MLP's matrices; they are in `module`, or in the block itself if it is ""."""
    inside = inside_mlp(blocks, module)
    return (
        *linear("blocks/mlp/up : layer d f", f"{inside}{choice(UP, up)} : f d", "?"),
        *linear("blocks/mlp/down : layer f d", f"{inside}{choice(DOWN, down)} : d f", "?"),
    )


def inside_mlp(blocks: str, module: str) -> str:
    """The prefix of names in the MLP's `module`, which may be the block itself, as for ""."""
    first = f"{module}." if module else ""
    return f"{blocks}.{choice(' '.join(f'{word}.' for word in MLP.split()) + ' ', first)}"


def norms(blocks: str, one: str, two: str, final: str) -> tuple[Row, ...]:
    """The rows of the norms of a block, `one` and `two`, and of the norm `final`.

    A block whose branches run in parallel may have one norm, and norms may have no weights. The
    last norm may be the last member of the list of blocks, as in nn.Sequential.
    """
    last = blocks.replace("{layer}", "{after}")
    return (
        *norm("blocks/norm1", f"{blocks}.{choice(NORM1, one)}", "?", NORM_WORDS, absent="?"),
        *norm("blocks/norm2", f"{blocks}.{choice(NORM2, two)}", "?", NORM_WORDS, absent="?"),
        *norm("final_norm", choice(FINAL, final), "?", NORM_WORDS, absent="?"),
        *norm("final_norm", last, "?", NORM_WORDS, absent="?"),
    )


def head(first: str) -> tuple[Kind, ...]:
    """The rows of the head, which may be tied, and its optional bias."""
    name = choice(HEAD, first)
    return (
        tied(f"{name}.weight : v d"),
        row("head/bias : v", f"{name}.bias? : v"),
        row("head/bias : v", f"{choice(HEAD_BIAS, 'lm_head_bias')}? : v"),
    )
