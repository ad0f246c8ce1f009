"""Runs of an encoder-decoder: its steps are torch's, it resumes bit for bit, and its shapes are few."""

import dataclasses
import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgpt
from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.data.pairs import open_pairs
from jaxgpt.data.prepare_pairs import prepare_pairs
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.errors import UserError
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.pytree import flatten
from jaxgpt.storage import model_directory
from jaxgpt.training.batches import batches
from jaxgpt.training.compute import Compute
from jaxgpt.training.evaluators import make_evaluator
from jaxgpt.training.losses import cross_entropy, pair_logits
from jaxgpt.training.optimizer import make_optimizer, make_schedule
from jaxgpt.training.run import train
from jaxgpt.training.step import init_state, jitted_step, make_step, weights_to_evaluate
from tests.helpers import ROOT, settings
from tests.model.test_seq2seq import config_of, inputs, make

TINY = {
    "model": {
        "vocab_size": 0,
        "context_length": 12,
        "model_dim": 16,
        "num_blocks": 1,
        "num_heads": 2,
    },
    "encoder": {"context_length": 40},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "dates"
    prepare_pairs(["dates:120"], path)
    return path


def run_of(data: Path, run: Path, **sections: Any) -> Path:
    return train(settings(data, run, **{**TINY, **sections}), "here", lambda line: None).directory


def tiny(data: Path, **optim: Any) -> Config:
    """The config of a small run, as it is once the data are known."""
    model = ModelConfig(51, 12, 16, 1, 2, cross_attention=True, dropout=0.0)
    encoder = dataclasses.replace(model, vocab_size=49, context_length=40, cross_attention=False)
    return Config(
        DataConfig(str(data)),
        RunConfig("x"),
        model=model,
        encoder=encoder,
        optim=OptimConfig(**optim),
        train=TrainConfig(batch_size=16),
    )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize(("norm", "activation"), [("pre", "gelu"), ("post", "relu")])
def test_three_steps_are_those_of_torch(norm: str, activation: str) -> None:
    """With padding on both sides, label smoothing, and AdamW; in float64."""
    torch = pytest.importorskip("torch")
    theirs, translate = make(norm, activation)
    source, tokens, mask = inputs()
    targets = np.roll(tokens, 1, axis=0)
    counted = np.arange(8) < np.array([[8], [3], [5]])
    both = config_of(norm, activation)
    optim = OptimConfig(
        learning_rate=0.01, schedule="constant", warmup_steps=0, eps=1e-3, beta2=0.95,
        weight_decay=0.1, decay="all", clip_norm=0.0,
    )  # fmt: skip
    config = Config(
        DataConfig("x"), RunConfig("x"), model=both.decoder, encoder=both.encoder, optim=optim
    )
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1
    )
    ignored = torch.tensor(np.where(counted, targets, -100)).flatten()
    batch = PairBatch(source, mask, tokens, targets, counted)
    ours = make_optimizer(config)

    @jax.jit
    def step(params: Any, moments: Any) -> tuple[Any, Any, jax.Array]:
        def mean(params: Any) -> jax.Array:
            losses = cross_entropy(pair_logits(both, params, batch), jnp.asarray(targets), 0.1)
            return jnp.mean(losses, where=counted)

        loss, gradients = jax.value_and_grad(mean)(params)
        updates, moments = ours.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    with exactly(jnp.dtype("float64")):
        params = translate({k: v.detach().numpy().copy() for k, v in theirs.named_parameters()})
        params = jax.tree.map(jnp.asarray, params)
        moments = ours.init(params)
        for _ in range(3):
            optimizer.zero_grad()
            logits = theirs(torch.tensor(source), torch.tensor(tokens), torch.tensor(~mask))
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ignored, label_smoothing=0.1
            )
            loss.backward()
            optimizer.step()
            params, moments, found = step(params, moments)
            assert float(found) == pytest.approx(float(loss.detach()), rel=1e-12)
    wanted = translate({k: v.detach().numpy() for k, v in theirs.named_parameters()})
    for mine, torchs in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, torchs, rtol=0, atol=1e-9)


def test_a_step_follows_from_the_losses_of_the_targets(data: Path) -> None:
    """The step of a run has the mean loss over the target tokens of a batch, and its gradient."""
    config = tiny(data, label_smoothing=0.1)
    mesh = make_mesh(config.mesh, 16, 16, jax.devices()[:1])
    batch, state = batches(open_pairs(data), config, mesh)(0), init_state(config)
    part = jax.tree.map(lambda x: x[0], batch)

    def mean(params: Any) -> jax.Array:
        losses = cross_entropy(pair_logits(config.architecture, params, part), part.targets_bt, 0.1)
        return jnp.mean(losses, where=part.target_mask_bt)

    loss, gradients = jax.value_and_grad(mean)(state.params)
    _, metrics = jax.jit(make_step(config))(state, batch)
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-6)
    assert float(metrics.gradient_norm) == pytest.approx(
        float(optax.tree.norm(gradients)), rel=1e-5
    )


