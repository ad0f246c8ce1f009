"""AdamW's moments are converted by the same rows as the weights, both ways, and training resumes from them."""

import copy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from convert import to_flax, to_torch
from convert.dialects import DIALECTS
from convert.extras.adamw import Optimizer, read, write
from convert.extras.param_groups import Group, leaves, named, usual_groups
from convert.extras.torch_adamw import NotResumable, TorchAdamW, TorchGroup, TorchMoments, find
from convert.proving.example import Example
from convert.rows.dialect import Dialect
from convert.rows.kinds import Scaled
from convert.rows.resolve import express
from jaxgpt.config import Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params, assemble, cast
from jaxgpt.pytree import flatten
from jaxgpt.storage.model_directory import Moments
from jaxgpt.training.optimizer import make_optimizer, with_moments
from jaxgpt.training.step import init_state, make_step
from tests.helpers import PRIMES, config_of, random_params, require_close, shares_by_heads
from tests.zoo import FACTS, given, needs_zoo, path_of

torch = pytest.importorskip("torch", reason="torch is not installed")
training = pytest.importorskip("convert.proving.training")

# A table that its class multiplies by a factor has other moments, and a matrix that all heads share
# has them in one place: such optimisers are left out.
RESUMABLE = [
    name
    for name, dialect in DIALECTS.items()
    if not any(isinstance(row, Scaled) or shares_by_heads(row) for row in dialect.rows)
]
SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False}
OPTIM = OptimConfig(
    learning_rate=3e-3,
    schedule="constant",
    warmup_steps=0,
    beta1=0.9,
    beta2=0.95,
    clip_norm=0.0,
    weight_decay=0.1,
)


def ends(dialect: Dialect) -> Dialect:
    return express(dialect, config_of(dialect), set(flatten(abstract_params(config_of(dialect)))))


def groups_of(module: Any, kind: str) -> list[dict[str, Any]]:
    """The groups that people make: one for all parameters, or one for those with two axes and one for the rest."""
    parameters = list(module.parameters())
    if kind == "all":
        return [{"params": parameters}]
    matrices = [value for value in parameters if value.dim() >= 2]
    others = [value for value in parameters if value.dim() < 2]
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]


class Torch:
    """A run of the reference class."""

    def __init__(self, module: Any, kind: str):
        self.module = module
        self.adamw = torch.optim.AdamW(groups_of(module, kind), **SETTINGS)

    def steps(self, batches: np.ndarray) -> list[float]:
        losses = []
        for ids in torch.from_numpy(batches):
            self.adamw.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                self.module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
            )
            loss.backward()
            self.adamw.step()
            losses.append(loss.item())
        return losses


@pytest.mark.parametrize("kind", ["all", "matrices"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-5)])
def test_begun_in_torch_carried_on_here_and_ended_in_torch(
    dtype: str, bound: float, kind: str, make_reference: Any, tmp_path: Path
) -> None:
    batches = np.random.default_rng(0).integers(
        0, PRIMES["vocab_size"], (20, 4, PRIMES["context_length"] + 1)
    )
    module = make_reference(PRIMES).to(getattr(torch, dtype))
    uninterrupted = Torch(copy.deepcopy(module), kind).steps(batches)

    run = Torch(module, kind)
    losses = run.steps(batches[:10])
    torch.save(
        {"model": module.state_dict(), "optimizer": run.adamw.state_dict()}, tmp_path / "ckpt.pt"
    )

    loaded = to_flax(tmp_path / "ckpt.pt", dropout=0.0)
    found = loaded.extras.optimizer
    assert found
    assert (found.moments.updates, loaded.extras.settings["decay"]) == (10, kind)
    config = Config(
        DataConfig("-"),
        RunConfig("-"),
        model=loaded.config,
        optim=OptimConfig(**{**vars(OPTIM), "decay": kind}),
        train=TrainConfig(steps=20),
    )
    params, moments, ours = steps_here(config, loaded.params, found.moments, batches[10:15])
    losses += ours

    after = make_reference(PRIMES, seed=1).to(getattr(torch, dtype))
    after.load_state_dict(to_torch(params, loaded.config, "gpt"))
    last = Torch(after, kind)
    last.adamw.load_state_dict(
        write(Optimizer(moments, found.groups), loaded.dialect, loaded.config)
    )
    losses += last.steps(batches[15:])
    np.testing.assert_allclose(losses, uninterrupted, rtol=0, atol=bound)
    assert uninterrupted[-1] < uninterrupted[0] - 0.1


