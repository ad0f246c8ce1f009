"""Folders of transformers' encoder-decoders: converted, written back, and opened by transformers unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.model import assemble, params_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import convert  # noqa: E402  (needs torch)

COMMON = {
    "vocab_size": 43, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "max_position_embeddings": 24,
    "dropout": 0.0, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip
CLASSES = {
    "bart": ("BartConfig", "BartForConditionalGeneration", {"scale_embedding": True}),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", {}),
    "marian": ("MarianConfig", "MarianMTModel", {"decoder_vocab_size": 43}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_opens_what_is_written(
    name: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    config, cls, fields = CLASSES[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**COMMON, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    loaded = convert.to_flax(tmp_path / "theirs")
    loaded.save(tmp_path / "ours")
    rng = np.random.default_rng(0)
    source, tokens = rng.integers(3, 43, (3, 9)), rng.integers(3, 43, (3, 6))
    mask = np.arange(9) < np.array([[9], [5], [2]])
    with torch.no_grad():
        expected = model.double()(
            input_ids=torch.tensor(source),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(tokens),
        ).logits
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, "float64"), params_of(loaded.model))
        found = assemble(loaded.config, wide)(source, tokens, mask)
    largest = float(abs(expected).max())
    tolerance = 1e-7 if name == "marian" else 1e-9  # its sinusoids are made in float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)
    assert command("jaxgpt-convert", "to-torch", tmp_path / "ours", tmp_path / "again").code == 0
    again, info = getattr(transformers, cls).from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs: dict[str, Any] = (
        getattr(transformers, cls).from_pretrained(tmp_path / "theirs").state_dict()
    )
    for key, value in again.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    ours = convert.to_torch(loaded.params, loaded.config, name)
    order = [key for key, _ in model.named_parameters() if key in ours]
    assert [key for key in ours if key in order] == order  # an optimiser numbers them so
    texts = jaxgpt.translate(
        jaxgpt.load(tmp_path / "ours"), source.tolist(), start=2, end=2, max_new_tokens=8
    )
    for row, ids in zip(source, texts, strict=True):
        with torch.no_grad():
            written = again.generate(
                torch.tensor(row[None]), max_new_tokens=8, do_sample=False, num_beams=1
            )[0].tolist()[1:]
        wanted = written[: written.index(2)] if 2 in written else written
        assert ids == wanted
