"""The supply chain: pinned versions, pickles, and the only socket."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxgpt.commands.serve import serve
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import GPT
from jaxgpt.model_config import ModelConfig
from jaxgpt.storage import models
from tests.helpers import ROOT

# Keywords of readers that decide whether a file can run code; ours of the last name is no constant.
RIGHT = {"allow_pickle": False, "trust_remote_code": False, "weights_only": True}
SERVED = """
import sys, threading, os, signal
places = []
sys.addaudithook(lambda event, args: event == "socket.bind" and places.append(args[1]))
sys.argv = ["jaxgpt", "serve", sys.argv[1], *sys.argv[2:]]
from jaxgpt.serving import server
def run(*args):
    print(places, flush=True)
server.run = run
from jaxgpt.__main__ import main
main()
"""


def rows() -> Iterator[list[str]]:
    """The cells of the table of advisories."""
    page = (ROOT / "docs" / "promises.md").read_text().partition("| library | pinned |")[2]
    for line in page.partition("\n\n")[0].split("\n")[2:]:
        yield [cell.strip() for cell in line.strip("| ").split("|")]


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def test_pinned_versions_include_the_fixes() -> None:
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pinned = dict(line.split(";")[0].split("==") for line in lines if "==" in line.split(";")[0])
    table = [*rows()]
    assert len(table) > 5
    for name, version, advisory, fixed, *_ in table:
        assert pinned[name] == version
        assert re.match(r"CVE-\d{4}-\d{4,}, ", advisory)
        if fixed != "not fixed":
            after = fixed.startswith("after ")
            assert numbers(version) > numbers(fixed) or (not after and version == fixed), name


def test_no_module_of_the_project_unpickles() -> None:
    """No module imports a reader of pickles, except the two that parse pickles without running them.

    A writer of pickles may be imported by its name.
    """
    allowed = {"convert/files/ledger.py", "jaxgpt/data/plain_pickle.py"}
    readers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for file in [*(ROOT / "jaxgpt").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        name = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and [n.name for n in node.names] != ["Pickler"]:
                names.append(node.module or "")
            assert name in allowed or not readers & {one.split(".")[0] for one in names}, name
            if isinstance(node, ast.keyword) and node.arg in RIGHT:
                value = node.value.value if isinstance(node.value, ast.Constant) else None
                assert value in (None, RIGHT[node.arg]), f"{name} says {node.arg}={value}"


@pytest.mark.parametrize(
    ("words", "host"), [([], "127.0.0.1"), (["--host", "127.0.0.2"], "127.0.0.2")]
)
def test_serve_listens_only_where_it_was_told_to(
    words: list[str], host: str, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn")
    config = ModelConfig(vocab_size=3, context_length=4, model_dim=4, num_blocks=1, num_heads=1)
    models.save(tmp_path / "model", GPT(config), CharTokenizer("abc"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVED, tmp_path / "model", "--port", "0", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = next(line for line in done.stdout.split("\n") if line.startswith("["))
    assert ast.literal_eval(places) == [(host, 0)]
    assert ("WARNING" in done.stdout) is False
    assert serve.__kwdefaults__ == {**(serve.__kwdefaults__ or {}), "host": "127.0.0.1"}
