"""Training speed of an encoder-decoder: ours against the same model with torch.nn.Transformer.

    python -m tests.bench.pairs [ROUNDS]

3 blocks on each side, 256 wide, 32 pairs of 64 and 64 tokens, no dropout, AdamW; a quarter of the sources is padding.
torch runs eagerly and compiled; the faster counts. Rounds alternate, so that a machine that slows down slows all of
them; medians of the ratios are printed. Each framework has a process of its own.
"""

from collections.abc import Callable

import jax
import numpy as np
import torch

from jaxgpt.config import (
    ComputeConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows, shard_array
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import init_state, jitted_step
from tests.bench import rounds
from tests.bench.training import STEPS, Racers, race

ROWS, TIME, VOCABULARY, WIDTH = 32, 64, 104, 256
TOKENS = STEPS * ROWS * 2 * TIME


def batches() -> list[PairBatch]:
    """The batches of a round."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(STEPS):
        source, tokens, targets = rng.integers(0, VOCABULARY, (3, ROWS, TIME)).astype(np.int32)
        mask = np.arange(TIME) < rng.integers(TIME // 2, TIME + 1, (ROWS, 1))
        made.append(PairBatch(source, mask, tokens, targets, np.ones((ROWS, TIME), bool)))
    return made


def ours() -> Racers:
    use_devices(MeshConfig())
    fields = {"num_blocks": 3, "num_heads": 4, "activation": "gelu", "qkv_bias": True}
    fields |= {"vocab_size": VOCABULARY, "context_length": TIME, "model_dim": WIDTH, "dropout": 0.0}
    config = Config(
        DataConfig("-"),
        RunConfig("-"),
        model=ModelConfig(cross_attention=True, **fields),
        encoder=ModelConfig(**fields),
        optim=OptimConfig(warmup_steps=0, schedule="constant", decay="all", clip_norm=0),
        train=TrainConfig(batch_size=ROWS),
        compute=ComputeConfig(scan_unroll=3),
    )
    mesh = make_mesh(config.mesh, ROWS, WIDTH)
    step, where = jitted_step(config, mesh, Compute.of(config, mesh))
    states = [jax.device_put(init_state(config), where)]
    rows = over_rows(mesh, axis=1)
    made = [jax.tree.map(lambda x: shard_array(x[None], rows), batch) for batch in batches()]

    def train() -> None:
        state = states[0]
        for batch in made:
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
        states[0] = jax.block_until_ready(state)

    return {"jaxgpt": train}


class Translator(torch.nn.Module):
    """torch.nn.Transformer between embeddings and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = (torch.nn.Embedding(VOCABULARY, WIDTH) for _ in range(2))
        self.source_at, self.target_at = (torch.nn.Embedding(TIME, WIDTH) for _ in range(2))
        self.body = torch.nn.Transformer(
            WIDTH, 4, 3, 3, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(
        self, source: torch.Tensor, padding: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        causal = torch.nn.Transformer.generate_square_subsequent_mask(TIME)
        hidden = self.body(
            self.source(source) + self.source_at.weight,
            self.target(tokens) + self.target_at.weight,
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.head(hidden)


def theirs() -> Racers:
    torch.manual_seed(0)
    plain, fast = Translator(), Translator()
    return {"torch": in_torch(plain, plain), "torch.compile": in_torch(fast, torch.compile(fast))}


def in_torch(module: torch.nn.Module, called: torch.nn.Module) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    made = [
        (
            torch.from_numpy(batch.source_bs.astype(np.int64)),
            torch.zeros(ROWS, TIME).masked_fill(
                torch.from_numpy(~batch.source_mask_bs), -torch.inf
            ),
            torch.from_numpy(batch.tokens_bt.astype(np.int64)),
            torch.from_numpy(batch.targets_bt.astype(np.int64)).flatten(),
        )
        for batch in batches()
    ]

    def train() -> None:
        for *inputs, targets in made:
            optimizer.zero_grad()
            logits = called(*inputs)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
            optimizer.step()

    return train


def main() -> None:
    pairs = [("jaxgpt", "torch"), ("jaxgpt", "torch.compile")]
    race((ours, theirs), pairs, rounds(__doc__), TOKENS)


if __name__ == "__main__":
    main()