def moments_of(state: optax.OptState, step: int) -> Moments:
    """The Adam moments in `state` after `step` steps."""
    adam = optax.tree.get(state, "ScaleByAdamState")
    return Moments(step, int(adam.count), adam.mu, adam.nu)


def steps_here(
    config: Config, params: Any, moments: Moments, batches: np.ndarray
) -> tuple[Any, Moments, list[float]]:
    """Train in float32 by the training step, in float64 by its optimiser alone."""
    losses = []
    if next(iter(flatten(params).values())).dtype == np.float32:
        state = init_state(config, jax.tree.map(jnp.array, params))
        state = state._replace(optimizer=with_moments(state.optimizer, moments))
        step = jax.jit(make_step(config))
        for ids in batches:
            state, metrics = step(state, jnp.asarray(ids[None], jnp.int32))
            losses.append(float(metrics.loss))
        return jax.tree.map(np.asarray, state.params), moments_of(state.optimizer, 15), losses
    with jax.enable_x64(True):
        adamw, weights = make_optimizer(config), jax.tree.map(jnp.array, params)
        state = with_moments(adamw.init(weights), moments)
        update = jax.jit(adamw.update)
        for ids in batches:
            loss, gradients = training._value_and_grad(
                weights, config.model, Example(jnp.asarray(ids, jnp.int32))
            )
            updates, state = update(gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            losses.append(float(loss))
        return jax.tree.map(np.asarray, weights), moments_of(state, 15), losses


def made_up(dialect: Dialect, kind: str, swapped: bool = False) -> dict[str, Any]:
    """The state_dict of torch's AdamW for the class of `dialect`: parameters have numbers and no names."""
    config = config_of(dialect)
    params = random_params(config, np.dtype("float32"))
    groups = usual_groups(leaves(ends(dialect), config), kind, {})
    moments = Moments(7, 7, params, jax.tree.map(np.square, params))
    dressed = tuple(
        type(g)(g.names, {**SETTINGS, "weight_decay": i * 0.1}) for i, g in enumerate(groups)
    )
    return write(Optimizer(moments, dressed[::-1] if swapped else dressed), ends(dialect), config)


@pytest.mark.parametrize("kind", ["all", "matrices", "kernels"])
@pytest.mark.parametrize("name", RESUMABLE)
def test_there_and_back_bit_for_bit(name: str, kind: str) -> None:
    dialect, config = DIALECTS[name], config_of(DIALECTS[name])
    held = made_up(dialect, kind, swapped=kind == "matrices")
    known = leaves(ends(dialect), config)
    found = read(held, ends(dialect), config, list(known))
    assert {n for group in found.groups for n in group.names} == known.keys()
    require_equal(write(found, ends(dialect), config), held)
    expected = random_params(config, np.dtype("float32"))
    for path, value in flatten(found.moments.mu).items():
        assert np.array_equal(value, flatten(expected)[path]), path


def test_groups_without_decay_of_embeddings_are_sorted_by_name() -> None:
    """minGPT makes such groups: weights of Linear, then all others, each in alphabetical order."""
    dialect, config = ends(DIALECTS["mingpt"]), config_of(DIALECTS["mingpt"])
    params = random_params(config, np.dtype("float32"))
    state = {
        n: v
        for n, v in to_torch(params, config, "mingpt").items()
        if not n.endswith("attn.bias") or v.dim() == 1
    }
    linear = sorted(
        n for n in state if n.endswith("weight") and not any(w in n for w in ("ln_", "wte", "wpe"))
    )
    names = linear + sorted(state.keys() - set(linear))
    entries = [
        {"step": torch.tensor(4.0), "exp_avg": state[n], "exp_avg_sq": state[n] ** 2} for n in names
    ]
    numbers = list(range(len(names)))
    groups = [
        {**SETTINGS, "params": numbers[: len(linear)]},
        {**SETTINGS, "weight_decay": 0.0, "params": numbers[len(linear) :]},
    ]
    found = read(
        {"state": dict(enumerate(entries)), "param_groups": groups}, dialect, config, list(state)
    )
    for path, value in flatten(found.moments.mu).items():
        assert np.array_equal(value, flatten(params)[path]), path


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "system.gpt."])
def test_names_that_torch_kept_are_believed(prefix: str) -> None:
    """torch stores names if it was given named_parameters(), in any order and number of groups."""
    dialect, config = ends(DIALECTS["gpt"]), config_of(DIALECTS["gpt"])
    params = random_params(config, np.dtype("float32"))
    state = to_torch(params, config, "gpt")
    pairs = [(prefix + name, torch.nn.Parameter(value)) for name, value in reversed(state.items())]
    groups = [{"params": pairs[:5]}, {"params": pairs[5:9]}, {"params": pairs[9:]}]
    adamw = torch.optim.AdamW(groups, **SETTINGS)
    for _, value in pairs:
        value.grad = value.detach().clone()
    adamw.step()
    found = read(adamw.state_dict(), dialect, config, list(state))
    ours = to_torch(found.moments.mu, config, "gpt")
    for name, value in pairs:
        assert torch.equal(ours[name.removeprefix(prefix)], adamw.state[value]["exp_avg"]), name


