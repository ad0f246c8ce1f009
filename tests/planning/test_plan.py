"""A plan reports what the compiler does. Plans for TPUs and GPUs need their compilers installed."""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxgpt.config import Config, MeshConfig
from jaxgpt.data.prepare_answers import prepare_answers
from jaxgpt.devices.mesh import AXES, make_mesh
from jaxgpt.devices.sharding import shardings
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.planning import plan as room
from jaxgpt.planning.data import of_answers
from jaxgpt.planning.hlo import Traffic
from jaxgpt.planning.page import ideal, page, verdict
from jaxgpt.planning.plan import Memory, Plan, changes, plan, smaller
from jaxgpt.pytree import flatten
from jaxgpt.settings import build
from jaxgpt.training.batches import batches, largest_batch
from jaxgpt.training.step import init_state
from tests.helpers import ROOT, Needs, settings, write_toml

SIZES = {
    "vocab_size": 512,
    "context_length": 256,
    "model_dim": 128,
    "num_blocks": 2,
    "num_heads": 2,
    "dropout": 0.0,
}


def small(**sections: dict[str, Any]) -> dict[str, Any]:
    return settings(
        Path("nowhere"),
        Path("run"),
        model={**SIZES, **sections.pop("model", {})},
        train={"batch_size": 16, "steps": 10, **sections.pop("train", {})},
        compute={"dtype": "bfloat16", **sections.pop("compute", {})},
        mesh={"data": 1, "fsdp": -1, **sections.pop("mesh", {})},
    )


def made(topology: str, **sections: dict[str, Any]) -> Plan:
    return plan(small(**sections), "here", topology)[0]


@functools.cache
def at_hand() -> Plan:
    """The plan of a small model for the devices of this machine, compiled once."""
    return made("")


def test_for_the_devices_at_hand_it_has_the_compilers_figures() -> None:
    found = at_hand()
    text = page(found, "small")
    assert found.fits
    assert (
        found.memory.parameters * 2 <= found.memory.optimizer <= found.memory.parameters * 2 + 100
    )
    assert found.memory.parameters <= 4 * found.size
    held = (
        found.memory.parameters
        + found.memory.optimizer
        + found.memory.temporaries
        + found.memory.program
    )
    assert (
        held <= found.memory.total < held + 100_000
    )  # the batch; what comes out lies where it went in
    assert f"{found.size:,}" in text
    assert "16 x 256 tokens" in text
    assert "tiled, for cpu" in text
    assert text.endswith(verdict(found, None))
    assert "ideal step" not in text  # no data sheet says what this CPU can do


def test_sizes_are_in_a_unit_that_shows_them() -> None:
    found = at_hand()
    for size, shown, total in (
        (3 * 2**20, "3.000 MiB", "12.00 MiB"),
        (3 * 2**30, "3.000 GiB", "12.00 GiB"),
    ):
        memory = Memory(
            parameters=size, optimizer=size, temporaries=size, program=size, total=4 * size
        )
        traffic = {"all-reduce": Traffic(2, size)}
        text = page(
            dataclasses.replace(found, memory=memory, limit=2**34, traffic=traffic), "small"
        )
        table = re.findall(r"^    (\S.*?) +([\d.]+ .iB)(.*)$", text, re.MULTILINE)
        assert [value for _, value, _ in table] == [shown] * 4 + [f"12.{shown[2:]}"]
        assert (
            len(
                {
                    line.index("iB")
                    for line in text.splitlines()
                    if line.startswith("    ") and "iB" in line
                }
            )
            == 1
        )
        assert table[-1][2].startswith(" of 16.00 GiB, ")
        assert text.endswith(f"fits: {total} of 16.00 GiB")
        assert f" {size / 1e6:.2f} MB come in" in text or f" {size / 1e9:.2f} GB come in" in text


def test_it_is_the_step_that_training_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    real = room.jitted_step
    monkeypatch.setattr(
        room, "jitted_step", lambda config, *more: (seen.append(config), real(config, *more))[1]
    )
    found = made("", train={"accumulate": 2}, compute={"remat": "full", "loss_chunks": 4})
    assert seen == [found.config]
    assert (seen[0].train.accumulate, seen[0].compute.remat, seen[0].compute.loss_chunks) == (
        2,
        "full",
        4,
    )


