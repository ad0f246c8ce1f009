"""The README and docs/ are true: commands and examples run, in order, and print what the page shows.

A page's blocks run in one empty folder. `sh` blocks hold commands, `console` blocks commands with
what they print, and a `text` block titled "Output" is what the Python block before it prints. A line
`...` stands for omitted lines, and `...` within a line for the rest of it. Training is cut to a few
steps, so measured figures are not compared; words, names and whole numbers are.
"""

import contextlib
import functools
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pytest

from tests.helpers import ROOT, Outcome

README = ROOT / "README.md"
PAGES = {str(file.relative_to(ROOT)): file for file in [README, *ROOT.glob("docs/**/*.md")]}
RUNS = {name: f"jaxgpt train {name}" for name in ("quickstart", "dates")}
SHORT = {"steps": 4, "batch_size": 2, "eval_batches": 2, "sample_tokens": 0, "log_every": 2}
# Figures that the machine, the number of steps, or the text that comes with this Python decides.
SERVED = "127.0.0.1:8000"  # where pages say that `jaxgpt serve` is; in tests it has a free port
MEASURED = re.compile(
    r"\d[\d,]*/\d+|step-\d+|\d+(?= x cpu)|\d+:\d\d"  # steps, devices, time
    r"|\d[\d,]*(?:\.\d+)?e[-+]\d+|\d[\d,]*\.\d+"  # numbers that are not whole
    r"|\d[\d,]*,\d{3}|\b10[34]\b"  # parameters, tokens and characters
    r"|\d+(?= (?:tokens/s|s|B|KB|MB|steps)\b)"
)


class Command(NamedTuple):
    """A command of a page."""

    line: str
    shown: str  # of its output
    code: int  # with which it ends, as a comment says, or `echo $?` after it

    @property
    def words(self) -> list[str]:
        """Its words, with training cut short where the page does not say how long it is."""
        words = shlex.split(self.line, comments=True)
        if words[:2] == ["jaxgpt", "train"]:
            cut = {f"--train.{name}": value for name, value in SHORT.items()}
            words += [f"{name}={value}" for name, value in cut.items() if name not in words]
        return words


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[Command]:
        """Its commands; a backslash joins lines."""
        text = self.text.replace("\\\n", " ")
        if self.language == "sh":
            parts = [(line, "", "...") for line in text.splitlines() if line.strip()]
        elif self.language == "console":
            parts = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.M)[1:]]
        else:
            return []
        codes = [shown if line == "echo $?" else "" for line, _, shown in parts[1:]] + [""]
        said = [re.search(r"# exit code (\d)", line) for line, _, _ in parts]
        return [
            Command(line, shown, int(comment[1] if comment else after or 0))
            for (line, _, shown), comment, after in zip(parts, said, codes, strict=True)
        ]