LIKE = {
    "e.weight": "embedding",
    "f.bias": "bias",
    "f.scale": "scale",
    "m.10.weight": "kernel",
    "m.2.weight": "kernel",
}


@pytest.mark.parametrize("order", [["m.2.weight", "m.10.weight"], ["m.10.weight", "m.2.weight"]])
def test_no_order_is_guessed_where_shapes_allow_two(order: list[str]) -> None:
    """Code that excludes embeddings from decay may have sorted the names, or not."""
    known = {name: LIKE[name] for name in ("e.weight", *order, "f.scale", "f.bias")}
    shapes = {name: (5, 5) if name.endswith("weight") else (5,) for name in known}
    parts = [[*order], ["e.weight", "f.scale", "f.bias"]]
    names = [name for part in parts for name in part]
    moments = {
        number: TorchMoments(7, {"exp_avg": torch.ones(shapes[name])})
        for number, name in enumerate(names)
    }
    groups = (TorchGroup((0, 1), SETTINGS), TorchGroup((2, 3, 4), SETTINGS))
    with pytest.raises(NotResumable, match="no shape tells which"):
        named(TorchAdamW(groups, moments), known, shapes)
    recorded = tuple(
        TorchGroup(group.numbers, {**SETTINGS, "param_names": part})
        for group, part in zip(groups, parts, strict=True)
    )
    by_name = named(TorchAdamW(recorded, moments), known, shapes)
    assert [list(group.names) for group in by_name] == parts


@pytest.mark.parametrize("name", RESUMABLE)
def test_embeddings_left_out_without_sorting(name: str) -> None:
    dialect, config = ends(DIALECTS[name]), config_of(DIALECTS[name])
    params, known = random_params(config, np.dtype("float32")), leaves(dialect, config)
    kernels = [n for n in known if known[n] == "kernel"]
    parts = (tuple(kernels), tuple(n for n in known if n not in kernels))
    groups = tuple(
        Group(part, {**SETTINGS, "weight_decay": 0.1 * (part is parts[0])}) for part in parts
    )
    held = write(
        Optimizer(Moments(7, 7, params, jax.tree.map(np.square, params)), groups), dialect, config
    )
    found = read(held, dialect, config, list(known))
    for path, value in flatten(found.moments.mu).items():
        assert np.array_equal(value, flatten(params)[path]), path


