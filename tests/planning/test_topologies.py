import importlib.util

import pytest

from jaxgpt.devices.chips import CHIPS, chip
from jaxgpt.errors import UserError
from jaxgpt.planning.topologies import GPUS, devices_of
from tests.helpers import Needs


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "v5e:3x4",
            r"There is no topology v5e:3x4. There are v5e: followed by 1x1, 2x2, .*, 16x16\.$",
        ),
        ("v5e", "There is no topology v5e. There are v5e: followed by 1x1"),
        ("h200:3", r"There are h200: followed by 1, 2, 4, 8\.$"),
        (
            "tpu",
            r"v4: followed by 2x2x1, .*; v6e: .*; a100: followed by 1, .*; h200: followed by 1, 2, 4, 8\.$",
        ),
        ("v4:16x16", "There are v4: followed by 2x2x1"),
    ],
)
def test_a_topology_that_does_not_exist_lists_those_that_do(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        devices_of(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h200:8", "cuda12")])
def test_a_compiler_that_is_not_installed_is_named(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"pip install 'jax\[{extra}\]'"):
        devices_of(name)


@pytest.mark.parametrize("name", ["v5e:1x1", "v4:2x2x2", "v5p:2x2x1", "v6e:4x4", "v5e:16x16"])
def test_a_slice_has_a_device_for_each_chip(name: str, needs: Needs) -> None:
    needs("libtpu")
    devices, count = devices_of(name), 1
    for size in name.partition(":")[2].split("x"):
        count *= int(size)
    assert len(devices) == count
    assert chip(devices[0].device_kind)


@pytest.mark.parametrize("kind", GPUS)
def test_a_machine_has_its_gpus(kind: str, needs: Needs) -> None:
    needs("jax_plugins.xla_cuda12")
    devices = devices_of(f"{kind}:8")
    assert len(devices) == 8
    assert chip(devices[0].device_kind) == CHIPS[kind.upper()]


@pytest.mark.parametrize("kind", GPUS)
def test_every_gpu_that_is_described_has_its_own_data_sheet(kind: str) -> None:
    assert chip(GPUS[kind].name) == CHIPS[kind.upper()]