def blocks(page: Path) -> list[Block]:
    fence = re.compile(r'^```(\w*)(?: title="(.*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    return [Block(*match.groups(default="")) for match in fence.finditer(page.read_text())]


def shape(text: str) -> list[str]:
    """The lines of `text` without measured figures, blank lines, and spaces that align columns."""
    lines = (" ".join(MEASURED.sub("#", line).split()) for line in text.splitlines())
    return [line for line in lines if line]


def pattern(shown: str) -> str:
    """A regular expression for the output that a page shows."""
    lines = (
        "(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in shape(shown)
    )
    return "".join(lines)


def require_shown(shown: str, printed: str, where: str) -> None:
    text = "".join(line + "\n" for line in shape(printed))
    assert re.fullmatch(pattern(shown), text), f"{where} shows\n{shown}\nbut got\n{printed}"


class Trained(NamedTuple):
    """A run of RUNS after a few steps."""

    run: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """A function from a name in RUNS to what its command made and printed, once for all pages."""
    from jaxgpt.__main__ import main

    @functools.cache
    def run_of(name: str) -> Trained:
        run, out, err = tmp_path_factory.mktemp(name) / "run", io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(SystemExit) as stop,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", [*Command(RUNS[name], "", 0).words, f"--run.dir={run}"])
            main()
        assert stop.value.code == 0
        return Trained(run, Outcome(0, out.getvalue(), err.getvalue()))

    return run_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with what the pages use of a clone."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@contextlib.contextmanager
def serving(one: Command, where: str) -> Iterator[str]:
    """Run `jaxgpt serve` until the page ends; yield the host and port that it listens at."""
    words = [sys.executable, "-m", *one.words, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            address = re.search(r"127\.0\.0\.1:\d+", line)
            assert address, line
            require_shown(one.shown, line.replace(address[0], SERVED), where)
            yield address[0]
        finally:
            process.terminate()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_does_what_it_says(
    name: str,
    folder: Path,
    trained: Callable[[str], Trained],
    command: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    page = blocks(PAGES[name])
    text = "".join(block.text for block in page if block.language == "python" or block.commands)
    if "torch" in text:
        pytest.importorskip("torch", reason="torch is not installed")
    if "jaxgpt serve" in text:
        pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    for run in RUNS:
        if f"runs/{run}" in text:
            shutil.copytree(trained(run).run, folder / "runs" / run)
    known = {line: name for name, line in RUNS.items()}
    scope: dict[str, Any] = {}
    printed = address = ""
    servers = contextlib.ExitStack()
    request.addfinalizer(servers.close)
    for block in page:
        for one in block.commands:
            if one.words[:2] == ["jaxgpt", "serve"]:
                address = servers.enter_context(serving(one, f"{name}: {one.line}"))
            elif one.words[0] == "curl" and shutil.which("curl"):
                words = [word.replace(SERVED, address) for word in one.words]
                answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                require_shown(one.shown, answer, f"{name}: {one.line}")
            elif one.words[0] in ("jaxgpt", "jaxgpt-convert"):
                done = known.get(one.line)
                outcome = trained(done).outcome if done else command(*one.words)
                hardly_trained = one.words[1] in ("sample", "probe")  # noise, and nothing fits
                wanted = 3 if one.words[1] == "probe" else one.code
                assert outcome.code == wanted, (one.line, outcome)
                if not hardly_trained:
                    require_shown(one.shown, outcome.out + outcome.err, f"{name}: {one.line}")
        if block.language == "python":
            exec(compile(block.text, name, "exec"), scope)
            printed = capsys.readouterr().out
        elif block.title == "Output":
            require_shown(block.text, printed, name)
    written = {path.name for path in folder.iterdir()} - {"configs", "README.md"}
    assert written <= {"runs"}, f"{name} writes {written}; .gitignore knows runs/ only"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_names_what_exists(name: str) -> None:
    from jaxgpt.settings import sections_of_a_run

    text = PAGES[name].read_text()
    sections = sections_of_a_run()
    for section, field in re.findall(r"--([a-z]+)\.([a-z_-]+)", text):
        if section != "SECTION":
            assert field.replace("-", "_") in get_type_hints(sections[section]), field
    for path in re.findall(r"\b(?:jaxgpt|convert|tests|configs|docs)/[\w./-]*\w", text):
        assert "NAME" in path or (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!#)([^)#]+)", text):
        assert (PAGES[name].parent / link).exists(), link


def test_the_files_and_names_of_where_to_change_exist() -> None:
    rows = re.findall(
        r"^\| .* \| (.*) \| (.*) \|$", PAGES["docs/where-to-change.md"].read_text(), re.M
    )
    places = {name: re.findall(r"`([^`]+)`", files) for files, name in rows if "`" in name}
    assert len(places) >= 25
    for name, files in places.items():
        assert all((ROOT / file).is_file() for file in files), files
        assert re.search(rf"\b{name.strip('`')}\b", (ROOT / files[0]).read_text()), (name, files)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, page in PAGES.items():
        for target in re.findall(r"`make (\w+)", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: {target}"


def test_the_readme_is_short() -> None:
    assert README.read_text().count("\n") <= 180


def test_the_tree_in_the_readme_matches_the_folders() -> None:
    (tree,) = (block.text for block in blocks(README) if block.text.startswith("jaxgpt/"))
    folder, listed = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        listed.add(folder + name if line.startswith(" ") else name)
    folders = {"jaxgpt/", "convert/", "configs/", "docs/", "tests/"}
    for package in ("jaxgpt", "convert"):
        folders |= {f"{package}/{path.parent.name}/" for path in (ROOT / package).glob("*/*.py")}
    assert {name for name in listed if name.endswith("/")} == folders
    assert all((ROOT / name).exists() for name in listed)


def test_the_tables_of_dialects_match_the_registry() -> None:
    from convert.dialect_tables import architecture_table, dialect_table, pair_table

    page = (ROOT / "docs" / "bridge.md").read_text()
    assert dialect_table() in page
    assert architecture_table() in page
    assert pair_table() in page


def test_every_public_name_has_an_entry_in_the_api_pages() -> None:
    import convert
    import jaxgpt

    for package in (jaxgpt, convert):
        page = (ROOT / "docs" / "api" / f"{package.__name__}.md").read_text()
        entries = set(re.findall(rf"^::: {package.__name__}\.(\w+)$", page, re.MULTILINE))
        assert entries == set(package.__all__) - {"convert"}


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(f"docs/{page}" for page in listed) == sorted(PAGES.keys() - {"README.md"})


def test_dialects_are_small_files() -> None:
    """A file for several classes with nearly the same names may have that many lines for each."""
    for file in (ROOT / "convert" / "dialects").glob("*.py"):
        name = file.stem.replace("__init__", "gpt")
        module = importlib.import_module(f"convert.dialects.{name}")
        classes = len([*getattr(module, "DIALECTS", ()), *getattr(module, "PAIRS", ())])
        assert len(file.read_text().splitlines()) <= 60 * classes, file