def test_accumulated_parts_of_a_batch_equal_the_whole(data: Path) -> None:
    config = tiny(data)
    dataset = open_pairs(data)
    mesh = make_mesh(config.mesh, 16, 16, jax.devices()[:1])
    whole = batches(dataset, config, mesh)(0)
    quarters = jax.tree.map(lambda x: x.reshape(4, 4, -1), whole)
    state = init_state(config)
    step = jax.jit(make_step(config))
    one, four = (step(state, batch)[1] for batch in (whole, quarters))
    assert float(one.loss) == pytest.approx(float(four.loss), rel=1e-6)
    assert float(one.gradient_norm) == pytest.approx(float(four.gradient_norm), rel=1e-5)


def test_after_one_epoch_nothing_is_compiled(data: Path) -> None:
    config = tiny(data)
    mesh = make_mesh(config.mesh, 16, 16, jax.devices()[:1])
    step, where = jitted_step(config, mesh, Compute.of(config, mesh))
    batch = batches(open_pairs(data), config, mesh)
    state = jax.device_put(init_state(config), where)
    epoch, sizes = sum(batch.buckets.full_batches()), []
    for i in range(3 * epoch):
        state, _ = step(state, batch(i))
        sizes.append(step._cache_size())
    assert sizes[epoch - 1] == sizes[-1] == len(batch.buckets.shapes)


def test_a_resumed_run_is_the_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    whole = run_of(data, tmp_path / "whole", train={"steps": 8, "sample_tokens": 0})
    parts = run_of(data, tmp_path / "parts", train={"steps": 8, "sample_tokens": 0})
    newest = max((parts / "checkpoints").iterdir(), key=lambda path: path.name)
    shutil.rmtree(newest)
    run_of(data, parts, train={"steps": 8, "sample_tokens": 0})
    one, other = (flatten(params_of(jaxgpt.load(run))) for run in (whole, parts))
    for path, leaf in one.items():
        assert np.asarray(leaf).tobytes() == np.asarray(other[path]).tobytes(), path
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, parts)]
    losses = [[json.loads(line)["loss"] for line in run] for run in lines]
    assert losses[0] == losses[1]


def test_exact_matches_are_what_greedy_decoding_writes(data: Path, tmp_path: Path) -> None:
    run = run_of(data, tmp_path / "run", train={"steps": 4})
    dataset, model = open_pairs(data), jaxgpt.load(run)
    model.decoder.head.bias.set_value(model.decoder.head.bias[...].at[dataset.end].set(50.0))
    config = dataclasses.replace(
        tiny(data), model=model.config.decoder, encoder=model.config.encoder
    )
    mesh = make_mesh(config.mesh, 4, 16, jax.devices()[:1])
    evaluator = make_evaluator(config.architecture, Compute.of(config, mesh), mesh, 4)
    figures = evaluator.figures(params_of(model), dataset.val)
    # It ends every target at once, so that only empty ones would be right.
    assert figures["val_exact_match"] == 0
    loss, tokens = 0.0, 0
    for source, target in (dataset.val[i] for i in range(len(dataset.val))):
        inputs = np.array([[dataset.start, *target]])
        logits = model(source[None], inputs)
        goal = np.array([[*target, dataset.end]])
        loss += float(cross_entropy(logits, goal).sum())
        tokens += goal.size
    assert figures["val_loss"] == pytest.approx(loss / tokens, rel=1e-5)


def test_smoothing_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    targets = np.array([0, 3, 6, 2, 2])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(targets), label_smoothing=0.2, reduction="none"
    )
    np.testing.assert_allclose(
        cross_entropy(jnp.asarray(logits), targets, 0.2), expected, rtol=1e-5
    )


def test_the_schedule_is_that_of_the_paper() -> None:
    """model_dim^-0.5 * min(step^-0.5, step * warmup^-1.5), given its peak."""
    width, warmup = 512, 400
    optim = OptimConfig(
        learning_rate=(width * warmup) ** -0.5, schedule="inverse_sqrt", warmup_steps=warmup - 1
    )
    config = Config(DataConfig("x"), RunConfig("x"), optim=optim, train=TrainConfig(steps=4000))
    schedule = make_schedule(config)
    for step in (1, 7, warmup - 1, warmup, warmup + 1, 1000, 3999):
        paper = width**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert float(schedule(step - 1)) == pytest.approx(paper, rel=2e-3), step


