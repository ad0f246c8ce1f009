"""Installations: the editable one from any folder, and a wheel in a folder with nothing else."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import jaxgpt
from tests.helpers import PROGRAMS, ROOT, Outcome


def where(names: list[str], folder: Path) -> list[str]:
    """The files that `names` import from in a fresh interpreter started in `folder`."""
    code = "import importlib, json, sys; "
    code += "print(json.dumps([importlib.import_module(n).__file__ for n in sys.argv[1:]]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_folder_named_jaxgpt_does_not_shadow_the_package(tmp_path: Path) -> None:
    """Such as the clone itself, seen from its parent folder."""
    (tmp_path / "jaxgpt").mkdir()
    (tmp_path / "convert").mkdir()
    found = where(["jaxgpt", "convert"], tmp_path)
    assert [file and Path(file).parts[-2:] for file in found] == [
        ("jaxgpt", "__init__.py"),
        ("convert", "__init__.py"),
    ]


def test_a_users_convert_py_does_not_shadow_the_bridge(primes_file: Path, tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("answer = 42")
    done = subprocess.run(
        [sys.executable, PROGRAMS / "shadowed_convert.py", str(primes_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first = "layer_norm_three.bias"
    assert done.stdout.splitlines() == ["1 True 1", f"gpt {first}", "True"]


def test_the_command_runs_even_if_convert_is_shadowed(primes_file: Path, tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("answer = 42")
    code = "import sys; sys.argv[0] = 'jaxgpt-convert'; "
    code += "from jaxgpt.__main__ import convert_main; convert_main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "inspect", str(primes_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dialect     gpt" in done.stdout


def test_both_names_are_one_package_if_not_shadowed() -> None:
    import convert
    from jaxgpt import convert as named

    assert named is convert


def build(source: Path, kind: str, folder: Path) -> Path:
    """The file of `kind`, wheel or sdist, that hatchling builds in `folder` from `source`."""
    line = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(line, cwd=source, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, as an index or a packager does."""
    folder = tmp_path_factory.mktemp("packages")
    with tarfile.open(build(ROOT, "sdist", folder / "sdist")) as sdist:
        sdist.extractall(folder, filter="data")
    return build(folder / f"jaxgpt-{jaxgpt.__version__}", "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*line, str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def in_site(site: Path, folder: Path, *words: str | Path) -> Outcome:
    """Run a command as `site` has it, in `folder`."""
    done = subprocess.run(
        [sys.executable, site / "bin" / words[0], *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_the_wheel_has_all_files_of_the_packages_and_the_presets(wheel: Path) -> None:
    files = {
        str(path.relative_to(ROOT))
        for package in ("jaxgpt", "convert")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"jaxgpt/py.typed", "convert/py.typed"} <= files
    files |= {f"jaxgpt/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files


def test_the_wheel_has_complete_metadata(site: Path) -> None:
    (folder,) = site.glob("*.dist-info")
    installed = PathDistribution(folder)
    about = installed.metadata.json
    assert installed.version == jaxgpt.__version__
    assert about["license_expression"] == "MIT"
    assert about["description"].startswith("# jaxgpt")
    assert about["summary"]
    assert {"JAX", "PyTorch"} <= set(installed.metadata["Keywords"].split(","))
    pythons = [line.rpartition(" ")[2] for line in about["classifier"] if "Python :: 3." in line]
    assert pythons[0] == about["requires_python"].removeprefix(">=")
    assert f"You need Python {pythons[0]} to {pythons[-1]}." in about["description"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {jaxgpt.__version__}" in changelog, "CHANGELOG.md is by release"


def test_a_preset_trains_from_an_installed_wheel(site: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    cut = {"steps": 2, "batch_size": 2, "eval_batches": 1, "sample_tokens": 4}
    options = [f"--train.{name}={value}" for name, value in cut.items()]
    outcome = in_site(site, folder, "jaxgpt", "train", "quickstart", "--data.path", text, *options)
    assert outcome.code == 0, outcome
    assert "step 2/2" in outcome.out
    written = json.loads((folder / "runs" / "quickstart" / "config.json").read_text())
    assert written["model"]["model_dim"] == 120
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_an_installed_wheel_lists_its_presets(site: Path, tmp_path: Path) -> None:
    outcome = in_site(site, tmp_path, "jaxgpt", "train", "quikstart")
    assert outcome.code == 2
    assert "add_norm, dates, gpt2_124m" in outcome.err


def test_the_demo_installs_no_torch(tmp_path: Path) -> None:
    """The default build of torch for Linux brings gigabytes of CUDA libraries."""
    line = ["make", "-n", "demo", f"VENV={tmp_path / 'none'}"]
    done = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True)
    (extras,) = re.findall(r'install .* -e "\.\[([\w,]*)\]"', done.stdout)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        name for extra in extras.split(",") for name in declared["optional-dependencies"][extra]
    ]
    assert needed
    assert not [
        name for name in declared["dependencies"] + needed if "torch" in name or "cuda" in name
    ]
