"""The lm-eval model type jaxgpt: log-likelihoods and texts from a model directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from jaxgpt.devices.cpu import make_devices
from jaxgpt.errors import UserError, require
from jaxgpt.generation.batch import Request, make_batch
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.pair import require_decoder
from jaxgpt.generation.stream import NOTHING, stream_batch
from jaxgpt.generation.text import TextCodec, Writer
from jaxgpt.generation.weights import Weights
from jaxgpt.lm_eval.scoring import Scorer
from jaxgpt.model import exactly
from jaxgpt.storage.model_directory import ModelDirectory

ROWS = 8  # the default of --batch_size
NEW_TOKENS = 256  # the default for tasks that do not set a number
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
Pair = tuple[Any, list[int], list[int]]  # (its key, ids of the context, ids to score)


class DirectoryLM(TemplateLM):
    """A decoder from a model directory or run, with its own tokenizer or that in the file
    `tokenizer`."""

    def __init__(
        self,
        path: str = "",
        tokenizer: str | None = None,
        batch_size: int | str = ROWS,
        max_gen_toks: int = NEW_TOKENS,
        **ignored: Any,
    ):
        super().__init__()
        unknown = sorted(ignored.keys() - {"max_batch_size", "device"})
        require(
            not unknown,
            f"--model_args has {', '.join(unknown)}, but jaxgpt takes path, tokenizer and "
            "max_gen_toks.",
        )
        require(bool(path), "--model_args lacks path=DIR, a model directory or a run.")
        make_devices()
        opened = ModelDirectory(path)
        require_decoder(opened)
        codec = TextCodec.of(opened, Path(tokenizer) if tokenizer else None)
        if codec.tokenizer is None:
            raise UserError(f"{path} has no tokenizer: name one as --model_args tokenizer=FILE.")
        self.codec, self.text, self.path = codec, codec.tokenizer, path
        self.config, self.max_gen_toks = opened.config, int(max_gen_toks)
        self.rows, self.max_length = _rows(batch_size), opened.config.context_length
        self.scorer = Scorer(opened.model(), self.rows)

    @property
    def eot_token_id(self) -> int:
        return self.codec.start

    @property
    def tokenizer_name(self) -> str:
        return self.path

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self.codec.encode(string, "strict")

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        texts = []
        for _, context, continuation in requests:
            require(
                0 < len(continuation) <= self.max_length,
                f"A text to score has {len(continuation)} tokens, but must have 1 to "
                f"{self.max_length}, the model's context.",
            )
            texts.append(((context + continuation)[-self.max_length - 1 :], len(continuation)))
        answers = [(score.logprob, score.greedy) for score in self.scorer.score(texts)]
        for (name, _, _), answer in zip(requests, answers, strict=True):
            if name is not None:  # a part of a rolling text has no name
                self.cache_hook.add_partial("loglikelihood", name, answer)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        jobs = [self._job(*request.args) for request in requests]
        # Requests with prompts of similar length are generated together.
        order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i][0].prompts[0]))
        texts: dict[int, str] = {}
        weights = self._weights()
        for begin in range(0, len(order), self.rows):
            batch = order[begin : begin + self.rows]
            texts |= zip(batch, self._generate(weights, [jobs[i] for i in batch]), strict=True)
        for i, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, texts[i])
        return [texts[i] for i in range(len(jobs))]

    def _job(self, prompt: str, settings: dict[str, Any]) -> tuple[Request, list[str]]:
        """The request for `prompt`, cut on the left so that the new tokens fit, and its stops."""
        wanted: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        stops, tokens = wanted.pop("until"), wanted.pop("max_gen_toks")
        wanted.pop("do_sample")
        room = self.max_length - tokens
        require(
            room > 0,
            f"A task asks for {tokens} new tokens, and the model sees {self.max_length} in all: "
            "set fewer with --gen_kwargs max_gen_toks=N.",
        )
        unknown = sorted(wanted.keys() - {*SAMPLING})
        require(not unknown, f"jaxgpt does not know the generation settings {unknown}.")
        ids = self.tok_encode(prompt)[-room:] or [self.prefix_token_id]
        limits = self.codec.limits(self.config.vocab_size)
        options = SampleOptions(tokens, on_full="stop", **{"temperature": 0.0, **wanted}, **limits)
        return Request([ids], options), stops

    def _generate(self, weights: Weights, jobs: list[tuple[Request, list[str]]]) -> list[str]:
        """The texts of one batch, each up to the first of its stops."""
        filler = Request(jobs[0][0].prompts, SampleOptions(1, **_shared(jobs[0][0].options)))
        requests = [request for request, _ in jobs] + [filler] * (self.rows - len(jobs))
        writers, texts = [Writer(self.codec, []) for _ in jobs], [""] * len(jobs)
        for piece in stream_batch(weights, make_batch(requests, self.config)):
            for i, (writer, ids) in enumerate(zip(writers, piece.ids, strict=False)):
                texts[i] += writer.add(ids[ids != NOTHING])
            stopped = [any(stop in text for stop in job[1]) for job, text in _zip(jobs, texts)]
            ended = piece.ids[: len(jobs), -1] == NOTHING
            if np.logical_or(stopped, ended).all():
                break
        texts = [text + writer.end() for text, writer in _zip(texts, writers)]
        return [postprocess_generated_text(text, job[1], None) for text, job in _zip(texts, jobs)]

    def _weights(self) -> Weights:
        model = self.scorer.model
        with exactly(model.dtype):
            return Weights.prepare(model, model.dtype)


def _zip(first: Sequence[Any], second: Sequence[Any]) -> Any:
    return zip(first, second, strict=True)


def _shared(options: SampleOptions) -> dict[str, Any]:
    return {"stop_ids": options.stop_ids, "on_full": "stop", "allowed": options.allowed}


def _rows(batch_size: int | str) -> int:
    """The number of rows that --batch_size asks for."""
    valid = str(batch_size).isdecimal() and int(batch_size) > 0
    require(valid, f"--batch_size must be a whole number for jaxgpt, but is {batch_size!r}.")
    return int(batch_size)
