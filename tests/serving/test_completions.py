"""What the server answers: texts equal to those of `jaxgpt sample`, and refusals."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.tokenizer import ByteTokenizer, CharTokenizer
from jaxgpt.generation.stream import NOTHING
from jaxgpt.generation.text import TextCodec
from jaxgpt.serving.choice import Choice
from tests.serving.conftest import CONTEXT, HEADERS, LETTERS, Running, ask

ABC = {"prompt": "abc", "max_tokens": 40, "temperature": 0.8, "seed": 5}


def sampled(command: Callable[..., Any], model: Path, **options: Any) -> str:
    """The new text that `jaxgpt sample` writes after its prompt."""
    words = [f"--{name}={value}" for name, value in options.items()]
    outcome = command("jaxgpt", "sample", model, "--on-full", "stop", *words)
    assert outcome.code == 0, outcome
    return outcome.out.removeprefix(options["prompt"]).removesuffix("\n")


@pytest.mark.parametrize("temperature", [0, 0.8, 1.5])
def test_streamed_and_whole_texts_are_those_of_sample(
    temperature: float, served: Running, model: Path, command: Callable[..., Any]
) -> None:
    expected = sampled(command, model, prompt="abc", tokens=40, temperature=temperature, seed=5)
    request = {**ABC, "temperature": temperature}
    whole = ask(served.port, request)
    assert whole.status == 200
    assert whole.json["object"] == "text_completion"
    assert whole.json["model"] == "letters"
    (choice,) = whole.json["choices"]
    assert choice == {"text": expected, "index": 0, "logprobs": None, "finish_reason": "length"}
    assert whole.json["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 40,
        "total_tokens": 43,
    }
    streamed = ask(served.port, {**request, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    parts = [event["choices"][0] for event in streamed.events]
    assert len(parts) > 3
    assert "".join(part["text"] for part in parts) == expected
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["length"]


def test_a_text_does_not_depend_on_the_rest_of_its_batch(
    start: Callable[..., Any], model: Path
) -> None:
    """The others differ in length, temperature, truncation and seed; all wait when the batch begins."""
    others = [
        {"prompt": "a" * length, "max_tokens": tokens, "temperature": t, "seed": s, "top_p": p}
        for length, tokens, t, s, p in [
            (1, 50, 2.0, 5, 1.0),
            (40, 9, 0.0, 1, 1.0),
            (17, 24, 0.5, 5, 0.7),
            (60, 1, 1.0, 2, 0.9),
        ]
    ]
    requests = [ABC, *others, {**ABC, "n": 3, "seed": 6}, {**ABC, "prompt": [[1, 2, 3], [4]]}]
    with start(model) as running, ThreadPoolExecutor(len(requests)) as pool:
        alone = [ask(running.port, request).json for request in requests]
        with running.busy() as sizes:
            futures = [pool.submit(ask, running.port, request) for request in requests]
            running.wait_for_queue(len(requests))
        together = [future.result().json for future in futures]
    assert sizes == [1, len(requests)]
    for one, other in zip(alone, together, strict=True):
        assert one["choices"] == other["choices"]
        assert one["usage"] == other["usage"]


def test_several_prompts_and_texts_are_in_order_and_their_tokens_counted(
    served: Running, model: Path, command: Callable[..., Any]
) -> None:
    request = {"prompt": ["ab", "cde"], "n": 2, "max_tokens": 9, "seed": 3, "temperature": 0.8}
    answer = ask(served.port, request).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 4 * 9
    assert answer["choices"][0]["text"] == sampled(
        command, model, prompt="ab", tokens=9, temperature=0.8, seed=3
    )
    ids = ask(served.port, {**request, "prompt": [[1, 2], [3, 4, 5]]}).json
    assert ids["choices"] == answer["choices"]


def test_a_stop_ends_a_text_and_is_not_written_even_across_pieces(
    served: Running, model: Path, command: Callable[..., Any]
) -> None:
    whole = ask(served.port, ABC).json["choices"][0]["text"]
    for length in (1, 2, 5):
        for begin in (1, 3, 4, 14, 30):  # pieces end after 1, 3, 7, 15 and 31 tokens
            stop = whole[begin : begin + length]
            place = whole.index(stop)
            for stream in (False, True):
                answer = ask(served.port, {**ABC, "stop": [stop, "zz"], "stream": stream})
                parts = (
                    [e["choices"][0] for e in answer.events] if stream else (answer.json["choices"])
                )
                assert "".join(part["text"] for part in parts) == whole[:place]
                assert parts[-1]["finish_reason"] == "stop"
                if not stream:
                    used = answer.json["usage"]["completion_tokens"]
                    assert used == place + length  # one token is one character


def test_usage_comes_with_a_stream_that_asks_for_it(served: Running) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = ask(served.port, {**ABC, **options}).events
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}


def test_logprobs_are_those_of_the_chosen_tokens(served: Running, model: Path) -> None:
    import jaxgpt
    from jaxgpt.generation.score import score

    answer = ask(served.port, {**ABC, "logprobs": 0}).json["choices"][0]
    logprobs = answer["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["text"]
    assert logprobs["text_offset"] == list(range(40))
    ids = [LETTERS.index(c) for c in "abc" + answer["text"]]
    scores = score(jaxgpt.load(model), [ids])[0, 2:]
    np.testing.assert_allclose(logprobs["token_logprobs"], scores, atol=1e-4)
    streamed = ask(served.port, {**ABC, "logprobs": 0, "stream": True}).events
    parts = [event["choices"][0]["logprobs"]["tokens"] for event in streamed]
    assert [token for part in parts for token in part] == logprobs["tokens"]


def test_a_text_ends_when_the_context_is_full(served: Running) -> None:
    answer = ask(served.port, {"prompt": "a" * CONTEXT, "max_tokens": 9}).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1


def test_without_a_seed_texts_differ(served: Running) -> None:
    texts = {ask(served.port, {"prompt": "a", "max_tokens": 40}).text for _ in range(3)}
    choices = {json.loads(text)["choices"][0]["text"] for text in texts}
    assert len(choices) == 3


WRONG: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', 400, "not JSON"),
    "nested": (b"[" * 100_000, 400, "not JSON"),
    "NaN": (b'{"prompt": "a", "temperature": NaN}', 400, "NaN is not JSON"),
    "infinite": (b'{"prompt": "a", "temperature": 1e999}', 400, "temperature must be"),
    "huge": (b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    "a list": ([], 400, "must be a JSON object"),
    "no prompt": ({}, 400, "prompt is missing"),
    "null prompt": ({"prompt": None}, 400, "prompt is missing"),
    "number prompt": ({"prompt": 1.5}, 400, "prompt must be"),
    "mixed prompts": ({"prompt": ["a", [1]]}, 400, "prompt must be"),
    "no prompts": ({"prompt": []}, 400, "There are 0 prompts"),
    "empty ids": ({"prompt": [[]]}, 400, "prompt must be"),
    "many prompts": ({"prompt": ["a"] * 17}, 400, "There are 17 prompts"),
    "many texts": ({"prompt": ["a"] * 4, "n": 5}, 400, "are 20 texts"),
    "long prompt": ({"prompt": "a" * 65}, 400, "has 65 tokens, and the model sees at most 64"),
    "unknown letter": ({"prompt": "xyz"}, 400, "'x' (U+0078)"),
    "half a pair": (b'{"prompt": "\\ud800"}', 400, "does not know"),
    "ids beyond": ({"prompt": [3, 12]}, 400, "no id 12: a prompt must be ids from 0 to 11"),
    "ids below": ({"prompt": [-1]}, 400, "ids from 0 to 11"),
    "huge id": ({"prompt": [10**30]}, 400, "ids from 0 to 11"),
    "true as an id": ({"prompt": [True]}, 400, "prompt must be"),
    "many tokens": ({"prompt": "a", "max_tokens": 1025}, 400, "from 1 to 1024, but is 1025."),
    "no tokens": ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be"),
    "half a token": ({"prompt": "a", "max_tokens": 1.5}, 400, "max_tokens must be"),
    "hot": ({"prompt": "a", "temperature": 2.1}, 400, "temperature must be"),
    "cold": ({"prompt": "a", "temperature": -1}, 400, "temperature must be"),
    "text as a number": ({"prompt": "a", "temperature": "1"}, 400, 'but is "1".'),
    "top_p": ({"prompt": "a", "top_p": 0}, 400, "top_p must be"),
    "n": ({"prompt": "a", "n": 17}, 400, "n must be"),
    "seed": ({"prompt": "a", "seed": 2**32}, 400, "seed must be"),
    "stops": ({"prompt": "a", "stop": ["a"] * 5}, 400, "stop must be"),
    "empty stop": ({"prompt": "a", "stop": ""}, 400, "stop must be"),
    "long stop": ({"prompt": "a", "stop": "a" * 201}, 400, "stop must be"),
    "stream": ({"prompt": "a", "stream": 1}, 400, "stream must be true or false"),
    "stream_options": ({"prompt": "a", "stream_options": {"x": 1}}, 400, "include_usage"),
    "logprobs": ({"prompt": "a", "logprobs": 5}, 400, "logprobs must be 0"),
    "echo": ({"prompt": "a", "echo": True}, 400, "echo is not supported"),
    "best_of": ({"prompt": "a", "best_of": 2}, 400, "best_of is not supported"),
    "penalty": ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty is not"),
    "unknown": ({"prompt": "a", "max_token": 5}, 400, "Did you mean max_tokens?"),
    "model": ({"prompt": "a", "model": "gpt-9"}, 404, "this server has 'letters'"),
    "large": (b'{"prompt": "' + b"a" * 2**20 + b'"}', 413, "may have at most 1048576 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_as_by_openais_api(name: str, served: Running) -> None:
    body, status, message = WRONG[name]
    reply = ask(served.port, body)
    assert reply.status == status, reply
    error = reply.json["error"]
    assert message in error["message"], error
    assert error["type"] == "invalid_request_error"
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(error["message"]) < 500


def test_fields_with_values_that_change_nothing_are_accepted(served: Running) -> None:
    neutral = {
        "model": "letters",
        "best_of": 1,
        "echo": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "suffix": None,
        "user": "me",
        "stop": None,
        "logprobs": None,
    }
    assert (
        ask(served.port, {**ABC, **neutral}).json["choices"]
        == (ask(served.port, ABC).json["choices"])
    )


def test_other_paths_methods_hosts_and_types_are_refused(served: Running) -> None:
    def get(path: str, **headers: str) -> Any:
        return ask(served.port, None, path=path, headers=headers, method="GET")

    assert get("/health").json == {"status": "ok", "waiting": 0}
    (listed,) = get("/v1/models").json["data"]
    assert (listed["id"], listed["context_length"]) == ("letters", CONTEXT)
    page = get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/nix", "/../../etc/passwd", "/%2e%2e/page.html", "/page.html"):
        assert get(path).status == 404
        assert "POST /v1/completions" in get(path).json["error"]["message"]
    assert get("/v1/completions").status == 405
    # A page of another site: by a name that is this computer's address, or without asking first.
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[", ""):
        assert get("/health", Host=host).json["error"]["code"] == "wrong_host", host
    for host in ("localhost", f"127.0.0.1:{served.port}", "[::1]:80", "LOCALHOST:8000"):
        assert get("/health", Host=host).status == 200, host
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        assert ask(served.port, ABC, headers={"Content-Type": kind}).status == 415
    assert ask(served.port, ABC, headers={**HEADERS, "Origin": "https://x.example"}).status == 200
    allowed = ask(served.port, ABC).headers.keys()
    assert not [name for name in allowed if name.lower().startswith("access-control")]


TEXT = "größer als 😀, größer als 🎉! " * 20


@pytest.mark.parametrize(
    "tokenizer",
    [CharTokenizer(sorted({*TEXT})), ByteTokenizer(), train_bpe(iter([TEXT]), 270)],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_choice_ends_where_its_stop_begins(tokenizer: Any, size: int, tmp_path: Path) -> None:
    """However text is split into pieces, and characters into tokens."""
    codec = TextCodec(tokenizer, tmp_path)
    ids = np.concatenate([tokenizer.encode(TEXT[:40]), [NOTHING] * 60])
    for stops, expected, reason in (
        ([], TEXT[:40], "length"),
        (["😀, g"], TEXT[: TEXT.index("😀")], "stop"),
        (["ß", "als"], "grö", "stop"),
        (["🎉? "], TEXT[:40], "length"),
    ):
        limit = len(tokenizer.encode(TEXT[:40]))
        choice, texts, offsets = Choice(0, codec, stops, limit), [], []
        for begin in range(0, len(ids), size):
            part = ids[begin : begin + size]
            texts.append(choice.add(part, np.zeros(len(part))))
            offsets += choice.logprobs()["text_offset"]
        assert "".join(texts) == expected
        assert choice.finish_reason == reason
        assert offsets == sorted(offsets)
        assert all(offset < len(expected) for offset in offsets)
        if reason == "length":
            assert choice.tokens == limit
