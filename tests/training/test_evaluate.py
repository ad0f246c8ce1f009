"""`jaxgpt eval` of modern models: its loss is that of their formulas in float64."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import abstract_params
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.storage import model_directory
from tests.helpers import TEXT
from tests.model import plain_decoder

torch = pytest.importorskip("torch", reason="torch is not installed")

SIZES = {
    "vocab_size": len(set(TEXT)), "context_length": 16, "model_dim": 12, "num_blocks": 2,
    "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "dropout": 0.0, "norm_kind": "rms",
    "norm_bias": False, "mlp_gated": True, "activation": "silu",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "rotary, window, caps": {
        "positions": "rotary", "rotary_theta": [100.0, 1e4], "rotary_fraction": 2 / 3,
        "window": [5, None], "attention_softcap": 2.0, "logit_softcap": 3.0,
        "qk_norm": "before_rotary", "extra_norms": ["sandwich"], "norm_unit_offset": True,
        "embedding_scale": 2.0, "tied": True,
    },
    "alibi, side by side": {
        "positions": "alibi", "residual": "parallel_one_norm", "window": 7, "logit_scale": 0.5,
    },
}  # fmt: skip


def random_params(config: ModelConfig) -> Tree:
    draw = np.random.default_rng(5)
    leaves = flatten(abstract_params(config)).items()
    return unflatten(
        {path: draw.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves}
    )


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_the_loss_of_a_modern_model_follows_its_formulas(
    fields: dict[str, Any], tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "text").write_text(TEXT[:700])
    dataset = prepare([str(tmp_path / "text")], tmp_path / "data", val=0.3)
    config = ModelConfig(**{**SIZES, **fields})
    params = random_params(config)
    tokenizer = CharTokenizer(sorted(set(TEXT)))
    model_directory.save(tmp_path / "m", config, params, None, tokenizer)
    outcome = command("jaxgpt", "eval", tmp_path / "m", "--data", tmp_path / "data")
    assert outcome.code == 0, outcome
    tensors = {
        path: torch.from_numpy(array.astype(np.float64)) for path, array in flatten(params).items()
    }
    ids = torch.from_numpy(np.asarray(dataset.val, np.int64))
    total = 0.0
    for start in range(0, len(ids) - 1, 16):  # each id but the first is predicted once
        window = ids[start : start + 17]
        logits = plain_decoder.logits(config, tensors, window[None, :-1])[0]
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    printed = re.search(r"loss ([0-9.]+), perplexity", outcome.out)
    assert printed, outcome
    assert float(printed[1]) == pytest.approx(total / (len(ids) - 1), abs=1e-4)