def require_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            require_equal(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            require_equal(one, other)
    elif isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_parameters_without_a_gradient_have_no_moments_again() -> None:
    dialect, config = DIALECTS["gpt"], config_of(DIALECTS["gpt"])
    held = made_up(dialect, "all")
    del held["state"][3], held["state"][5]
    found = read(held, ends(dialect), config, list(leaves(ends(dialect), config)))
    assert len(found.untouched) == 2
    require_equal(write(found, ends(dialect), config), held)


def test_an_optimizer_without_steps_is_fresh() -> None:
    held = {**made_up(DIALECTS["gpt"], "all"), "state": {}}
    dialect, config = ends(DIALECTS["gpt"]), config_of(DIALECTS["gpt"])
    found = read(held, dialect, config, list(leaves(dialect, config)))
    assert found.moments.updates == 0
    assert not any(value.any() for value in flatten(found.moments.mu).values())


def test_an_optimizer_that_trains_no_positions_is_left_out() -> None:
    """A table may be a buffer of its class, made in an unusual way; then it is a parameter only here."""
    dialect, config = ends(DIALECTS["gpt"]), config_of(DIALECTS["gpt"])
    names, held = list(leaves(dialect, config)), made_up(DIALECTS["gpt"], "all")
    gone = names.index("pos_embedding.weight")
    held["param_groups"][0]["params"].pop()
    held["state"] = {
        number - (number > gone): state for number, state in held["state"].items() if number != gone
    }
    with pytest.raises(NotResumable, match="does not train pos_embedding.weight, the positions"):
        read(held, dialect, config, names)


def wrong(change: str) -> dict[str, Any]:
    held = made_up(DIALECTS["nanogpt"], "matrices")
    entry, groups = held["state"][2], held["param_groups"]
    match change:
        case "shape":
            entry["exp_avg"] = entry["exp_avg"].T
            entry["exp_avg_sq"] = entry["exp_avg_sq"].T
        case "one shape":
            entry["exp_avg"] = entry["exp_avg"].T
        case "count":
            del held["state"][groups[1]["params"].pop()]
        case "groups":
            groups.append({**groups[0], "params": []})
        case "sgd":
            held["state"][2] = {"momentum_buffer": entry["exp_avg"]}
        case "amsgrad":
            groups[0]["amsgrad"] = True
        case "adam":
            groups[1] |= {"decoupled_weight_decay": False}
        case "steps":
            entry["step"] = torch.tensor(6.0)
        case "nan":
            entry["exp_avg"][0] = float("nan")
        case "layout":
            groups[0]["params"] = "all"
        case "words":
            held["state"] = {str(number): entry for number, entry in held["state"].items()}
        case "no count":
            entry["step"] = torch.tensor(float("nan"))
        case "far too many":
            entry["step"] = torch.tensor(1e12)
        case "eight bits":
            entry["exp_avg"] = entry["exp_avg"].to(torch.float8_e4m3fn)
        case "radam":
            del groups[0]["amsgrad"]
        case "betas":
            groups[0]["betas"] = (0.9, 0.95, 0.99)
        case "tensors":
            groups[0]["lookahead"] = torch.ones(3)
        case "other names":
            groups[0]["param_names"] = ["a"] * len(groups[0]["params"])
        case "no names":
            groups[0]["param_names"] = 5
        case "twice":
            groups[1]["params"][0] = groups[0]["params"][0]
    return held


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            "shape",
            UserError,
            r"moments of parameter 2 are \(35, 105\), where .*c_attn.weight is \(105, 35\)",
        ),
        ("one shape", UserError, "two moments of a parameter have the shapes"),
        (
            "count",
            UserError,
            r"groups have \[15, 2\d\] parameters, and those of the model would have \[15, 2\d\]",
        ),
        ("nan", UserError, "NaN or infinite"),
        ("layout", UserError, "not laid out"),
        ("words", UserError, "keeps moments of '0', '1'.*which none of its groups lists"),
        ("no count", UserError, "step of a parameter is tensor.nan."),
        ("far too many", UserError, "not a count of updates"),
        ("eight bits", UserError, "NaN or infinite, or not tensors"),
        ("other names", UserError, "only one has a, "),
        ("twice", UserError, "list a parameter twice"),
        ("no names", NotResumable, "in its groups param_names"),
        ("groups", NotResumable, "3 groups"),
        ("radam", NotResumable, "no amsgrad"),
        ("betas", NotResumable, "in its groups betas"),
        ("tensors", NotResumable, "in its groups lookahead"),
        ("sgd", NotResumable, "state of a parameter has momentum_buffer"),
        ("amsgrad", NotResumable, "amsgrad"),
        ("adam", NotResumable, "adds the decay to the gradient"),
        ("steps", NotResumable, "different numbers of steps, 6 to 7"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, kind: type[UserError], said: str) -> None:
    dialect, config = ends(DIALECTS["nanogpt"]), config_of(DIALECTS["nanogpt"])
    with pytest.raises(UserError, match=said) as caught:
        read(wrong(change), dialect, config, list(leaves(dialect, config)))
    assert type(caught.value) is kind


