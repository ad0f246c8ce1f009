"""The same training steps in PyTorch: compiled, with its fused attention and AdamW, in bfloat16.

The model is the reference with the sizes of GPT-2 124M and a tied head; its biases and its ReLU
change no product. The ratio is of tokens/s, both at their best setting for this batch.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import Config
from jaxgpt.devices.chips import chip
from jaxgpt.model import flops
from jaxgpt.optional import installed
from tests.accelerator import Row
from tests.accelerator.runner import read
from tests.accelerator.settings import LATE, Settings, gpt2, random_ids, seconds_each

FIGURES = ("ms a step", "tokens/s", "MFU", "jaxgpt / torch")
OF_TORCH = {"cpu": "cpu", "gpu": "cuda"}  # by jax's names of platforms


def measure(settings: Settings) -> Iterator[Row]:
    jax.config.update("jax_platforms", "cpu")  # the device is for torch
    note = obstacle(settings.platform)
    for rows, in_time in settings.timely(settings.sizes.rows):
        if note or not in_time:
            yield {"rows": rows} | dict.fromkeys(FIGURES) | {"note": note or LATE}
            continue
        yield {"rows": rows} | figures(settings, gpt2(settings, rows))


def obstacle(platform: str) -> str:
    """The reason why torch cannot use the device, or an empty string."""
    if not installed("torch"):
        return "torch is not installed"
    import torch

    if platform not in OF_TORCH:
        return f"torch does not see a {platform}"
    if platform == "gpu" and not torch.cuda.is_available():
        return f"torch {torch.__version__} does not see the GPU"
    return ""


def figures(settings: Settings, config: Config) -> Row:
    """The figures of a step of `config` in torch."""
    import torch

    device = OF_TORCH[settings.platform]
    try:
        seconds = seconds_each(
            make_step(config, device, settings.sizes.backend),
            settings.sizes.timed,
            lambda _: torch.cuda.synchronize() if device == "cuda" else None,
        )
    except torch.cuda.OutOfMemoryError:
        return dict.fromkeys(FIGURES) | {"note": "the device has too little memory"}
    speed = config.train.batch_size * config.model.context_length / seconds
    data_sheet = chip(torch.cuda.get_device_name()) if device == "cuda" else None
    ours = best(settings.out, config.train.batch_size)
    row: Row = {
        "ms a step": 1000 * seconds,
        "tokens/s": speed,
        "MFU": flops.per_token(config.model) * speed / data_sheet.peak if data_sheet else None,
        "jaxgpt / torch": ours / speed if ours else None,
    }
    return row if data_sheet else row | {"note": "there is no data sheet of the device"}


def make_step(config: Config, device: str, backend: str) -> Callable[[], Any]:
    """A training step of the model of `config`, all on one batch."""
    import torch

    from convert.reference import GPT
    from tests.bench.training import FusedAttention

    sizes = config.model
    module = GPT(
        sizes.vocab_size,
        sizes.context_length,
        sizes.model_dim,
        sizes.num_blocks,
        sizes.num_heads,
        dropout=0.0,
    )
    for block in module.transformer_blocks:
        block.mhsa = FusedAttention(sizes.model_dim, sizes.num_heads)
        block.mhsa.dropout.p = 0.0
    module.vocab_projection.weight = module.token_embedding.weight
    module = torch.compile(module.to(device), backend=backend)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    ids = torch.from_numpy(random_ids(config)[0]).long().to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            logits = module(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.optim.clip_norm)
        optimizer.step()

    return step


def best(out: Path, rows: int) -> float:
    """The most tokens/s that the section on throughput has for a batch of `rows`, or 0."""
    speeds = [line["tokens/s"] or 0 for line in read(out, "throughput") if line["rows"] == rows]
    return max(speeds, default=0)