def test_bleu_is_that_of_what_is_written(
    data: Path, tmp_path: Path, command: Callable[..., Any], needs: Callable[[str], None]
) -> None:
    needs("sacrebleu")
    import sacrebleu

    run = run_of(data, tmp_path / "run", train={"steps": 4})
    line = command("jaxgpt", "eval", run, "--bleu").out
    dataset, model = open_pairs(data), jaxgpt.load(run)
    tokenizer = jaxgpt.load_tokenizer(run)
    pairs = [dataset.val[i] for i in range(len(dataset.val))]
    allowed = tokenizer.decodable(51) | (np.arange(51) == dataset.end)
    texts = jaxgpt.translate(
        model,
        [source for source, _ in pairs],
        start=dataset.start,
        end=dataset.end,
        allowed=allowed,
    )
    targets = [tokenizer.decode(target) for _, target in pairs]
    score = sacrebleu.corpus_bleu([tokenizer.decode(ids) for ids in texts], [targets]).score
    assert f"BLEU {score:.2f}" in line
    assert command("jaxgpt", "eval", data, "--bleu").code == 2


def test_data_with_other_ids_are_not_evaluated(
    data: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = run_of(data, tmp_path / "run", train={"steps": 4})
    lines = (f"{chr(0x4E00 + i)}\t{chr(0x4E00 + i)}\n" for i in range(60))
    (tmp_path / "other.tsv").write_text("".join(lines))
    prepare_pairs([str(tmp_path / "other.tsv")], tmp_path / "other")
    model = jaxgpt.load(run)
    model_directory.save(tmp_path / "bare", model.config, params_of(model))  # without a tokenizer
    outcome = command("jaxgpt", "eval", tmp_path / "bare", "--data", tmp_path / "other")
    assert outcome.code == 2, outcome
    assert "has a vocabulary of" in outcome.err


@pytest.mark.parametrize("name", ["dates", "translation"])
def test_a_shipped_config_trains_at_tiny_size(
    name: str, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / f"{name}.toml"
    heads = tomllib.loads(path.read_text())["model"]["num_heads"]
    tiny = {
        "data.path": "dates:60", "model.vocab_size": 0, "compute.dtype": "float32", "run.dir": tmp_path / "run",
        "model.context_length": 12,
        "encoder.context_length": 40, "model.model_dim": 8 * heads, "model.num_blocks": 1,
        "optim.warmup_steps": 1, "train.steps": 2, "train.batch_size": 4, "train.eval_batches": 1,
    }  # fmt: skip
    outcome = command("jaxgpt", "train", path, *(w for k, v in tiny.items() for w in (f"--{k}", v)))
    assert outcome.code == 0, outcome
    assert "step 2/2" in outcome.out
    assert " exact " in outcome.out
    (export,) = re.findall(r"^  export +(.*)$", outcome.out, re.MULTILINE)
    assert command(*export.split()).code == 0
    assert (tmp_path / "run.pt").exists() or (tmp_path / "run.safetensors").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"encoder": {"context_length": 9}}, "9"),
        ({"model": {**TINY["model"], "context_length": 5}}, "5"),
        ({"compute": {"loss_chunks": 2}}, "loss_chunks is for texts"),
        ({"encoder": {"model_dim": 32, "context_length": 40}}, "must be the decoder's"),
        ({"encoder": {"vocab_size": 7, "context_length": 40}}, "encoder.vocab_size is 7"),
        ({"encoder": {"positions": "alibi", "context_length": 40}}, "positions = alibi"),
    ],
)
def test_configs_that_cannot_be_trained_are_refused(
    sections: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run_of(data, tmp_path / "run", **sections)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_pairs_and_texts_are_not_confused(data: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds pairs of source and target"):
        train(settings(data, tmp_path / "a"), "here", lambda line: None)
    with pytest.raises(UserError, match="not a file of pairs"):
        run_of(text, tmp_path / "b")
    with pytest.raises(UserError, match="needs an encoder"):
        train(settings(text, tmp_path / "c", model={"cross_attention": True}), "here", print)
    run = run_of(data, tmp_path / "run", train={"steps": 3})
    with pytest.raises(UserError, match="an encoder-decoder"):
        train(settings(text, tmp_path / "run"), "here", lambda line: None)
    assert weights_to_evaluate(init_state(tiny(data))).keys() == {"encoder", "decoder"}
    assert isinstance(
        assemble(jaxgpt.load(run).config, params_of(jaxgpt.load(run))), jaxgpt.Seq2Seq
    )
    assert optax.tree.get(init_state(tiny(data)).optimizer, "mu").keys() == {"encoder", "decoder"}
