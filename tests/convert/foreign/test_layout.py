"""How a class is called is found by what its logits depend on, or it is refused with the reason."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from convert.detect.errors import UnknownTensors  # noqa: E402
from convert.foreign.layout import Reordered, batch_first  # noqa: E402
from convert.foreign.with_context import Caller  # noqa: E402
from convert.rows.tensors import Shape  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 6, 8, 9], [2, 4, 6, 8, 1]])
SOURCE = torch.tensor([[3, 1, 4], [2, 7, 1], [8, 2, 8]])
WIDTH = 8


class Mixer(nn.Module):
    """The logits of a text are means of what precedes, and of its source."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, WIDTH)
        self.head = nn.Linear(WIDTH, 11)

    def mean(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    def forward(self, src, tgt):
        source = self.embedding(src).mean(1, keepdim=True)
        return self.head(self.mean(self.embedding(tgt)) + source)


class Alone(Mixer):
    def forward(self, ids):
        return self.head(self.mean(self.embedding(ids)))


class Random(Mixer):
    def mean(self, x):
        return functional.dropout(super().mean(x), 0.5)


class AcrossTheBatch(Mixer):
    def mean(self, x):
        return x.cumsum(0)


class SeesTheFuture(Mixer):
    def mean(self, x):
        return x.mean(1, keepdim=True).expand_as(x) + x


class IgnoresItsSource(Mixer):
    def forward(self, src, tgt):
        return super().forward(src[:, :1], tgt)


REFUSED = {
    Random: "other logits each time.*F.dropout without training=self.training",
    AcrossTheBatch: "from other texts of its batch.*batch_first=True",
    SeesTheFuture: "from the tokens after them too.*no causal mask",
    IgnoresItsSource: "do not depend on the last token of the source",
}


@pytest.mark.parametrize(("cls", "said"), REFUSED.items())
def test_a_class_that_is_no_model_of_texts_is_refused_with_the_reason(cls: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"The forward of {cls.__name__} .*{said}"):
        Caller(cls().eval())(IDS, SOURCE)


def test_a_module_with_the_batch_first_is_left_alone() -> None:
    module = Alone()
    assert batch_first(module, IDS) is module
    assert module.training


@pytest.mark.parametrize(("ids", "logits"), [(True, True), (True, False), (False, True)])
def test_the_axes_are_found_by_running(ids: bool, logits: bool) -> None:
    class Turned(Alone):
        def forward(self, x):
            y = super().forward(x.T if ids else x)
            return y.transpose(0, 1) if logits else y

    found = batch_first(Turned().eval(), IDS)
    assert isinstance(found, Reordered)
    assert found.layout == (ids, logits)
    assert torch.equal(Caller(Turned().eval())(IDS), Alone().eval()(IDS))


def test_a_module_that_only_takes_long_texts_is_left_alone() -> None:
    class Long(Alone):
        def forward(self, x):
            if x.shape != IDS.shape:
                raise ValueError("too short")
            return super().forward(x)

    module = Long()
    assert batch_first(module, IDS) is module


def block(norms: int, attentions: int) -> dict[str, Shape]:
    square = [f"{part}{i}" for i in range(attentions) for part in ("q", "k", "v", "o")]
    shapes: dict[str, Shape] = {f"mix{name[1:]}.{name[0]}.weight": (8, 8) for name in square}
    shapes |= {"mlp.up.weight": (20, 8), "mlp.down.weight": (8, 20)}
    return shapes | {f"ln{i}.{leaf}": (8,) for i in range(norms) for leaf in ("weight", "bias")}


@pytest.mark.parametrize(("norms", "said"), [(1, "serves several parts"), (4, "norms the memory")])
def test_another_number_of_norms_than_of_parts_is_refused_with_both_numbers(
    norms: int, said: str
) -> None:
    from convert import to_flax

    state = {f"{side}_emb.weight": torch.ones(11, 8) for side in ("src", "tgt")}
    for side, attentions, count in (("encoder", 1, min(norms, 2)), ("decoder", 2, norms)):
        for name, shape in block(count, attentions).items():
            state |= {f"{side}.layers.{i}.{name}": torch.ones(shape) for i in range(2)}
    state["out.weight"] = torch.ones(11, 8)
    with pytest.raises(UnknownTensors, match=f"{norms} norms? .*instead of three.*{said}"):
        to_flax(state)
