"""Generation speed of an encoder-decoder: ours and a hand-written PyTorch loop with the same caches.

    python -m tests.bench.seq2seq [ROUNDS]

The shape of the paper's model, scaled down: width 256, 3 + 3 blocks, 8 heads, 32 sources of 32 tokens, 48 new tokens
each, greedy. The loop caches the keys and values of the text in arrays of full length, and computes those of the source
once. Rounds alternate, so that a machine that slows down slows both. There is a device for each core, as in `jaxgpt
sample`; both write the same texts, which is checked first.
"""

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, relu, scaled_dot_product_attention

import jaxgpt
from jaxgpt.devices.cpu import make_devices
from jaxgpt.generation.translate import translate
from jaxgpt.model import Seq2Seq, params_of
from tests.bench import rounds

VOCAB, WIDTH, HEADS, BLOCKS, SOURCE, NEW, ROWS = 8000, 256, 8, 3, 32, 48, 32
START, END = 1, 0
COMMON = {
    "vocab_size": VOCAB,
    "model_dim": WIDTH,
    "num_blocks": BLOCKS,
    "num_heads": HEADS,
    "norm": "post",
    "final_norm": False,
    "positions": "sinusoidal",
    "qkv_bias": True,
    "dropout": 0.0,
}


def ours() -> Seq2Seq:
    """The model, with weights so large that texts differ."""
    encoder = jaxgpt.ModelConfig(**COMMON, context_length=SOURCE)  # type: ignore[arg-type]
    decoder = jaxgpt.ModelConfig(**COMMON, context_length=64, cross_attention=True)  # type: ignore[arg-type]
    model = jaxgpt.Seq2Seq(encoder, decoder)
    model.decoder.head.kernel.set_value(model.decoder.head.kernel[...] * 20)
    return model