ORACLES = [name for name, facts in FACTS.items() if "optimizer_oracle" in facts]


@needs_zoo
@pytest.mark.parametrize("name", ORACLES or ["none"])
def test_recorded_gradients_and_the_recorded_step(name: str) -> None:
    """The original class and torch's AdamW gave these, starting from the state in the file."""
    loaded = to_flax(path_of(name), dtype="float64", **given(FACTS[name]))
    found, folder = loaded.extras.optimizer, path_of(name).parent
    assert found
    assert found.moments.updates == FACTS[name]["optimizer_oracle"]["steps_in_file"]
    with np.load(folder / "grads.npz") as arrays:
        grads = dict(arrays)
    with np.load(folder / "after.npz") as arrays:
        after = dict(arrays)
    optim = OptimConfig(**{**vars(OPTIM), **loaded.extras.settings, "final_learning_rate": 0.0})
    config = Config(
        DataConfig("-"),
        RunConfig("-"),
        model=loaded.config,
        optim=optim,
        train=TrainConfig(steps=10**6),
    )
    with jax.enable_x64(True):
        params = cast(jax.tree.map(jnp.array, loaded.params), "float64")

        def mean_loss(weights: Any) -> jax.Array:
            logits = assemble(config.model, weights).logits(jnp.asarray(grads["__tokens__"]))
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.asarray(grads["__targets__"])
            ).mean()

        loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
        adamw = make_optimizer(config)
        state = with_moments(adamw.init(params), found.moments)
        updates, state = adamw.update(gradients, state, params)
        stepped = optax.apply_updates(params, updates)
    moments = moments_of(state, 0)
    assert moments.updates == after["__step__"]
    assert float(loss) == pytest.approx(float(grads["__loss64__"]), rel=1e-6)
    for kind, tree, theirs in (
        ("", gradients, grads),
        ("", stepped, after),
        ("exp_avg:", moments.mu, after),
        ("exp_avg_sq:", moments.nu, after),
    ):
        ours = to_torch(jax.tree.map(np.asarray, tree), loaded.config, loaded.dialect)
        compared = 0
        for key, value in ours.items():
            if f"{kind}{key}@64" in theirs:
                require_close(value.numpy(), theirs[f"{kind}{key}@64"], 1e-6)
                compared += 1
        assert compared == len(
            [key for key in after if key.startswith("exp_avg:") and not key.endswith("@64")]
        )


def test_only_dicts_laid_out_like_an_optimizer_are_taken_for_one() -> None:
    assert find(
        {"a": {"state": {}, "param_groups": []}, "b": {"state": 1}, "model": {}, "c": 3}
    ) == ["a"]
