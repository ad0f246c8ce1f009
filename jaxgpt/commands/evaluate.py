"""jaxgpt eval: the loss of a model over a validation split."""

from jaxgpt.commands.options import Directory, OptionalFile
from jaxgpt.system.stages import working


def evaluate(
    directory: Directory,
    /,
    *,
    data: OptionalFile = None,
    batch_size: int = 32,
    bleu: bool = False,
) -> None:
    """Compute loss, perplexity and bits per byte over the whole validation split.

    For an encoder-decoder: the loss, and how many targets are exactly right.

    Args:
        data: A prepared directory; by default the one that the model was trained on.
        batch_size: Number of windows, or pairs, computed at a time.
        bleu: Also generate the targets of all pairs, and compute their BLEU; needs sacrebleu.
    """
    from jaxgpt.commands.evaluation_line import line
    from jaxgpt.training.evaluate import evaluate as evaluate_model

    with working(f"evaluating {directory}"):
        evaluation = evaluate_model(directory, data, batch_size, bleu)
    print(line(evaluation))
