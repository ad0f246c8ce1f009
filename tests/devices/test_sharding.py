"""Sharded runs have the numbers of a single device. They use processes of their own: devices are made once."""

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgpt.config import MeshConfig, ModelConfig
from jaxgpt.devices.mesh import AXES, make_mesh
from jaxgpt.devices.sharding import shardings, undivided
from jaxgpt.devices.sharding_table import SHARDING_TABLE
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from tests.helpers import CONFIGS, EIGHT, PRIMES, PROGRAMS

SMALL = {"vocab_size": 26, "model_dim": 16}
MODELS = {
    "gpt": SMALL,
    "narrow": SMALL | {"model_dim": 12},
    "modern": SMALL | {
        "num_kv_heads": 2, "positions": "rotary", "qk_norm": "full_width", "norm_kind": "rms", "mlp_gated": True,
        "activation": "silu", "extra_norms": ["sandwich"], "window": [5, None, 5],
    },
    "muon": SMALL | {"num_kv_heads": 2, "mlp_gated": True, "optim": {"name": "muon"}},
    "lora": SMALL | {"mlp_gated": True, "lora": 2},
    "tiled": SMALL | {"positions": "alibi", "attention": "tiled"},
    "packed": SMALL | {"pack": "restart", "attention": "tiled", "window": [5, None, 5]},
    "pair": SMALL | {"pair": True, "activation": "gelu", "extra_norms": ["sandwich"]},
}  # fmt: skip
ALONE = (1, 1, 1)  # the axes data, fsdp and tensor of a mesh
# Both kinds of block run with every axis, alone or with others, and so do the two kinds of model;
# other kinds run on the mesh that divides them most.
COMPARED = {
    "gpt": [(8, 1, 1), (2, 2, 2)],
    "modern": [(1, 8, 1), (1, 2, 4)],
    "pair": [(1, 8, 1), (2, 2, 2)],
    "muon": [(1, 8, 1), (1, 2, 4)],
    "lora": [(1, 2, 4)],
    "tiled": [(2, 2, 2)],
    "packed": [(1, 2, 4)],
}
PAIRS = [(mesh, model) for model, meshes in COMPARED.items() for mesh in meshes]
Case = tuple[tuple[int, int, int], str]  # a mesh, and the name of a model


