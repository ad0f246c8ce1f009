from typing import Any

import pytest

from jaxgpt import flops
from jaxgpt.config import ModelConfig
from jaxgpt.model import abstract_params
from jaxgpt.tree import flatten

from .conftest import PRIMES
from .test_cache import CONFIGS


def test_gpt2s_count_is_the_one_that_everybody_quotes() -> None:
    """6 for each weight that multiplies (124 million less positions, norms and biases), 12 for each attention score."""
    config = ModelConfig(50257, 1024, 768, 12, 12, tied=True)
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert flops.per_token(config) == 6 * weights + 12 * 12 * 768 * 1024
    assert flops.per_token(config) == pytest.approx(8.6e8, rel=0.01)


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_what_multiplies_is_counted_and_no_table_or_norm(fields: dict[str, Any]) -> None:
    config = ModelConfig(**{**PRIMES, **fields})
    weights = flatten(abstract_params(config))
    multiplied = [leaf for path, leaf in weights.items() if path.endswith("kernel")]
    multiplied += [weights["token_embedding/embedding"]] if config.tied else []
    scores = config.num_blocks * config.num_heads * config.head_dim * config.context_length
    assert flops.per_token(config) == 6 * sum(leaf.size for leaf in multiplied) + 12 * scores


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_devices_own_name(kind: str, expected: float | None) -> None:
    assert flops.peak(kind) == expected
