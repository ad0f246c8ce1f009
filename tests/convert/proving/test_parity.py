"""Equal models compare as equal, and every mutation as different."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert import api  # noqa: E402
from convert.api import Loaded, to_flax  # noqa: E402
from convert.foreign.forward import logits_of  # noqa: E402
from convert.proving.difference import Difference  # noqa: E402
from convert.proving.exact_model import exact_model  # noqa: E402
from convert.proving.example import tokens_for  # noqa: E402
from convert.proving.parity import compare  # noqa: E402
from convert.proving.training import compare_training, flax_training  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from convert.rows import whole  # noqa: E402
from jaxgpt.model import assemble, params_of  # noqa: E402
from jaxgpt.pytree import flatten  # noqa: E402
from jaxgpt.storage import model_directory  # noqa: E402
from tests.helpers import LYRIC_SIZES, PRIMES  # noqa: E402

OWN = ("--torch", "convert.reference:GPT")

BOTH_SIZES = pytest.mark.parametrize("sizes", [PRIMES, LYRIC_SIZES], ids=["primes", "lyrics"])


def load(module: Any, path: Path, dtype: str | None = None) -> Loaded:
    torch.save(module.state_dict(), path)
    return to_flax(path, dtype=dtype)


def ids(sizes: dict[str, int], extra: int = 0) -> np.ndarray:
    return np.random.default_rng(1).integers(
        0, sizes["vocab_size"], (4, sizes["context_length"] + extra)
    )


@BOTH_SIZES
def test_logits_agree(
    sizes: dict[str, int], make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module, tokens = make_reference(sizes), ids(sizes)
    loaded = load(module, tmp_path / "weights.pt")
    with torch.no_grad():
        single = module(torch.from_numpy(tokens)).numpy()
        double = module.double()(torch.from_numpy(tokens)).numpy()
    assert np.abs(double).max() > 1
    assert np.abs(np.asarray(loaded.model(tokens)) - single).max() < 5e-5
    exact = to_flax(tmp_path / "weights.pt", dtype="float64").model(tokens)
    assert exact.dtype == jnp.float64
    assert np.abs(np.asarray(exact) - double).max() < 1e-10


@pytest.mark.parametrize(("sizes", "rows", "decay"), [(PRIMES, 4, 0.01), (LYRIC_SIZES, 2, 0.1)])
def test_gradients_and_three_steps_agree(
    sizes: dict[str, int],
    rows: int,
    decay: float,
    make_reference: Callable[..., Any],
    tmp_path: Path,
) -> None:
    module = make_reference(sizes)
    loaded = load(module, tmp_path / "weights.pt")
    tokens = ids(sizes, extra=1)[:rows]
    found = compare_training(module, loaded.model, tokens, loaded.dialect, 3, decay).rows
    names = [name for name, _ in module.named_parameters()]
    assert len(found) == 1 + 2 * len(names)
    for item in found:
        assert item.max < 1e-9, item
        assert item.same, item


def test_number_of_steps_and_decay_change_the_result(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    """Steps that change nothing would pass the test above."""
    module = make_reference(PRIMES)
    loaded = load(module, tmp_path / "weights.pt", "float64")
    tokens = ids(PRIMES, extra=1)
    results = [
        flatten(flax_training(exact_model(loaded.model), tokens, steps, decay)[2])["head/kernel"]
        for steps, decay in ((3, 0.01), (2, 0.01), (3, 0.1))
    ]
    start = loaded.params["head"]["kernel"]
    assert all(np.abs(np.asarray(result) - start).max() > 1e-4 for result in results)
    assert np.abs(results[0] - results[1]).max() > 1e-4
    assert np.abs(results[0] - results[2]).max() > 1e-5


def test_assert_same_raises_with_the_size_of_the_difference(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_reference(PRIMES)
    model = load(module, tmp_path / "weights.pt").model
    convert.assert_same(module, model, ids(PRIMES))
    with torch.no_grad():
        module.layer_norm_three.bias[3] += 1e-6
    with pytest.raises(AssertionError, match="logits by up to"):
        convert.assert_same(module, model, ids(PRIMES))


def test_embeddings_of_unused_ids_are_compared_too(
    primes_file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    loaded = to_flax(primes_file)
    unused = min(set(range(103)) - set(tokens_for(loaded.config)[:, :-1].flat))
    loaded.params["token_embedding"]["embedding"][unused, 3] += 1
    model_directory.save(tmp_path / "m", loaded.config, loaded.params)
    outcome = command("jaxgpt-convert", "verify", primes_file, tmp_path / "m")
    assert outcome.code == 3
    assert "DIFFER, first in token_embedding.weight." in outcome.out


def test_one_huge_logit_does_not_excuse_the_others(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_reference(PRIMES)
    with torch.no_grad():
        module.vocab_projection.bias[10] = -1e12
    model = load(module, tmp_path / "weights.pt").model
    convert.assert_same(module, model, ids(PRIMES))
    with torch.no_grad():
        module.vocab_projection.weight[5, 5] += 1e-6
    with pytest.raises(AssertionError, match="differ"):
        convert.assert_same(module, model, ids(PRIMES))


def test_output_of_another_shape_is_an_error_with_that_shape(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_reference(PRIMES)
    model = load(module, tmp_path / "weights.pt").model

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            return self.inner(x)[0]

    with pytest.raises(ValueError, match=r"must return logits .* but returned \(17, 103\)"):
        convert.assert_same(Last(), model, ids(PRIMES))


RETURNS: dict[str, Callable[[Any, Any], Any]] = {
    "a loss beside them": lambda logits, targets: (logits, None),
    "a loss before them": lambda logits, targets: (logits.sum(), logits),
    "an object": lambda logits, targets: SimpleNamespace(logits=logits),
    "a dict": lambda logits, targets: {"loss": None, "logits": logits},
    "one row": lambda logits, targets: logits.flatten(0, 1),
    "the last position, without targets": lambda logits, targets: (
        logits[:, -1:] if targets is None else logits,
        0,
    ),
    "the last one squeezed, or one row": lambda logits, targets: (
        logits[:, -1] if targets is None else logits.flatten(0, 1)
    ),
    "nothing without targets": lambda logits, targets: (None if targets is None else logits, None),
}


@pytest.mark.parametrize("returns", RETURNS)
def test_logits_are_taken_from_tuples_dicts_and_objects(
    returns: str, make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_reference(PRIMES)

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, idx: Any, targets: Any = None) -> Any:
            assert targets is None or targets.shape == idx.shape
            return RETURNS[returns](self.inner(idx), targets)

    class Strict(Other):
        def forward(self, idx: Any, labels: Any) -> Any:  # type: ignore[override]
            return super().forward(idx, labels)

    tokens = torch.from_numpy(ids(PRIMES))
    for cls in (Other, Strict):
        torch.testing.assert_close(logits_of(cls(), tokens), module(tokens), rtol=0, atol=0)
    if returns == "one row":
        convert.assert_same(Other(), load(module, tmp_path / "weights.pt").model, ids(PRIMES))


class Flattening(torch.nn.Module):
    """Flattens targets by `view`, as nanoGPT does: a slice of a batch does not allow that."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, idx: Any, targets: Any) -> Any:
        logits = self.inner(idx.view(*idx.shape))
        loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