class Loop:
    """The same model in PyTorch, from the same arrays."""

    def __init__(self, model: Seq2Seq):
        import jax

        tensors: Any = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params_of(model))
        self.sides = {name: self.side(tensors[name]) for name in ("encoder", "decoder")}
        self.tables = {name: tensors[name]["token_embedding"]["embedding"] for name in tensors}
        self.positions = torch.tensor(
            np.asarray(model.decoder.position_table()), dtype=torch.float32
        )
        self.head = tensors["decoder"]["head"]["kernel"].T.contiguous()
        self.head_bias = tensors["decoder"]["head"]["bias"]

    @staticmethod
    def side(tensors: Any) -> list[dict[str, Any]]:
        """The weights of each layer, as torch's own classes have them."""

        def attention(parts: Any, layer: int) -> Any:
            kernel = parts["qkv"]["kernel"][layer].permute(2, 1, 3, 0).reshape(3, WIDTH, WIDTH)
            bias = parts["qkv"]["bias"][layer].transpose(0, 1).reshape(3, WIDTH)
            out = parts["out"]["kernel"][layer].reshape(WIDTH, WIDTH).T.contiguous()
            return kernel.contiguous(), bias.contiguous(), out, parts["out"]["bias"][layer]

        def layer_of(layer: int) -> dict[str, Any]:
            blocks, weights = tensors["blocks"], {}
            for name in ("attn", "cross_attn"):
                if name in blocks:
                    weights[name] = attention(blocks[name], layer)
            for name in ("norm1", "cross_norm", "norm2"):
                if name in blocks:
                    weights[name] = (blocks[name]["scale"][layer], blocks[name]["bias"][layer])
            for name in ("up", "down"):
                part = blocks["mlp"][name]
                weights[name] = (part["kernel"][layer].T.contiguous(), part["bias"][layer])
            return weights

        return [layer_of(layer) for layer in range(BLOCKS)]

    def projected(self, x: Tensor, weights: Any, which: slice) -> Tensor:
        """Queries, keys and values: (parts, B, heads, T, width of a head)."""
        kernel, bias = weights[0][which].reshape(-1, WIDTH), weights[1][which].reshape(-1)
        return (
            linear(x, kernel, bias)
            .unflatten(-1, (-1, HEADS, WIDTH // HEADS))
            .permute(2, 0, 3, 1, 4)
        )

    def joined(self, mixed: Tensor, weights: Any) -> Tensor:
        return linear(mixed.transpose(1, 2).flatten(2), weights[2], weights[3])

    def after_mlp(self, x: Tensor, w: dict[str, Any]) -> Tensor:
        update = linear(relu(linear(x, *w["up"])), *w["down"])
        return layer_norm(x + update, (WIDTH,), *w["norm2"])

    @torch.no_grad()
    def translate(self, source: Tensor) -> Tensor:
        x = self.tables["encoder"][source] + self.positions[: source.shape[1]]
        for w in self.sides["encoder"]:
            q, k, v = self.projected(x, w["attn"], slice(0, 3))
            mixed = self.joined(scaled_dot_product_attention(q, k, v), w["attn"])
            x = self.after_mlp(layer_norm(x + mixed, (WIDTH,), *w["norm1"]), w)
        decoder = self.sides["decoder"]
        across = [self.projected(x, w["cross_attn"], slice(1, 3)) for w in decoder]
        shape = (2, len(source), HEADS, NEW, WIDTH // HEADS)
        caches = [torch.zeros(shape) for _ in decoder]
        newest = torch.full((len(source),), START)
        texts = []
        for position in range(NEW):
            x = (self.tables["decoder"][newest] + self.positions[position])[:, None]
            for w, cache, (keys, values) in zip(decoder, caches, across, strict=True):
                parts = self.projected(x, w["attn"], slice(0, 3))
                cache[:, :, :, position] = parts[1:, :, :, 0]
                k, v = cache[:, :, :, : position + 1]
                mixed = self.joined(scaled_dot_product_attention(parts[0], k, v), w["attn"])
                x = layer_norm(x + mixed, (WIDTH,), *w["norm1"])
                (q,) = self.projected(x, w["cross_attn"], slice(0, 1))
                mixed = self.joined(scaled_dot_product_attention(q, keys, values), w["cross_attn"])
                x = self.after_mlp(layer_norm(x + mixed, (WIDTH,), *w["cross_norm"]), w)
            newest = linear(x[:, 0], self.head, self.head_bias).argmax(-1)
            texts.append(newest)
        return torch.stack(texts, dim=1)


def main() -> None:
    count = rounds(__doc__)
    make_devices()
    model = ours()
    loop = Loop(model)
    source = np.random.default_rng(0).integers(VOCAB, size=(ROWS, SOURCE))
    # No text ends early: END is never chosen.
    allowed = np.arange(VOCAB) != END
    loop.head_bias[END] = -torch.inf

    def we_write() -> list[list[int]]:
        options = {"max_new_tokens": NEW, "allowed": allowed}
        return [*translate(model, source.tolist(), start=START, end=END, **options)]

    def torch_writes() -> list[list[int]]:
        return loop.translate(torch.tensor(source)).tolist()  # type: ignore[no-any-return]

    pairs = [*zip(we_write(), torch_writes(), strict=True)]
    same = sum(a == b for a, b in pairs)
    print(f"{same} of {len(pairs)} texts are the same; {len({i for a, _ in pairs for i in a})} ids")
    seconds = []
    for turn in range(count):
        times = {}
        for racer in (we_write, torch_writes) if turn % 2 else (torch_writes, we_write):
            start = time.perf_counter()
            racer()
            times[racer] = time.perf_counter() - start
        seconds.append((times[we_write], times[torch_writes]))
    ratios = [theirs / own for own, theirs in seconds]
    medians = [1000 * statistics.median(column) for column in zip(*seconds, strict=True)]
    print(f"{ROWS} sources, {NEW} tokens each: {medians[0]:.1f} ms against {medians[1]:.1f} ms")
    print(
        f"  ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
