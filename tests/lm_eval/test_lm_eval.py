"""Tasks on local data, run by lm-eval's own command: our scores and texts equal those of its `hf`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.bpe import train_bpe
from jaxgpt.errors import UserError
from jaxgpt.model import params_of
from jaxgpt.storage import model_directory
from tests.helpers import ROOT, TEXT, random_model

SIZES = {"vocab_size": 280, "context_length": 48, "model_dim": 32, "num_blocks": 2, "num_heads": 4}
LONG = " ".join(f"{i} woodchucks chuck" for i in range(40))  # more than the context
ROWS = [
    {"question": "How much wood?", "choices": ["all of it", "a chuck", "x"], "answer": 1},
    {"question": LONG, "choices": ["if it could ", "chuck"], "answer": 0},
    {"question": "Would a woodchuck", "choices": ["chuck wood?", "", "How much"][::2], "answer": 0},
    {"question": "", "choices": ["wood", "could"], "answer": 1},
]
COMMON = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1}}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "texts": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}} wood",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["ck", " w"], "max_gen_toks": 20, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, task in TASKS.items():
        files = {"data_files": {"test": str(folder / "data.jsonl")}}
        content = {"task": name, **COMMON, **task, "dataset_kwargs": files}
        (folder / f"{name}.yaml").write_text(json.dumps(content))  # which YAML contains
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that transformers' GPT-2 can be, with a byte-pair tokenizer."""
    fields = {"activation": "gelu_tanh", "tied": True, "head_bias": False, "qkv_bias": True}
    random = random_model("float64", **SIZES, **fields)
    tokenizer = train_bpe(iter([TEXT]), 280)
    assert tokenizer.vocab_size <= 280
    folder = tmp_path_factory.mktemp("model") / "gpt2"
    config = ModelConfig(**SIZES, **fields, dropout=0.0)  # type: ignore[arg-type]
    model_directory.save(folder, config, params_of(random), tokenizer=tokenizer)
    return folder


# `python -m MODULE WORDS` for each of several modules, in one process.
RUNS = """
import json, runpy, sys
for module, *sys.argv[1:] in json.loads(sys.argv[1]):
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def evaluated(
    tasks: Path, out: Path, **commands: tuple[str, list[str]]
) -> list[dict[str, list[Any]]]:
    """The responses of each model to each document of each task, by name.

    A command is a module and its words. lm-eval forks, which jax forbids once it has computed, so a
    model of jax comes last.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(out / "cache"),
    }
    common = ["--tasks", ",".join(TASKS), "--include_path", str(tasks), "--log_samples"]
    common += ["--batch_size", "3", "--output_path"]
    runs = [
        [module, "--model", model, *words, *common, str(out / model)]
        for model, (module, words) in commands.items()
    ]
    command = [sys.executable, "-c", RUNS, json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [responses(out / model) for model in commands]


def responses(out: Path) -> dict[str, list[Any]]:
    """The responses in the files of an evaluation, by the name of the task."""
    found = {}
    for name in TASKS:
        (file,) = out.rglob(f"samples_{name}_*.jsonl")
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row["doc_id"])
        found[name] = [row["resps"] for row in rows]
    return found


def test_scores_and_texts_equal_those_of_lm_evals_hf_model(
    tasks: Path, model: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    outcome = command("jaxgpt-convert", "to-torch", model, tmp_path / "hf", "--dialect", "gpt2")
    assert outcome.code == 0, outcome
    hf = f"pretrained={tmp_path / 'hf'},dtype=float64"
    theirs, ours = evaluated(
        tasks,
        tmp_path,
        hf=("lm_eval", ["--model_args", hf, "--device", "cpu"]),
        jaxgpt=("jaxgpt.lm_eval", ["--model_args", f"path={model}"]),
    )
    assert ours["texts"] == theirs["texts"]
    assert len({json.dumps(text) for text in ours["texts"]}) > 1
    for name in ("choices", "rolling"):
        np.testing.assert_allclose(numbers(ours[name]), numbers(theirs[name]), atol=1e-5, rtol=0)
    assert [flags(row) for row in ours["choices"]] == [flags(row) for row in theirs["choices"]]
    # The long texts have windows of their own, and a choice after a long question sees its end.
    assert len(numbers(ours["rolling"])) == 4
    assert len(numbers(ours["choices"])) == 9


def numbers(responses: Any) -> list[float]:
    """The log-likelihoods in `responses`, which may be pairs of one and a flag."""
    return [float(np.ravel(answer)[0]) for row in responses for answer in row]


def flags(row: Any) -> list[str]:
    """Whether each answer in a row of `responses` is the greedy one."""
    return [str(np.ravel(answer)[-1]) for answer in row]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"path": "no/such"}, "no/such is not a directory"),
        ({"path": "MODEL", "revision": "x"}, "--model_args has revision, but jaxgpt takes path"),
        ({"pretrained": "MODEL"}, "--model_args has pretrained, but jaxgpt takes path"),
        ({}, "--model_args lacks path=DIR"),
        ({"path": "MODEL", "batch_size": "auto"}, "--batch_size must be a whole number"),
    ],
    ids=["path", "argument", "hf", "nothing", "batch"],
)
def test_unsupported_requests_are_refused(words: dict[str, str], said: str, model: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from jaxgpt.lm_eval.model import DirectoryLM

    with pytest.raises(UserError, match=said):
        DirectoryLM(**{name: value.replace("MODEL", str(model)) for name, value in words.items()})


def test_a_long_continuation_and_a_long_text_are_refused(model: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from lm_eval.api.instance import Instance

    from jaxgpt.lm_eval.model import DirectoryLM

    lm = DirectoryLM(str(model))
    with pytest.raises(UserError, match="but must have 1 to 48"):
        lm.loglikelihood([Instance("loglikelihood", {}, ("a", LONG), 0)])
    with pytest.raises(UserError, match="asks for 48 new tokens, and the model sees 48"):
        lm.generate_until([Instance("generate_until", {}, ("a", {"max_gen_toks": 48}), 0)])
    with pytest.raises(UserError, match="does not know the generation settings"):
        lm.generate_until(
            [Instance("generate_until", {}, ("a", {"max_gen_toks": 9, "typical_p": 1}), 0)]
        )


def test_a_missing_lm_eval_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jaxgpt.lm_eval.__main__ import main

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "python -m jaxgpt.lm_eval needs lm_eval, which cannot be imported" in said
    assert said.count("\n") == 1
