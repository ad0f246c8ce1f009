"""Classes with kernels of three dimensions, convolutions and late biases, found by running them."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402

VOCAB, LENGTH, WIDTH, HEADS, ELEMENTS = 31, 7, 12, 2, 5


def parameter(*shape: int) -> Any:
    return torch.nn.Parameter(torch.randn(*shape) * 0.4)


class Attention(torch.nn.Module):
    """Its kernels are (d, head, k) and (head, k, d), or (d, k, head) and (k, head, d)."""

    def __init__(self, kernel: str):
        super().__init__()
        sizes = {"d": WIDTH, "h": HEADS, "k": ELEMENTS}
        self.kernel, heads = kernel, kernel.replace("d", "")
        for part in "abc":  # queries, keys and values
            setattr(self, f"w_{part}", parameter(*(sizes[axis] for axis in kernel)))
            setattr(self, f"b_{part}", parameter(*(sizes[axis] for axis in heads)))
        self.back = parameter(*(sizes[axis] for axis in f"{heads}d"))

    def forward(self, x: Any) -> Any:
        heads = self.kernel.replace("d", "")
        q, k, v = (
            torch.einsum(f"btd,{self.kernel}->bt{heads}", x, getattr(self, f"w_{part}"))
            + getattr(self, f"b_{part}")
            for part in "abc"
        )
        if heads == "kh":
            q, k, v = q.mT, k.mT, v.mT
        scores = torch.einsum("bqhk,bshk->bhqs", q, k) * ELEMENTS**-0.5
        future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        mixed = torch.einsum(
            "bhqs,bshk->bqhk", scores.masked_fill(future, -torch.inf).softmax(-1), v
        )
        mixed = mixed.mT if heads == "kh" else mixed
        return torch.einsum(f"bt{heads},{heads}d->btd", mixed, self.back)


class Block(torch.nn.Module):
    def __init__(self, kernel: str):
        super().__init__()
        self.calm, self.look = torch.nn.LayerNorm(WIDTH), Attention(kernel)
        self.still = torch.nn.LayerNorm(WIDTH)
        self.wide, self.narrow = torch.nn.Conv1d(WIDTH, 20, 1), parameter(20, WIDTH)
        self.narrow_b = parameter(WIDTH)

    def forward(self, x: Any) -> Any:
        x = x + self.look(self.calm(x))
        hidden = torch.relu(self.wide(self.still(x).mT)).mT
        return x + hidden @ self.narrow + self.narrow_b  # which is added to the sum


class Strange(torch.nn.Module):
    def __init__(self, kernel: str):
        super().__init__()
        self.one, self.two = torch.nn.Embedding(VOCAB, WIDTH), parameter(LENGTH, WIDTH)
        self.list = torch.nn.ModuleList(Block(kernel) for _ in range(2))
        self.three = torch.nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Any) -> Any:
        x = self.one(ids) + self.two[: ids.shape[1]]
        for block in self.list:
            x = block(x)
        return self.three(x)


@pytest.mark.parametrize("kernel", ["dhk", "hdk", "dkh"])
def test_kernels_of_three_dimensions_are_found_and_proven(kernel: str) -> None:
    torch.manual_seed(0)
    module = Strange(kernel)
    state = module.state_dict()
    loaded = convert.to_flax(state, torch=module)
    assert loaded.proven_by
    assert loaded.config.num_heads == HEADS
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*state]
    assert all(torch.equal(back[name], value) for name, value in state.items())
