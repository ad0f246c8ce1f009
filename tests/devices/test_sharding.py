"""Devices share the work, and nobody can tell from the numbers. In processes of their own: devices are made once."""

import json
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
from jaxgpt.devices.sharding import LAYOUT, shardings, undivided
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from tests.helpers import EIGHT, PROGRAMS

# The axes data, fsdp and tensor of a mesh, the size of the vocabulary, and the width of the model.
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
ALONE = ((1, 1, 1), 26, 16)
NARROW = [((1, 1, 1), 26, 12), ((1, 8, 1), 26, 12)]
CASES = [ALONE, *((mesh, 26, 16) for mesh in MESHES), *NARROW]


@pytest.fixture(scope="module")
def runs() -> dict[Any, dict[str, Any]]:
    """Ten steps of each case, of one process with eight devices."""
    code = [sys.executable, "-W", "error", str(PROGRAMS / "sharded_steps.py"), json.dumps(CASES)]
    done = subprocess.run(
        code, capture_output=True, text=True, env={**os.environ, **EIGHT}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Involuntary" not in done.stderr
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_ten_steps_on_any_mesh_are_those_of_one_device(
    mesh: tuple[int, int, int], runs: dict[Any, dict[str, Any]]
) -> None:
    found, alone = runs[mesh, 26, 16], runs[ALONE]
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, weights in alone["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weights, rtol=0, atol=1e-5, err_msg=name)
    require_divided(found, dict(zip(("data", "fsdp", "tensor", "rest"), (*mesh, 1), strict=True)))


def test_a_width_that_does_not_divide_leaves_the_rest_to_other_sizes(
    runs: dict[Any, dict[str, Any]],
) -> None:
    """12 among 8 devices: by 4, and by 2 the vocabulary and the width of the MLP."""
    alone, found = (runs[case] for case in NARROW)
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    require_divided(found, {"data": 1, "fsdp": 4, "rest": 2, "tensor": 1})


def require_divided(found: dict[str, Any], mesh: dict[str, int]) -> None:
    """No parameter lies whole where the table divides it, and none is gathered whole but those outside the blocks."""
    for name, (shape, part) in found["lies"].items():
        for axes, whole, own in zip(LAYOUT.get(name, ((),) * len(shape)), shape, part, strict=True):
            ways = 1
            for axis in axes:
                ways *= 1 if whole % (ways * mesh[axis]) else mesh[axis]
            assert own == whole // ways, name
    stacked = {
        tuple(shape) for name, (shape, part) in found["lies"].items() if name.startswith("blocks/")
    }
    gathered = re.findall(r"= (?:\()?\w+\[([\d,]*)\][^=]*? all-gather", found["text"])
    if mesh["fsdp"] > 1:
        assert gathered
    for shape in gathered:
        sizes = tuple(int(n) for n in shape.split(",") if n)
        assert sizes not in stacked
        assert not sizes or sizes[0] != 3 or len(sizes) < 3, f"{sizes} are of all three layers"


def test_a_size_that_does_not_divide_is_whole_and_said() -> None:
    config = ModelConfig(26, 11, 16, 3, 4, qkv_bias=True)
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 4), AXES)
    assert undivided(abstract_params(config), mesh) == [
        "head/bias is divided by 2, not by 8, as its sizes do not divide",
        "head/kernel is divided by 2, not by 8, as its sizes do not divide",
        "token_embedding/embedding is divided by 2, not by 8, as its sizes do not divide",
    ]
    specs = {
        path: where.spec
        for path, where in flatten(shardings(abstract_params(config), mesh)).items()
    }
    assert specs["token_embedding/embedding"] == PartitionSpec("rest", "fsdp")
    assert specs["blocks/attn/qkv/kernel"] == PartitionSpec(None, "fsdp", "tensor", None, "rest")


def test_every_parameter_has_a_place_in_the_table() -> None:
    for path in flatten(abstract_params(ModelConfig(26, qkv_bias=True))):
        assert path in LAYOUT


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


def test_devices_that_would_have_no_rows_stay_idle() -> None:
    assert make_mesh(MeshConfig(), 7, 16).size in (1, 7)