def test_a_config_that_does_not_fit_is_reduced_until_it_does(
    tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, plans = room.plan_by_compiling, {str(at_hand().config): at_hand()}

    def once(config: Config, devices: list[Any]) -> Plan:
        found = plans.get(str(config)) or real(config, devices)
        plans[str(config)] = found
        return dataclasses.replace(found, limit=room._limit(devices))

    monkeypatch.setattr(room, "plan_by_compiling", once)
    whole, least = (
        at_hand().memory.total,
        made("", compute={"remat": "full", "loss_chunks": 16}).memory.total,
    )
    assert least < whole
    monkeypatch.setattr(room, "_limit", lambda devices: (whole + least) / 2)
    config = write_toml(tmp_path / "small.toml", small())
    outcome = command("jaxgpt", "plan", config)
    assert outcome.code == 3
    said = re.search(r"does not fit: .* try (--.*), which was compiled as well", outcome.out)
    assert said
    assert command("jaxgpt", "plan", config, *said[1].split()).code == 0
    monkeypatch.setattr(room, "_limit", lambda devices: 1000.0)
    outcome = command("jaxgpt", "plan", config)
    assert (outcome.code, "try more devices" in outcome.out) == (3, True)


def test_reduced_configs_compute_the_same_steps_in_ever_less_memory() -> None:
    found = dataclasses.replace(at_hand(), mesh=jax.sharding.AbstractMesh((4, 2, 1, 1), AXES))
    config = build(Config, small(train={"batch_size": 512}), "here")
    assert [changes(config, other) for other in smaller(config, found)] == [
        "",
        "--compute.remat full --compute.loss_chunks 16",
        "--train.accumulate 4 --compute.remat full --compute.loss_chunks 16",
        "--train.accumulate 64 --compute.remat full --compute.loss_chunks 16",
    ]


def test_the_ideal_step_follows_from_the_data_sheet() -> None:
    """A made-up plan on v5e: every term can be computed by hand."""
    base = at_hand()
    train = dataclasses.replace(base.config.train, accumulate=4)
    device = type("Device", (), {"device_kind": "TPU v5 lite", "platform": "tpu"})()
    mesh = type(
        "Mesh",
        (),
        {"shape": base.mesh.shape, "size": 1, "devices": type("", (), {"flat": [device]})()},
    )()
    memory = base.memory._replace(parameters=10**9, optimizer=2 * 10**9, temporaries=5 * 10**9)
    found = dataclasses.replace(
        base,
        config=dataclasses.replace(base.config, train=train),
        mesh=mesh,
        memory=memory,
        size=10**9,
        operations=197e12,
        traffic={"all-gather": Traffic(1, 4e11)},
    )
    arithmetic, moved, links = ideal(found) or (0, 0, 0)
    assert (arithmetic, links) == (1, 2)
    assert moved == pytest.approx((2 * 3e9 + 4 * (2 * 5e9 + 2 * 2e9)) / 819e9)
    text = page(found, "made up")
    assert "ideal step: 2 s, 2,048 tokens/s: the longest of" in text


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt2_xl", "gpt3_6_7b"])
def test_state_shrinks_as_devices_grow_in_number(name: str) -> None:
    """All but small vectors whose sizes do not divide: 2 % of what is left at 256 devices."""
    config: Config = build(
        Config, tomllib.loads((ROOT / "configs" / f"{name}.toml").read_text()), name
    )
    like = jax.eval_shape(lambda: init_state(config))

    def held(devices: int) -> int:
        width = next(
            n
            for n in (256, 128, 64, 32, 16, 1)
            if config.model.model_dim % n == 0 and devices % n == 0
        )
        mesh = jax.sharding.AbstractMesh((1, width, devices // width, 1), AXES)
        return room._bytes(like, shardings(like, mesh))

    assert held(1) == pytest.approx(
        12 * sum(leaf.size for leaf in flatten(like.params).values()), rel=1e-6
    )
    for devices in (16, 256):
        assert held(1) / devices <= held(devices) <= 1.02 * held(1) / devices, devices


def test_without_data_the_vocabulary_size_is_asked_for() -> None:
    with pytest.raises(
        UserError, match=r"nowhere has not been prepared: prepare it, or set --model.vocab_size N"
    ):
        made("", model={"vocab_size": 0})


def test_the_vocabulary_size_is_that_of_prepared_data(
    text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    assert command("jaxgpt", "prepare", text, "--out", tmp_path / "data").code == 0
    given = small(model={"vocab_size": 0})
    found, _ = plan({**given, "data": {"path": str(tmp_path / "data")}}, "here")
    assert found.config.model.vocab_size == len(set(text.read_text()))


def answers(folder: Path) -> Path:
    path = folder / "words.jsonl"
    path.write_text("".join(f'{{"prompt": "{n}=", "answer": "{-n}"}}\n' for n in range(40)))
    return path


@pytest.mark.parametrize("pack", ["off", "restart", "continue"])
def test_the_batch_for_prompts_and_answers_is_the_one_used_in_training(
    pack: str, tmp_path: Path
) -> None:
    source = answers(tmp_path)
    dataset = prepare_answers([str(source)], tmp_path / "data")
    for path in (source, tmp_path / "data"):
        sections = {**small(), "data": {"path": str(path), "pack": pack}}
        config = build(Config, {**sections, "train": {"batch_size": 4, "accumulate": 2}}, "here")
        mesh = make_mesh(MeshConfig(), 2, 128, jax.devices()[:1])
        planned = largest_batch(config, of_answers(config))
        trained = jax.eval_shape(lambda batch: batch, batches(dataset, config, mesh)(0))
        assert jax.tree.structure(planned) == jax.tree.structure(trained)
        for a, b in zip(jax.tree.leaves(planned), jax.tree.leaves(trained), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    for path in (tmp_path / "none.jsonl", tmp_path / "none"):
        assert not of_answers(build(Config, {**small(), "data": {"path": str(path)}}, "here"))


def test_the_mask_of_answers_takes_little_memory_and_no_arithmetic(tmp_path: Path) -> None:
    found, _ = plan({**small(), "data": {"path": str(answers(tmp_path))}}, "here")
    assert found.memory.total == pytest.approx(at_hand().memory.total, rel=0.01)
    assert found.operations == at_hand().operations


def pairs(**sections: dict[str, Any]) -> dict[str, Any]:
    """An encoder-decoder with the choices of configs/translation.toml, and small."""
    translation = tomllib.loads((ROOT / "configs" / "translation.toml").read_text())
    sizes = {"vocab_size": 512, "model_dim": 128, "num_blocks": 2, "num_heads": 2, "mlp_dim": 256}
    model = {**translation["model"], **sizes}
    given = small(train={"accumulate": 2}, **sections)
    return {**given, "model": model, "encoder": translation["encoder"]}


def test_an_encoder_decoder_is_planned_for_the_devices_at_hand() -> None:
    found, _ = plan(pairs(), "here")
    assert found.fits
    text = page(found, "pairs")
    assert "16 x (128 + 128) tokens in 2 parts" in text
    params = flatten(abstract_params(found.config.architecture))
    assert found.size == sum(leaf.size for leaf in params.values())


def test_an_encoder_decoder_is_planned_for_a_tpu_slice(needs: Needs) -> None:
    needs("libtpu")
    one, four = (plan(pairs(), "here", topology)[0] for topology in ("v5e:1x1", "v5e:2x2"))
    assert (one.fits, four.fits) == (True, True)
    assert not one.traffic
    assert four.traffic
    assert one.size == four.size
    assert one.operations == pytest.approx(4 * four.operations)
    assert one.memory.parameters == pytest.approx(4 * four.memory.parameters, rel=0.1)
    assert "ideal step" in page(four, "pairs")
    narrower, _ = plan(pairs(mesh={"fsdp": 2, "tensor": 2}), "here", "v5e:2x2")
    assert narrower.fits


def test_an_encoder_decoder_is_planned_for_gpus(needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    found, _ = plan(pairs(), "here", "h100:2")
    assert found.fits
    assert found.traffic
    assert "ideal step" in page(found, "pairs")


def test_an_attention_that_the_devices_lack_is_refused(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    config = write_toml(tmp_path / "small.toml", small(compute={"attention": "splash"}))
    outcome = command("jaxgpt", "plan", config)
    assert outcome.code == 2
    assert "splash, which needs a TPU" in outcome.err


def test_a_plan_for_a_tpu_slice(needs: Needs) -> None:
    needs("libtpu")
    four, eight = made("v5e:2x2"), made("v5e:2x4")
    assert (four.fits, eight.fits) == (True, True)
    assert (
        made("v5e:2x2").memory == four.memory
    )  # compiled again, as what a cache holds for a TPU cannot be read here
    assert "splash_mha" in four.text
    assert four.traffic
    assert four.memory.parameters == pytest.approx(2 * eight.memory.parameters, rel=0.02)
    assert "ideal step" in page(four, "small")


@pytest.mark.parametrize(
    "sections", [{"mesh": {"fsdp": 2, "tensor": 2}}, {"mesh": {"fsdp": 1, "data": 4}}], ids=str
)
def test_attention_kernels_on_a_tpu_are_divided_by_rows_and_heads(
    sections: dict[str, Any], needs: Needs
) -> None:
    needs("libtpu")
    assert "splash_mha" in made("v5e:2x2", **sections).text


def test_a_step_too_large_for_a_tpu_is_reported(needs: Needs) -> None:
    """Logits of 16 x 256 positions and 2 ** 20 tokens take 16 GiB, and more than once."""
    needs("libtpu")
    given = small(model={"vocab_size": 2**20}, compute={"dtype": "float32"})
    found, other = plan(given, "here", "v5e:1x1")
    assert not found.fits
    assert found.memory.total > found.limit
    assert other is None or other.fits
    assert "does not fit" in page(found, "large", other)


def test_on_gpus_fused_attention_saves_memory(needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    longer = {"context_length": 1024}
    fused, plain = (
        made("h200:8", model=longer),
        made("h200:8", model=longer, compute={"attention": "xla"}),
    )
    assert "__cudnn$fmhaSoftmax" in fused.text
    assert "__cudnn$fmhaSoftmaxBackward" in fused.text
    assert "__cudnn" not in plain.text
    assert fused.memory.temporaries < plain.memory.temporaries
