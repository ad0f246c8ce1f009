from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convert import to_flax
from convert.dialects import DIALECTS
from convert.files import llmc
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from tests.helpers import config_of, random_params

CONFIG = ModelConfig(
    **{**vars(config_of(DIALECTS["gpt2"], tied=True)), "activation": "gelu_tanh", "dropout": 0.0}
)


def written(path: Path, dtype: np.dtype, padded: int) -> dict[str, np.ndarray]:
    """As llm.c writes: of each kind of tensor all layers, one after the other."""
    tensors = to_torch(DIALECTS["nanogpt"], CONFIG, random_params(CONFIG, dtype))
    sizes = (
        CONFIG.context_length,
        100,
        CONFIG.num_blocks,
        CONFIG.num_heads,
        CONFIG.model_dim,
        padded,
    )
    header = np.zeros(256, "<i4")
    header[:8] = (llmc.MAGIC, 3, *sizes)
    layers = range(CONFIG.num_blocks)
    order = [name for name, _ in llmc.OUTER]
    order += [llmc.BLOCK.format(layer) + name for name, _ in llmc.INNER for layer in layers]
    order += [name for name, _ in llmc.LAST]
    with path.open("wb") as file:
        file.write(header.tobytes())
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).tobytes())
    return tensors


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_everything_is_read_and_nothing_but_the_norms_assumed(
    dtype: np.dtype, tmp_path: Path
) -> None:
    tensors = written(tmp_path / "model.bin", dtype, CONFIG.vocab_size)
    loaded = to_flax(tmp_path / "model.bin")
    assert loaded.config == CONFIG
    assert loaded.report.read["num_heads"] == CONFIG.num_heads
    assert "activation" in loaded.report.read
    for name, value in to_torch(loaded.dialect, loaded.config, loaded.params).items():
        assert value.dtype == dtype
        assert value.tobytes() == tensors[name].tobytes(), name


def test_a_file_of_another_size_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    written(path, np.dtype(np.float32), CONFIG.vocab_size)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        UserError,
        match=r"model.bin has \d+ bytes, but its header \(layers 3, width 35.*Download it",
    ):
        to_flax(path)
    path.write_bytes(np.array([llmc.MAGIC, 3], "<i4").tobytes())
    with pytest.raises(UserError, match="its header holds no valid sizes"):
        to_flax(path)


@pytest.mark.parametrize("padded", [0, -5])
def test_a_vocabulary_below_one_is_refused(padded: int, tmp_path: Path) -> None:
    """Also if the file has the size that the header then asks for."""
    path = tmp_path / "model.bin"
    sizes = {"context": 9, "vocabulary": 1, "layers": 1, "heads": 1, "width": 1}
    header = np.array([llmc.MAGIC, 3, *sizes.values(), padded], "<i4").tobytes()
    path.write_bytes(header.ljust(llmc.HEADER + 4 * (padded + 9 + 26), b"\0"))
    with pytest.raises(UserError, match="Download it again"):
        to_flax(path)
