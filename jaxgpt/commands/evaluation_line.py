"""The line that `jaxgpt eval` prints."""

import math

from jaxgpt.data.tokens import Dataset
from jaxgpt.training.evaluate import Evaluation


def line(evaluation: Evaluation) -> str:
    """The figures of `evaluation`, and the split that they were computed on."""
    loss, dataset = evaluation.loss, evaluation.dataset
    text = f"{evaluation.model}: loss {loss:.4f}"
    if not isinstance(dataset, Dataset):
        text += (
            f" per target token, {evaluation.exact_match:.2%} of the targets exactly right, over "
            f"the whole validation split, {len(dataset.val):,} pairs of {dataset.path}"
        )
        return f"{text}; {evaluation.bleu}" if evaluation.bleu else text
    perplexity = f"perplexity {math.exp(min(loss, 700)):.3f}"
    if dataset.examples is not None:
        return (
            f"{text} per token of the answers, {perplexity}, over the whole validation split, "
            f"{len(dataset.examples['val']):,} examples of {dataset.path}"
        )
    tokens = len(dataset.val)
    per_byte = ""
    if dataset.val_bytes:  # known for text, but not for ids alone
        bits = loss / math.log(2) * (tokens - 1) / dataset.val_bytes
        per_byte = f", bits per byte {bits:.4f}"
    return (
        f"{text}, {perplexity}{per_byte} over the whole validation split, {tokens:,} tokens of "
        f"{dataset.path}"
    )
