"""Run an exported model, model.zip, in a process that has no jaxgpt."""

import sys
import zipfile

import jax
import jax.export
import numpy as np

file = zipfile.ZipFile("model.zip")
prefill, decode = (
    jax.export.deserialize(bytearray(file.read(name + ".stablehlo")))
    for name in ("prefill", "decode")
)
assert set(prefill.platforms) == {"cpu", "cuda", "tpu"}
ids = np.load("ids.npy")
logits, cache = prefill.call(
    np.where(np.arange(ids.shape[1]) < 5, ids, 0), np.array([5, 5], np.int32)
)
found = [logits]
for t in range(5, ids.shape[1]):
    logits, cache = decode.call(cache, ids[:, t], np.array([t, t], np.int32))
    found.append(logits)
np.save("logits.npy", np.stack(found, axis=1))
assert not any(name.startswith(("jaxgpt", "flax")) for name in sys.modules)
