"""Devices share a batch, and nobody can tell from the numbers. In processes of their own: devices are made once."""

import json
import subprocess
import sys

import pytest

from jaxgpt.config import MeshConfig, UserError
from jaxgpt.sharding import make_mesh

CODE = """
import json, os, sys
os.sched_getaffinity = lambda _: range(int(sys.argv[1]))
import jax, numpy as np
from jaxgpt.config import *
from jaxgpt.sharding import *
use_all_cores()
from jaxgpt.step import *
model = ModelConfig(23, 11, 14, 2, 2, dropout=0.2)
config = Config(DataConfig("x"), RunConfig("x"), model, OptimConfig(warmup_steps=0))
mesh = make_mesh(config.mesh, 8)
whole, parts = replicated(mesh), over_rows(mesh, axis=1)
step = jax.jit(make_step(config), in_shardings=(whole, parts), out_shardings=(whole, whole))
state, losses = jax.device_put(init_state(config), whole), []
for i in range(5):
    ids = np.random.default_rng(i).integers(0, 23, (1, 8, 12)).astype(np.int32)
    state, metrics = step(state, jax.device_put(ids, parts))
    losses.append(float(metrics.loss))
print(json.dumps([mesh.size, losses]))
"""


def run(devices: int) -> tuple[int, list[float]]:
    done = subprocess.run([sys.executable, "-c", CODE, str(devices)], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def test_four_devices_equal_one_dropout_and_all() -> None:
    (one, alone), (four, shared) = run(1), run(4)
    assert (one, four) == (1, 4)
    assert shared == pytest.approx(alone, abs=1e-5)


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="mesh.data is 512, but there are"):
        make_mesh(MeshConfig(data=512), 512)
    assert make_mesh(MeshConfig(), 7).size in (1, 7)
