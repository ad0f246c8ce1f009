"""The part of numbers: extreme values and sizes.

Each is right, compared with a plain computation, or is refused in one paragraph. There is no
traceback, and no NaN is written silently.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.helpers import CONFIGS, random_params
from tests.torture import odd_files, odd_pairs, odd_prompts, odd_settings, situations
from tests.torture.parts import Orders
from tests.torture.runner import Line
from tests.torture.situations import Situation, call, refusal_of, require

CLOSE = 1e-9  # of the largest logit, in float64
SIZES = {
    "vocab_size": (1, 2, 3, 7, 97, 257), "context_length": (1, 2, 3, 7, 13), "num_blocks": (1, 2, 3),
    "num_heads": (1, 2, 3, 5), "head_dim": (1, 2, 3, 4, 7, 8), "num_kv_heads": (0, 1), "mlp_dim": (0, 1, 2, 7),
}  # fmt: skip
WIDTHS = (1, 2, 3, 5, 8, 13)


def sizes(random: Random, path: Path) -> str:
    """A decoder with sizes such as 1 and primes agrees with a plain computation of its formulas."""
    from jaxgpt.errors import UserError
    from jaxgpt.model import assemble, exactly

    fields = _decoder_fields(random)
    try:
        config = _config(fields)
    except UserError as error:
        return str(error)
    params = random_params(config, np.dtype("float64"))
    with exactly(np.dtype("float64")):
        model = assemble(config, _on_device(params))
    ids = _ids(random, config)
    expected = _plain_logits(config, params, ids)
    _require_close(model(ids), expected, f"logits of {fields}")
    use = random.choice((_generates, _scores, _is_stored, _is_exported, _is_converted, _trains))
    return use(random, path, model, params)


def _decoder_fields(random: Random) -> dict[str, Any]:
    fields = dict(CONFIGS[random.choice(list(CONFIGS))])
    fields |= {name: random.choice(values) for name, values in SIZES.items()}
    for name in ("rotary_theta", "window"):  # those by block
        if isinstance(fields.get(name), list):
            fields[name] = [random.choice(fields[name]) for _ in range(fields["num_blocks"])]
    fields["model_dim"] = random.choice((*WIDTHS, fields["num_heads"] * fields["head_dim"]))
    return {**fields, "dropout": 0.0}


def _config(fields: dict[str, Any]) -> Any:
    from jaxgpt.config import ModelConfig

    return ModelConfig(**fields)


def _on_device(params: Any) -> Any:
    from jaxgpt.storage.model_directory import to_device

    return to_device(params)


def _ids(random: Random, config: Any) -> np.ndarray:
    shape = random.randint(1, 3), random.randint(1, config.context_length)
    return np.random.default_rng(random.randrange(2**32)).integers(0, config.vocab_size, shape)


def _plain_logits(config: Any, params: Any, ids: np.ndarray) -> np.ndarray:
    import torch

    from jaxgpt.pytree import flatten
    from tests.model import plain_decoder

    tensors = {
        name: torch.from_numpy(np.array(leaf, "f8")) for name, leaf in flatten(params).items()
    }
    logits: np.ndarray = plain_decoder.logits(
        config, tensors, torch.from_numpy(np.asarray(ids))
    ).numpy()
    return logits


def _require_close(ours: Any, theirs: np.ndarray, what: str) -> None:
    ours = np.asarray(ours, "f8")
    require(ours.shape == theirs.shape, f"{what}: {ours.shape} instead of {theirs.shape}")
    if not theirs.size:
        return
    limit = CLOSE * max(1.0, float(np.abs(theirs).max()))
    difference = float(np.abs(ours - theirs).max())
    require(difference <= limit, f"{what}: they differ by {difference}")


def _generates(random: Random, path: Path, model: Any, params: Any) -> str:
    """Greedy text is that of the plain computation, also beyond the context length."""
    import jaxgpt

    prompt = _ids(random, model.config)[:1]
    count = random.randint(1, 5)
    pieces = jaxgpt.generate(model, prompt[0].tolist(), max_new_tokens=count, temperature=0)
    ours = list(
        itertools.chain.from_iterable(np.asarray(piece).ravel().tolist() for piece in pieces)
    )
    text = prompt
    for new in ours:
        seen = text[:, -model.config.context_length :]
        logits = _plain_logits(model.config, params, seen)[0, -1]
        tie = CLOSE * max(1.0, float(np.abs(logits).max()))
        require(logits[new] >= logits.max() - tie, f"greedy text has {new}, not {logits.argmax()}")
        text = np.append(text, [[new]], axis=1)
    require(len(ours) == count, f"{len(ours)} new ids instead of {count}")
    return ""


def _scores(random: Random, path: Path, model: Any, params: Any) -> str:
    import jaxgpt

    ids = _ids(random, model.config)
    logits = _plain_logits(model.config, params, ids)[:, :-1]
    shifted = logits - logits.max(-1, keepdims=True) if logits.size else logits
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = np.take_along_axis(logprobs, ids[:, 1:, None], -1)[..., 0]
    _require_close(jaxgpt.score(model, ids), expected, "scores")
    return ""


def _is_stored(random: Random, path: Path, model: Any, params: Any) -> str:
    import jaxgpt

    jaxgpt.save(path / "model", model)
    ids = _ids(random, model.config)
    _require_close(
        jaxgpt.load(path / "model")(ids),
        _plain_logits(model.config, params, ids),
        "logits from disk",
    )
    prompt = "0 " * random.randint(1, 2 * model.config.context_length)
    said = call("jaxgpt", "sample", path / "model", "--prompt", prompt, "--tokens", 3)
    if refusal := refusal_of(said, (2,)):
        return refusal
    seen = call("jaxgpt", "look", path / "model", "--text", "0", "--out", path / "look.png")
    require("nan" not in seen.out, f"look shows nan: {seen.out[-200:]}")
    return refusal_of(seen, (2,))


def _is_exported(random: Random, path: Path, model: Any, params: Any) -> str:
    import zipfile

    import jax.export

    import jaxgpt
    from jaxgpt.model import exactly

    jaxgpt.save(path / "model", model)
    if refusal := refusal_of(
        call("jaxgpt", "export", path / "model", "--out", path / "it.zip"), (2,)
    ):
        return refusal
    with zipfile.ZipFile(path / "it.zip") as file, exactly(np.dtype("float64")):
        program = jax.export.deserialize(bytearray(file.read("prefill.stablehlo")))
        ids = _ids(random, model.config)[:1]
        padded = np.zeros((1, model.config.context_length), np.int32)
        padded[:, : ids.shape[1]] = ids
        logits, _ = program.call(padded, np.array([ids.shape[1]], np.int32))
    _require_close(logits, _plain_logits(model.config, params, ids)[:, -1], "logits of the program")
    return ""


def _is_converted(random: Random, path: Path, model: Any, params: Any) -> str:
    """Converted to torch and back, all bits are the same, or one of the two commands refuses."""
    import convert
    import jaxgpt
    from jaxgpt.pytree import flatten

    jaxgpt.save(path / "model", model)
    file = path / random.choice(("w.pt", "w.safetensors"))
    if refusal := refusal_of(call("jaxgpt-convert", "to-torch", path / "model", file), (2,)):
        return refusal
    ended = call("jaxgpt-convert", "to-flax", file, path / "back")
    if refusal := refusal_of(ended, (2,)):
        return refusal
    back, ours = flatten(convert.to_flax(file).params), flatten(params)
    if back.keys() == ours.keys() and all(back[name].shape == ours[name].shape for name in ours):
        same = [np.array_equal(back[name], ours[name]) for name in ours]
        require(all(same), f"{sum(same)} of {len(same)} parameters came back with their bits")
    return ""


def _trains(random: Random, path: Path, model: Any, params: Any) -> str:
    """Two steps of training from the model have finite losses."""
    import jaxgpt

    jaxgpt.save(path / "model", model)
    ids = _ids(random, model.config)
    count = 3 * model.config.context_length + 4
    odd_files.write_ids(path / "data", np.resize(ids, count), model.config.vocab_size)
    steps = (
        "--train.steps=2",
        "--train.batch_size=2",
        "--train.eval_every=1",
        "--train.sample_tokens=3",
    )
    ended = call(
        "jaxgpt", "train", "--init", path / "model", f"--data.path={path / 'data'}",
        f"--run.dir={path / 'run'}", *steps,
    )  # fmt: skip
    if refusal := refusal_of(ended, (2,)):
        return refusal
    odd_settings.require_sound(path / "run")
    evaluated = call("jaxgpt", "eval", path / "run")
    require("nan" not in evaluated.out, evaluated.out)
    return refusal_of(evaluated, (2,))


SITUATIONS: tuple[Situation, ...] = (
    Situation("sizes", sizes),
    Situation("sizes of two sides", odd_pairs.pairs),
    Situation("weights", odd_files.weights),
    Situation("moments", odd_files.moments),
    Situation("ids in token files", odd_files.token_files),
    Situation("prompts", odd_prompts.prompts),
    Situation("little text", odd_files.little_text),
    Situation("settings", odd_settings.settings_of_a_run),
)
LINES = tuple(situation.name for situation in SITUATIONS)
run: Callable[[Orders], list[Line]] = functools.partial(situations.run, SITUATIONS)
