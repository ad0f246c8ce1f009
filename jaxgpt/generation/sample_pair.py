"""The work of `jaxgpt sample` for an encoder-decoder: a text for each source, on a line each."""

import time
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.devices.cpu import make_devices
from jaxgpt.errors import UserError
from jaxgpt.generation.beam import Beams
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.pair import Pair, PairOptions, require_pair
from jaxgpt.generation.sample import Clock
from jaxgpt.generation.translate import translate
from jaxgpt.model.quantized import with_weights
from jaxgpt.storage.model_directory import ModelDirectory

# The fields of SampleOptions that an encoder-decoder takes.
FIELDS = (
    "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "samples", "context"
)  # fmt: skip


def sample_pair(
    directory: Path,
    sources: Sequence[str],
    options: SampleOptions,
    beams: Beams,
    pair_options: PairOptions,
) -> str:
    """Print what the encoder-decoder in `directory` writes for `sources`; return the speed."""
    make_devices()
    opened = ModelDirectory(directory)
    require_pair(opened)
    pair = Pair(opened, pair_options)
    rows = pair.encode(sources)
    texts = translate(
        with_weights(opened.model(), pair_options.weights),
        rows,
        beams=beams.count,
        length_penalty=beams.length_penalty,
        **pair.target_ids(),
        **{name: getattr(options, name) for name in FIELDS},
    )
    count, tokens = 0, 0
    with Clock() as clock:
        for text in texts:
            count, tokens = count + 1, tokens + len(text)
            print(pair.target.decode(text).replace("\n", " "), flush=True)  # one line for each
        seconds = time.perf_counter() - clock.started - clock.compiling
    return (
        f"texts: {count}, tokens: {tokens}; compiling took {clock.compiling:.2f} s, the rest "
        f"{seconds:.3f} s: {tokens / seconds:,.0f} tokens/s"
    )


def require_unused(**options: object) -> None:
    """Refuse options of decoders, by name, where there is a source."""
    for name, value in options.items():
        if value:
            raise UserError(
                f"--{name.replace('_', '-')} is for decoders; with --source the text is the "
                "encoder-decoder's own: leave it out."
            )
