"""The verdicts of `verify`, by the class that ran and by how each field is known."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import api, to_flax  # noqa: E402
from convert.commands import verify_page  # noqa: E402
from convert.commands.to_flax import class_to_name  # noqa: E402
from convert.probing.candidates import OPTIONS  # noqa: E402
from convert.proving import alternatives  # noqa: E402
from convert.proving.verdict import Verification  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.storage import model_directory  # noqa: E402
from jaxgpt.training.run import train  # noqa: E402
from tests.classes import disguised, unseen  # noqa: E402
from tests.helpers import INVISIBLE, PRIMES, TEXT, settings  # noqa: E402
from tests.zoo import FACTS, SOUND, ZOO, given, needs_zoo, path_of  # noqa: E402

UNSEEN = Path(unseen.__file__)
OWN = "convert.reference:GPT"
ALL_GIVEN = {
    "norm": "pre",
    "final_norm": True,
    "activation": "relu",
    "attention_scale": "head_dim",
    "attention_scale_by_layer": False,
    "norm_eps": 1e-5,
    **INVISIBLE,
}
ASSUMED = {*ALL_GIVEN}


def randomised(module: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn_like(value)
            if value.ndim == 2:
                value.copy_(noise * value.shape[1] ** -0.5)
            else:
                value.copy_(noise * 0.1 + name.endswith("weight"))
    return module


def saved(name: str, folder: Path, **sizes: int) -> Path:
    """A file of the class `name` in unseen.py, random in every tensor."""
    module = randomised(getattr(unseen, name)(**{**PRIMES, **sizes}))
    torch.save(module.state_dict(), folder / f"{name}.pt")
    return folder / f"{name}.pt"


def converted(file: Path, **how: Any) -> Path:
    to_flax(file, **how).save(file.with_suffix(""))
    return file.with_suffix("")


WRONG: dict[str, dict[str, Any]] = {
    "Gelu": {},
    "Scaled": {},
    "Rotary": {"dialect": "heads", "context_length": 17, "positions": "sinusoidal"},
}


@pytest.mark.usefixtures("without_advice")
@pytest.mark.parametrize("name", WRONG)
def test_assumed_fields_stay_unproven_without_a_class(
    name: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    file = saved(name, tmp_path)
    model = converted(file, **WRONG[name])
    outcome = command("jaxgpt-convert", "verify", file, model)
    assert outcome.code == 4
    assert outcome.out.startswith("UNPROVEN: equal under these assumptions: ")
    assert "activation = relu" in outcome.out.splitlines()[0]
    allowed = command("jaxgpt-convert", "verify", file, model, "--allow-assumed", "--json")
    assert allowed.code == 0
    found = json.loads(allowed.out)
    assert found["verdict"] == "unproven"
    assert found["assumed"].keys() >= ASSUMED
    named = ["--allow-assumed", "--torch", f"{UNSEEN}:{name}"]
    outcome = command("jaxgpt-convert", "verify", file, model, *named)
    assert outcome.code == 3
    assert outcome.out.startswith("The two DIFFER")


@needs_zoo
@pytest.mark.parametrize("name", [name for name in SOUND if not name.startswith("hf-")])
def test_a_foreign_file_with_a_wrong_assumption_is_never_proven(name: str, tmp_path: Path) -> None:
    facts = FACTS[name]
    needed = {field: value for field, value in given(facts).items() if field == "num_heads"}
    asked = {} if (ZOO / name / "config.json").exists() else needed
    loaded = to_flax(path_of(name), **asked)
    loaded.save(tmp_path / "m")
    known = vars(loaded.config)
    wrong = {f for f, v in facts["fields"].items() if f in known and known[f] != v} - {"dropout"}
    page = verify(path_of(name), tmp_path / "m")
    assert page.verdict == ("unproven" if page.assumed or not page.ran else "proven")
    assert not wrong or page.verdict == "unproven"
    assert wrong <= page.assumed.keys()


def test_what_the_user_gave_is_repeated_and_the_class_that_ran_is_named(
    primes_file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """The file may be of a class that differs in what no field says, such as a scaled embedding."""
    to_flax(primes_file, **ALL_GIVEN).save(tmp_path / "all")
    outcome = command("jaxgpt-convert", "verify", primes_file, tmp_path / "all")
    assert outcome.code == 0
    assert outcome.out.startswith("PROVEN, given norm = pre, final_norm = True, ")
    assert "The class that ran was chosen by tensor names: if another one" in outcome.out
    to_flax(primes_file, activation="relu").save(tmp_path / "one")
    page = verify(primes_file, tmp_path / "one")
    assert (page.verdict, page.given) == ("unproven", {"activation": "relu"})
    assert page.assumed.keys() == ASSUMED - {"activation"}


def test_a_class_named_by_the_user_proves_fields_it_was_not_passed(
    primes_file: Path,
    tmp_path: Path,
) -> None:
    to_flax(primes_file, activation="relu").save(tmp_path / "m")
    page = verify(primes_file, tmp_path / "m", torch=OWN)
    assert page.verdict == "proven"
    assert page.proven == ALL_GIVEN
    assert not page.given
    assert not page.assumed


def test_fields_of_a_directory_without_a_record_count_as_assumed(
    tmp_path: Path,
) -> None:
    """A head count that the class was passed from that directory stays assumed too."""
    file = saved("Nameless", tmp_path)
    loaded = to_flax(file, dialect="auto", num_heads=5)
    model_directory.save(tmp_path / "m", loaded.config, loaded.params)
    page = verify(file, tmp_path / "m", dialect="auto", torch=f"{UNSEEN}:Nameless")
    assert page.verdict == "unproven"
    assert page.assumed == {"num_heads": 5}
    assert page.proven.keys() == ASSUMED


def run_of(text: Path, folder: Path, init: Path | None = None, **model: Any) -> Path:
    sections = settings(text, folder, model=model)
    if init:
        sections["run"]["init"] = str(init)
        sections["model"] = {"dropout": 0.0}
    return train(sections, "here", lambda line: None).directory


def test_an_export_of_a_run_of_ours_is_proven(
    text: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    run = run_of(text, tmp_path / "run")
    api.directory_to_file(run, tmp_path / "w.pt", "gpt")
    outcome = command("jaxgpt-convert", "verify", tmp_path / "w.pt", run)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("PROVEN: the two compute the same function.\n")
    api.directory_to_file(run, tmp_path / "separate.pt", "separate")
    page = verify(tmp_path / "separate.pt", run)
    assert (page.verdict, page.assumed) == ("unproven", {})  # equal numbers, and no class that ran
    opened, gelu = model_directory.ModelDirectory(run), tmp_path / "gelu"
    other = replace(opened.config, activation="gelu")
    model_directory.save(gelu, other, opened.params(), opened.about)
    api.directory_to_file(gelu, tmp_path / "gelu.pt", "gpt")
    page = verify(tmp_path / "gelu.pt", gelu)
    assert page.verdict == "differs"
    assert "activation is 'relu' and not 'gelu'" in page.hint


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that starts from a class of unknown names, whose head count was given."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "wood.txt").write_text(TEXT)
    file = saved("Nameless", folder, vocab_size=len({*TEXT}))
    init = converted(file, dialect="auto", num_heads=5)
    return run_of(folder / "wood.txt", folder / "tuned", init)


def test_a_run_remembers_how_the_fields_of_its_first_weights_are_known(
    tuned: Path, text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    back = command("jaxgpt-convert", "to-torch", tuned, tmp_path / "back.pt")
    assert back.code == 0
    assert "warning" not in back.err
    page = verify(tmp_path / "back.pt", tuned)
    assert page.verdict == "unproven"
    assert page.given == {"num_heads": 5}
    assert page.assumed.keys() == ASSUMED
    assert command("jaxgpt-convert", "verify", tmp_path / "back.pt", tuned).code == 4
    page = verify(tmp_path / "back.pt", tuned, torch=f"{UNSEEN}:Nameless")
    assert (page.verdict, page.given) == ("proven", {"num_heads": 5})
    assert command("jaxgpt", "eval", tuned).code == 0
    twice = run_of(text, tmp_path / "twice", tuned)
    assert verify(tmp_path / "back.pt", twice).verdict == "differs"
    about = model_directory.ModelDirectory(twice).about
    assert about["fields"]["given"] == {"num_heads": 5}
    assert about["source"]["dialect"] == "auto"


def test_verify_takes_a_dialect_that_the_directory_does_not_record(
    tuned: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    command("jaxgpt-convert", "to-torch", tuned, tmp_path / "back.pt")
    opened = model_directory.ModelDirectory(tuned)
    model_directory.save(tmp_path / "m", opened.config, opened.params())
    asked = ["jaxgpt-convert", "verify", tmp_path / "back.pt", tmp_path / "m"]
    assert "--dialect auto" in refused(*asked)
    assert command(*asked, "--dialect", "auto").code == 4


def test_proving_an_export_does_not_prove_the_file_it_came_from(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    file = tmp_path / "w.pt"
    module = randomised(unseen.Gelu(**PRIMES))
    with torch.no_grad():
        module.vocab_projection.bias.zero_()
    state = module.state_dict()
    del state["vocab_projection.bias"]
    torch.save(state, file)
    model = converted(file, dialect="heads")
    made = command("jaxgpt-convert", "to-torch", model, tmp_path / "hf", "--dialect", "gpt2")
    assert made.code == 0
    outcome = command("jaxgpt-convert", "verify", tmp_path / "hf", model)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("PROVEN: ")
    assert "nothing about that conversion, which assumed norm = pre" in outcome.out


WARNED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "given, and back": ({"norm": "post"}, "gpt", False),
    "given, and to another class": ({"norm": "post"}, "ng", True),
    "assumed, and to another class": ({}, "freecodecamp", True),
}


@pytest.mark.parametrize("case", WARNED)
def test_to_torch_warns_only_of_fields_in_which_the_class_differs(
    case: str, primes_file: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    fields, dialect, warned = WARNED[case]
    to_flax(primes_file, **fields).save(tmp_path / "m")
    back = tmp_path / "b.pt"
    outcome = command("jaxgpt-convert", "to-torch", tmp_path / "m", back, "--dialect", dialect)
    assert outcome.code == 0, outcome
    assert ("warning: norm is " in outcome.err) == warned


def test_the_suggested_command_makes_the_two_agree(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    file = saved("Gelu", tmp_path)
    model = converted(file)
    named = ["--torch", f"{UNSEEN}:Gelu"]
    outcome = command("jaxgpt-convert", "verify", file, model, *named)
    assert outcome.code == 3
    last = outcome.out.splitlines()[-1]
    assert last.startswith("With activation = gelu the two agree (")
    line = last.partition("): ")[2]
    assert line == f"jaxgpt-convert to-flax {file} {model}2 --set activation=gelu"
    assert command(*shlex.split(line)).code == 0
    outcome = command("jaxgpt-convert", "verify", file, f"{model}2", *named)
    assert outcome.code == 0
    assert outcome.out.startswith("PROVEN")


def test_two_wrong_fields_are_found_together_in_a_small_model(tmp_path: Path) -> None:
    file = saved("PostNorm", tmp_path)
    page = verify(file, converted(file), torch=f"{UNSEEN}:PostNorm")
    assert page.agreeing is not None
    assert page.agreeing.fields == {"norm": "post", "activation": "gelu"}


def test_given_fields_are_varied_beside_the_users_class_and_repeated_in_the_command(
    tmp_path: Path,
) -> None:
    file = saved("Nameless", tmp_path)
    model = converted(file, dialect="auto", num_heads=5, activation="gelu")
    page = verify(file, model, torch=f"{UNSEEN}:Nameless")
    assert page.agreeing is not None
    assert page.agreeing.fields == {"activation": "relu"}
    assert page.agreeing.command.endswith("--set num_heads=5 --set activation=relu --dialect auto")


def test_a_value_that_is_in_no_list_is_suggested(tmp_path: Path) -> None:
    file = saved("Scaled", tmp_path)
    page = verify(file, converted(file), torch=f"{UNSEEN}:Scaled")
    assert page.verdict == "differs"
    assert page.agreeing is not None
    assert page.agreeing.fields == {"embedding_scale": pytest.approx(35**0.5)}


def test_no_agreement_is_suggested_if_no_field_is_the_cause(
    primes_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two fields are searched like all of them, and each value is a program to compile.
    few = {name: OPTIONS[name] for name in ("final_norm", "activation")}
    monkeypatch.setattr(alternatives, "OPTIONS", few)
    to_flax(primes_file).save(tmp_path / "m")
    odd = f"{disguised.__file__}:ScaledResidual"
    page = verify(primes_file, tmp_path / "m", torch=odd)
    assert page.verdict == "differs"
    assert page.agreeing is None


@pytest.mark.parametrize("name", ["GPT", "Gelu"])
def test_the_page_fits_a_terminal_and_json_has_every_row(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved("Gelu", tmp_path)
    model = converted(file, activation="gelu") if name == "Gelu" else converted(file)
    (tmp_path / UNSEEN.name).write_text(UNSEEN.read_text())
    monkeypatch.chdir(tmp_path)
    page = verify(file.name, model.name, 2, torch=f"{UNSEEN.name}:Gelu")
    verify_page.show(page)
    lines = capsys.readouterr().out.splitlines()
    rows = sum(1 + (len(line) - 1) // 80 for line in lines)
    assert rows <= 24, lines
    (table,) = (lines.index(line) for line in lines if line.split()[:1] == ["compared"])
    assert max(map(len, lines[table : table + 7])) <= 80
    assert len(page.as_dict()["training"]) == 1 + 2 * 81
    if name == "GPT":
        assert "81 of 81 differ; the first is that of token_embedding.weight." in "\n".join(lines)


def test_the_verify_command_that_to_flax_suggests_proves(
    primes_file: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    made = command("jaxgpt-convert", "to-flax", primes_file, tmp_path / "m")
    (line,) = (line for line in made.out.splitlines() if line.startswith("Prove it: "))
    assert command(*shlex.split(line.removeprefix("Prove it: "))).code == 0
    other = to_flax(primes_file, activation="gelu")
    assert class_to_name(other) == " --torch MODULE:CLASS"


def test_verdicts_need_a_class_that_ran_and_nothing_assumed_or_in_doubt() -> None:
    assert Verification().verdict == "unproven"
    assert Verification(ran="a class").verdict == "proven"
    assert Verification(ran="a class", given={"norm": "pre"}).verdict == "proven"
    assert Verification(ran="a class", assumed={"norm": "pre"}).verdict == "unproven"
    assert Verification(ran="a class", doubt="it is another class").verdict == "unproven"
    assert Verification(ran="a class", weights=["x"]).verdict == "differs"
    assert Verification(fields={"model_dim": (1, 2)}).verdict == "differs"