def test_targets_are_contiguous_int64_as_in_a_training_loop(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    module, tokens = make_reference(PRIMES), ids(PRIMES, extra=1)
    batch = torch.from_numpy(tokens)
    wrapped = Flattening(module)
    for slice_ in (batch[:, :-1], batch.int()[:, 1:]):
        assert not slice_.is_contiguous()
        torch.testing.assert_close(logits_of(wrapped, slice_), module(slice_), rtol=0, atol=0)
    loaded = load(module, tmp_path / "weights.pt")
    found = compare_training(wrapped, loaded.model, tokens, loaded.dialect, 2).rows
    assert all(item.same for item in found)


def test_a_block_that_is_cut_elsewhere_in_torch_is_not_a_difference(
    make_reference: Callable[..., Any], tmp_path: Path
) -> None:
    """The function is the same, but the borders of its blocks are others."""
    module = make_reference(PRIMES)
    loaded = load(module, tmp_path / "weights.pt")

    class Moved(torch.nn.Module):
        def __init__(self, inner: Any, before: float, after: float) -> None:
            super().__init__()
            self.inner, self.before, self.after = inner, before, after

        def forward(self, x: Any) -> Any:
            return self.inner(x * self.before) * self.after

    blocks = module.transformer_blocks
    blocks[0], blocks[1] = Moved(blocks[0], 1, 0.5), Moved(blocks[1], 2, 1)
    result = compare(module, loaded.model, ids(PRIMES), loaded.dialect)
    assert result.first_difference is None
    assert [stage.name for stage in result.stages] == ["embedding", "block 1", "block 2", "logits"]
    blocks[1].before = 3
    result = compare(module, loaded.model, ids(PRIMES), loaded.dialect)
    assert result.first_difference == "block 0"


def test_nan_is_a_difference() -> None:
    assert not Difference.of("x", np.array([1.0, 2.0]), np.array([1.0, np.nan])).same
    assert not Difference.of("x", np.array([1.0, np.nan]), np.array([1.0, np.nan])).same


def mutate_config(**fields: Any) -> Callable[[Loaded], tuple[Any, Any]]:
    return lambda loaded: (type(loaded.config)(**{**vars(loaded.config), **fields}), loaded.params)


def mutate_layer(layer: int, change: Callable[[Any], Any]) -> Callable[[Loaded], tuple[Any, Any]]:
    """A mutation that applies `change` to the attention parameters of `layer`, a dict of arrays."""

    def mutate(loaded: Loaded) -> tuple[Any, Any]:
        attn = loaded.params["blocks"]["attn"]
        new = change({name: attn[name]["kernel"][layer].copy() for name in attn})
        for name, value in new.items():
            attn[name]["kernel"][layer] = value
        return loaded.config, loaded.params

    return mutate


def transpose_out(attn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = attn["out"]
    return {"out": out.reshape(out.shape[-1], -1).T.reshape(out.shape)}


def swap_query_and_key(attn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"qkv": attn["qkv"][:, :, [1, 0, 2]]}


def reorder_heads(attn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"qkv": np.roll(attn["qkv"], 1, axis=1)}


MUTATIONS = {
    "epsilon": (mutate_config(norm_eps=1e-6), "block 0"),
    "gelu for relu": (mutate_config(activation="gelu_tanh"), "block 0"),
    "no final norm": (mutate_config(final_norm="unused"), "logits"),
    "scale": (mutate_config(attention_scale="model_dim"), "block 0"),
    "post-norm": (mutate_config(norm="post"), "block 0"),
    "transposed attention output": (mutate_layer(1, transpose_out), "block 1"),
    "query and key swapped": (mutate_layer(2, swap_query_and_key), "block 2"),
    "heads in another order": (mutate_layer(1, reorder_heads), "block 1"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_caught_and_its_block_named(
    name: str, make_reference: Callable[..., Any], primes_file: Path
) -> None:
    loaded = to_flax(primes_file)
    mutated = assemble(*MUTATIONS[name][0](loaded))
    result = compare(make_reference(PRIMES), mutated, ids(PRIMES), loaded.dialect)
    assert result.first_difference == MUTATIONS[name][1]


@pytest.fixture
def mutant(primes_file: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function: name of a mutation -> the model directory of primes_file after it."""

    def save(name: str) -> Path:
        config, params = MUTATIONS[name][0](to_flax(primes_file))
        model_directory.save(tmp_path / name, config, params)
        return tmp_path / name

    return save


@pytest.mark.usefixtures("without_advice")
def test_a_difference_is_the_first_line_and_exit_code_3(
    primes_file: Path, mutant: Callable[[str], Path], command: Callable[..., Any]
) -> None:
    outcome = command("jaxgpt-convert", "verify", primes_file, mutant("query and key swapped"))
    assert outcome.code == 3
    assert outcome.out.startswith(
        "The two DIFFER, first in block 2.\nAll that comes before block 2 agrees: "
    )
    asked = ("jaxgpt-convert", "verify", primes_file, mutant("no final norm"), "--json")
    report = json.loads(command(*asked).out)
    assert (report["verdict"], report["first_difference"]) == ("differs", "logits")
    assert not report["same"]


def test_verify_says_same_of_the_same(
    primes_file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    to_flax(primes_file).save(tmp_path / "m")
    asked = ["jaxgpt-convert", "verify", primes_file, tmp_path / "m", *OWN]
    outcome = command(*asked)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("PROVEN: the two compute the same function.\n")
    report = json.loads(command(*asked, "--train-steps", "2", "--json").out)
    assert report["same"]
    assert report["verdict"] == "proven"
    assert report["top1"] == 1
    assert [stage["name"] for stage in report["stages"]] == [
        "embedding",
        "block 0",
        "block 1",
        "block 2",
        "logits",
    ]
    assert len(report["training"]) == 1 + 2 * 81


def test_models_of_other_sizes_differ_by_name(
    make_reference: Callable[..., Any],
    primes_file: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    load(make_reference({**PRIMES, "context_length": 19}), tmp_path / "other.pt").save(
        tmp_path / "m"
    )
    outcome = command("jaxgpt-convert", "verify", primes_file, tmp_path / "m")
    assert outcome.code == 3
    assert "context_length is 17 in the file and 19 in the directory" in outcome.out


def test_gradients_move_by_the_rows_that_move_parameters(primes_file: Path) -> None:
    """The torch names and shapes of a tree of gradients are those of the parameters."""
    loaded = to_flax(primes_file)
    moved = whole.to_torch(
        loaded.dialect, loaded.config, jax.tree.map(np.asarray, params_of(loaded.model))
    )
    assert {name: value.shape for name, value in moved.items()} == {
        name: tensor.shape for name, tensor in loaded.source.tensors.items()
    }
    assert assemble(loaded.config, params_of(loaded.model)).config == loaded.config


def test_a_file_of_another_class_is_compared_with_the_same_model(
    primes_file: Path, tmp_path: Path
) -> None:
    to_flax(primes_file).save(tmp_path / "model")
    api.directory_to_file(tmp_path / "model", tmp_path / "other.pt", "separate")
    page = verify(tmp_path / "other.pt", tmp_path / "model")
    assert page.same
    assert page.verdict == "unproven"
    assert not page.stages
    assert page.kl is None  # nothing was run
    assert page.hint == "--torch module:Class would run your own beside the model."


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_json_has_no_nan_whatever_the_result(
    primes_file: Path,
    make_reference: Callable[..., Any],
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    to_flax(primes_file).save(tmp_path / "m")
    api.directory_to_file(tmp_path / "m", tmp_path / "other.pt", "separate")
    broken = make_reference(PRIMES).state_dict()
    broken["vocab_projection.bias"][3] = float("nan")
    torch.save(broken, tmp_path / "nan.pt")
    load(make_reference({**PRIMES, "context_length": 19}), tmp_path / "longer.pt")
    for name, code in (("other.pt", 4), ("nan.pt", 3), ("longer.pt", 3)):
        outcome = command("jaxgpt-convert", "verify", tmp_path / name, tmp_path / "m", "--json")
        assert outcome.code == code
        found = json.loads(outcome.out, parse_constant=no_constants)
        assert found["kl"] is None