def run(cases: list[Case]) -> dict[Case, dict[str, Any]]:
    """Ten steps of each case, of one process with eight devices."""
    asked = json.dumps([(mesh, MODELS[model]) for mesh, model in cases])
    code = [sys.executable, "-W", "error", str(PROGRAMS / "sharded_steps.py"), asked]
    done = subprocess.run(
        code, capture_output=True, text=True, env={**os.environ, **EIGHT}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Involuntary" not in done.stderr
    return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def runs() -> dict[Case, dict[str, Any]]:
    return run([*((ALONE, model) for model in COMPARED), *PAIRS])


@pytest.mark.parametrize(("mesh", "model"), PAIRS, ids=str)
def test_ten_steps_on_any_mesh_equal_those_on_one_device(
    mesh: tuple[int, int, int], model: str, runs: dict[Case, dict[str, Any]]
) -> None:
    """Even if `tensor` is 4 and there are 2 key heads."""
    found, alone = runs[mesh, model], runs[ALONE, model]
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, weights in alone["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weights, rtol=0, atol=1e-5, err_msg=name)
    sizes = dict(zip(("data", "fsdp", "tensor", "rest"), (*mesh, 1), strict=True))
    require_divided(found, sizes)
    for name, (shape, part) in found["lies"].items():
        if "blocks/" in name and name.endswith("kernel"):
            assert math.prod(shape) == math.prod(part) * sizes["fsdp"] * sizes["tensor"], name


def test_fsdp_that_does_not_divide_the_width_also_shards_other_axes() -> None:
    """A width of 12 on 8 devices: 4 ways along it, and 2 along the vocabulary or the MLP's width."""
    alone, found = run([(ALONE, "narrow"), ((1, 8, 1), "narrow")]).values()
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    require_divided(found, {"data": 1, "fsdp": 4, "rest": 2, "tensor": 1})


def require_divided(found: dict[str, Any], mesh: dict[str, int]) -> None:
    """Require that sharded parameters are stored sharded, and that only those outside the blocks are gathered whole."""
    for name, (shape, part) in found["lies"].items():
        used = set()
        table = SHARDING_TABLE[name.removeprefix("encoder/").removeprefix("decoder/")][
            -len(shape) :
        ]
        for axes, whole, own in zip(table, shape, part, strict=True):
            ways = 1
            for axis in axes:
                if axis not in used and whole % (ways * mesh[axis]) == 0:
                    ways *= mesh[axis]
                    used.add(axis)
            assert own == whole // ways, name
    stacked = {tuple(shape) for name, (shape, part) in found["lies"].items() if "blocks/" in name}
    gathered = re.findall(r"= (?:\()?\w+\[([\d,]*)\][^=]*? all-gather", found["text"])
    if mesh["fsdp"] > 1:
        assert gathered
    for shape in gathered:
        sizes = tuple(int(n) for n in shape.split(",") if n)
        assert sizes not in stacked
        assert not sizes or sizes[0] != 3 or len(sizes) < 3, f"{sizes} are of all three layers"


def test_a_size_that_does_not_divide_is_sharded_less_and_reported() -> None:
    config = ModelConfig(26, 11, 16, 3, 4, qkv_bias=True)
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 4), AXES)
    assert undivided(abstract_params(config), mesh) == [
        "head/bias is sharded 2 ways, not 8, as its sizes do not divide",
        "head/kernel is sharded 2 ways, not 8, as its sizes do not divide",
        "token_embedding/embedding is sharded 2 ways, not 8, as its sizes do not divide",
    ]
    specs = {
        path: where.spec
        for path, where in flatten(shardings(abstract_params(config), mesh)).items()
    }
    assert specs["token_embedding/embedding"] == PartitionSpec("rest", "fsdp")
    assert specs["blocks/attn/qkv/kernel"] == PartitionSpec(None, "fsdp", "tensor", None, "rest")


def test_key_heads_that_do_not_divide_are_sharded_along_their_width() -> None:
    config = ModelConfig(32, 11, 16, 3, 8, 8, num_kv_heads=2)
    params = abstract_params(config)
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 4), AXES)
    assert undivided(params, mesh) == [
        "mesh.tensor 4 does not divide the 2 heads of keys and values: each of its 4 devices "
        "computes the attention of all heads"
    ]
    specs = {path: where.spec for path, where in flatten(shardings(params, mesh)).items()}
    assert specs["blocks/attn/qkv/kernel"] == PartitionSpec(
        None, "fsdp", None, None, ("rest", "tensor")
    )
    assert specs["blocks/attn/out/kernel"] == PartitionSpec(None, "tensor", "rest", "fsdp")


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_has_a_place_in_the_table(fields: dict[str, Any]) -> None:
    for path in flatten(abstract_params(ModelConfig(**PRIMES | fields))):
        assert path in SHARDING_TABLE


@pytest.mark.parametrize(
    ("mesh", "rows", "said"),
    [
        (
            {"data": 512},
            512,
            "mesh.data 512 x mesh.fsdp 1 x mesh.tensor 1 makes 512 devices, but there are 8",
        ),
        ({"data": 2, "fsdp": 2}, 8, "makes 4 devices, but there are 8"),
        ({"data": 2, "fsdp": 4}, 12, "is 8, which does not divide the 12 rows"),
        ({"fsdp": 3}, 12, "3 does not divide the 8 devices"),
        ({"data": 2, "fsdp": -1}, 12, "is 8, which does not divide the 12 rows"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh: dict[str, int], rows: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_mesh(MeshConfig(**mesh), rows, 16, [object()] * 8)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [({"fsdp": 0}, "fsdp must be positive"), ({"fsdp": -1, "tensor": -1}, "only one of")],
)
def test_a_mesh_that_makes_no_sense_is_refused(mesh: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MeshConfig(**mesh)


def test_devices_without_rows_stay_idle() -> None:
    assert make_mesh(MeshConfig(), 7, 16).size in (1, 7)
