"""BLEU of the outputs of an encoder-decoder for a validation split."""

from jaxgpt.data.pairs import PairDataset
from jaxgpt.generation.pair import Pair, PairOptions
from jaxgpt.generation.translate import translate
from jaxgpt.optional import need
from jaxgpt.storage.model_directory import ModelDirectory


def bleu(opened: ModelDirectory, dataset: PairDataset) -> str:
    """The BLEU of greedy decoding over the validation split, in sacrebleu's notation."""
    sacrebleu = need("sacrebleu", "--bleu", "leave --bleu out")
    pair, split = Pair(opened, PairOptions()), dataset.val
    pairs = [split[i] for i in range(len(split))]
    sources = [source.tolist() for source, _ in pairs]
    references = [pair.target.decode(target.tolist()) for _, target in pairs]
    written = translate(opened.model(), sources, **pair.target_ids())
    metric = sacrebleu.metrics.BLEU()
    score = metric.corpus_score([pair.target.decode(ids) for ids in written], [references])
    return f"BLEU {score.score:.2f} ({metric.get_signature()})"
