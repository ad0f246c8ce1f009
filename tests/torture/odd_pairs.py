"""Encoder-decoders of odd sizes."""

from pathlib import Path
from random import Random

import numpy as np

from tests.torture.situations import call, refusal_of, require


def pairs(random: Random, path: Path) -> str:
    """Greedy text of an encoder-decoder with sizes such as 1 follows its logits, also from disk."""
    import jaxgpt
    from jaxgpt.config import ModelConfig
    from jaxgpt.errors import UserError
    from jaxgpt.model import exactly
    from jaxgpt.seq2seq_config import Seq2SeqConfig
    from tests.helpers import CONFIGS, _random

    width, heads = random.choice((1, 2, 4, 6, 7)), random.choice((1, 1, 2))
    common = {
        **CONFIGS[random.choice(list(CONFIGS))],
        "model_dim": width,
        "num_heads": heads,
        "dropout": 0.0,
    }
    common |= {
        "head_dim": random.choice((1, 2, 4)),
        "num_kv_heads": random.choice((0, 1)),
        "rotary_theta": 100.0,
    }
    sides = [
        {
            **common, "vocab_size": random.choice((1, 2, 5)), "context_length": random.choice((1, 2, 3, 6)),
            "num_blocks": random.choice((1, 2)), "window": None,
        }
        for _ in range(2)
    ]  # fmt: skip
    try:
        encoder = ModelConfig(**sides[0])
        config = Seq2SeqConfig(encoder, ModelConfig(**{**sides[1], "cross_attention": True}))
        model = _random(config, "float64")
    except UserError as error:
        return str(error)
    generator = np.random.default_rng(random.randrange(2**32))
    source = generator.integers(
        0, encoder.vocab_size, random.randint(1, encoder.context_length)
    ).tolist()
    decoder = config.decoder
    start, end = 0, decoder.vocab_size - 1
    jaxgpt.save(path / "model", model)
    for each in (model, jaxgpt.load(path / "model")):
        (ours,) = jaxgpt.translate(each, [source], start=start, end=end)
        text = [start]
        with exactly(np.dtype("float64")):
            while len(text) <= decoder.context_length:
                logits = np.asarray(model(np.array([source]), np.array([text])))[0, -1]
                new = ours[len(text) - 1] if len(text) <= len(ours) else end
                tie = 1e-9 * max(1.0, float(np.abs(logits).max()))
                require(np.isfinite(logits).all(), f"logits of {common} are not finite")
                require(
                    logits[new] >= logits.max() - tie,
                    f"greedy text has {new} at {len(text)}: {ours}",
                )
                if new == end:
                    break
                text.append(new)
    written = call(
        "jaxgpt",
        "sample",
        path / "model",
        "--source",
        " ".join(map(str, source)),
        f"--start={start}",
        f"--end={end}",
    )
    if refusal := refusal_of(written, (2,)):
        return refusal
    ended = call("jaxgpt-convert", "to-torch", path / "model", path / "w.safetensors")
    return refusal_of(ended, (2,))
