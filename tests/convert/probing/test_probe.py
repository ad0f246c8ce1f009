"""Open fields are settled by loss: of models trained here in torch, and of real ones if present."""

import dataclasses
import functools
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convert
from convert.commands import ranking_page
from convert.commands.ranking_page import misfit
from convert.probing.ranking import LEAST, Ranking, Row
from convert.probing.search import Search, Space
from convert.probing.text_windows import bigram_loss, windows_of
from convert.tokens.encode_text import read_ids
from jaxgpt.config import ModelConfig
from jaxgpt.model.positions import sinusoids
from jaxgpt.settings import typed
from tests.convert.probing.trained_on_text import CHARACTERS, CONTEXT, trained_on_text
from tests.helpers import TEXT
from tests.zoo import BESIDE, FACTS, path_of

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional
nn = torch.nn

SHAKESPEARE = BESIDE / "data" / "tinyshakespeare.txt"

WIDTH = 16
ACTIVATIONS = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh")}


def rotated(x: Any) -> Any:
    """Queries or keys rotated by other angles than those of any base."""
    first, second = x.chunk(2, -1)
    angles = torch.arange(x.shape[-2])[:, None] * torch.linspace(3, 2, first.shape[-1])
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Block(nn.Module):
    def __init__(self, form: dict[str, Any]):
        super().__init__()
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)}
        )
        layers = (
            nn.Linear(WIDTH, 4 * WIDTH),
            ACTIVATIONS[form["activation"]],
            nn.Linear(4 * WIDTH, WIDTH),
        )
        self.ff = nn.ModuleDict({"net": nn.Sequential(*layers)})
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.form = form

    def attend(self, x: Any) -> Any:
        heads = (self.form["num_heads"], -1)
        q, k, v = (
            part.unflatten(-1, heads).transpose(1, 2) for part in self.attn["qkv"](x).chunk(3, -1)
        )
        width = {"head_dim": q.shape[-1], "model_dim": WIDTH, "none": 1}[
            self.form["attention_scale"]
        ]
        if self.form["positions"] == "rotary":
            q, k = rotated(q), rotated(k)
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        bias = torch.where(distance < 0, -torch.inf, 0.0).expand(heads[0], -1, -1)
        if self.form["positions"] == "alibi":
            bias = bias - 2.0 ** -torch.arange(1, heads[0] + 1)[:, None, None] * distance
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=width**-0.5)
        return self.attn["proj"](mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Any) -> Any:
        match self.form["norm"]:
            case "pre":
                x = x + self.attend(self.ln1(x))
                return x + self.ff["net"](self.ln2(x))
            case "post":
                x = self.ln1(x + self.attend(x))
                return self.ln2(x + self.ff["net"](x))
        x = self.ln1(x)
        x = self.ln2(x + self.attend(x))
        return x + self.ff["net"](x)


class Decoder(nn.Module):
    """A model of the `fused` family in any form that its files do not show."""

    def __init__(self, form: dict[str, Any]):
        super().__init__()
        self.token_embedding = nn.Embedding(len(CHARACTERS), WIDTH)
        if form["positions"] == "learned":
            self.position_embedding = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block(form), Block(form))
        self.ln_f, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CHARACTERS))
        self.form = form

    def forward(self, ids: Any) -> Any:
        x = self.token_embedding(ids) * self.form["embedding_scale"]
        if self.form["positions"] == "learned":
            x = x + self.position_embedding.weight[: ids.shape[1]]
        if self.form["positions"] == "sinusoidal":
            x = x + torch.from_numpy(sinusoids(CONTEXT, WIDTH).astype("float32"))[: ids.shape[1]]
        x = self.blocks(x)
        return self.head(self.ln_f(x) if self.form["final_norm"] is True else x)


def form(
    norm: str, final_norm: Any, activation: str, attention_scale: str, num_heads: int
) -> dict[str, Any]:
    """The fields of ModelConfig that are varied."""
    return dict(locals())


USUAL = form("pre", True, "relu", "head_dim", 4)
# What a file of the same names and shapes may compute as well, and no candidate does.
FOREIGN = {
    "rotary": {"positions": "rotary"},
    "alibi": {"positions": "alibi"},
    "scaled embeddings": {"positions": "learned", "embedding_scale": 3.0},
    "scaled embeddings and sinusoids": {"positions": "sinusoidal", "embedding_scale": 3.0},
}
# And what some candidate does.
RARE = {
    "sinusoids": {"positions": "sinusoidal"},
    "no positions": {"positions": "none"},
    "root of the width": {"positions": "learned", "embedding_scale": 4.0},
}
FORMS = {
    "usual": USUAL,
    "post": form("post", True, "gelu", "model_dim", 4),
    "unused": form("pre", "unused", "relu", "head_dim", 2),
    "residual": form("residual", True, "relu", "model_dim", 8),
}


@functools.cache
def trained(name: str) -> Decoder:
    how = {"positions": "learned", "embedding_scale": 1.0, **{**FOREIGN, **RARE}.get(name, {})}
    model: Decoder = trained_on_text(lambda: Decoder(FORMS.get(name, USUAL) | how))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str = "post", **beside: Any) -> Path:
        path = tmp_path / f"{name}.pt"
        state = trained(name).state_dict()
        torch.save({"model": state, **beside} if beside else state, path)
        return path

    return save


REST = {
    "attention_scale_by_layer": False, "norm_eps": 1e-5, "residual": "sequential",
    "norm_unit_offset": False, "embedding_scale": 1.0, "attention_softcap": None,
    "logit_scale": 1.0, "logit_softcap": None, "qkv_order": "by_part",
}  # fmt: skip


def but(*names: str) -> dict[str, Any]:
    """The fields with which the model `post` was trained, except `names`."""
    return {
        field: value for field, value in {**FORMS["post"], **REST}.items() if field not in names
    }


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("post", ("num_heads",)),
        ("unused", ("num_heads", "activation")),
        ("residual", ("final_norm", "activation")),
    ],
)
def test_the_fields_of_training_are_settled(
    name: str, known: tuple[str, ...], saved: Callable[..., Path]
) -> None:
    given = REST | {field: FORMS[name][field] for field in known}
    order = {"qkv_order": given.pop("qkv_order")} if name == "unused" else {}
    found = convert.probe(saved(name), text=TEXT, **given)
    assert found.settled == order | {
        field: v for field, v in FORMS[name].items() if field not in ("activation", *known)
    }
    assert found.unsettled == (
        {} if "activation" in known else {"activation": ["gelu", "gelu_tanh"]}
    )
    assert 3 * LEAST < found.margin < found.entropy
    loaded = convert.to_flax(saved(name), **found.settled, **found.kept, **given)
    assert {field: getattr(loaded.config, field) for field in FORMS[name]} == FORMS[name]


def test_losses_are_those_of_torch(saved: Callable[..., Path]) -> None:
    path = saved()
    found = convert.probe(path, text=TEXT, **but("norm"))
    ids = np.array([CHARACTERS.index(character) for character in TEXT])
    windows = torch.from_numpy(
        windows_of(ids, convert.to_flax(path, num_heads=4).config, path)
    ).long()
    with torch.no_grad():
        logits = trained("post").double()(windows[:, :-1])
    theirs = F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").mean(1)
    ours = next(row for row in found.rows if row.fields == {"norm": "post"})
    assert np.abs(ours.losses - theirs.numpy()).max() < 1e-5


def test_windows_cover_the_text_without_overlap() -> None:
    config = ModelConfig(vocab_size=1000, context_length=16, model_dim=12, num_heads=2)
    for length in (17, 100, 999):
        windows = windows_of(np.arange(length), config, Path("x"))
        assert len(windows) >= 8
        assert windows[0, 0] == 0
        assert windows[-1, -1] == length - 1
        assert (windows[1:, 0] >= windows[:-1, -1]).all()
        assert (np.diff(windows) == 1).all()


@pytest.mark.parametrize("name", FOREIGN)
def test_a_model_that_is_no_candidate_settles_nothing(
    name: str, saved: Callable[..., Path], text: Path, command: Callable[..., Any]
) -> None:
    given = {**but("embedding_scale"), **ROTARY, **USUAL}
    if "position_embedding.weight" not in trained(name).state_dict():
        given |= SHORT
    words = [f"--set={field}={typed(value)}" for field, value in given.items()]
    outcome = command("jaxgpt-convert", "probe", saved(name), "--text", text, *words)
    assert outcome.code == 3, outcome
    assert outcome.out.startswith("NOTHING FITS: ")
    assert "NOTHING FITS" in outcome.err
    assert "other rotary angles, other slopes of ALiBi, another scale of embeddings" in outcome.err
    assert "settled, by" not in outcome.out
    assert "--set" not in outcome.out


SHORT = {"context_length": CONTEXT}
ROTARY = {"rotary_theta": 10000.0, "rotary_fraction": 1.0}


@pytest.mark.parametrize("name", RARE)
def test_positions_and_scales_that_leave_no_trace_are_settled(
    name: str, saved: Callable[..., Path]
) -> None:
    given = {**REST, **SHORT, **ROTARY, "num_heads": 4, "activation": "relu"}
    open_fields = {"embedding_scale": 1.0, **RARE[name]}
    if open_fields["positions"] == "learned":
        given = {name: given[name] for name in given.keys() - {*SHORT, *ROTARY}}
        del open_fields["positions"]
    del given["embedding_scale"]
    open_fields |= {"norm": "pre", "final_norm": True, "attention_scale": "head_dim"}
    if name != "sinusoids":  # one of them is searched with all places of the norms
        given["norm"] = open_fields.pop("norm")
    if open_fields.get("positions") == "sinusoidal":
        open_fields["sinusoidal_layout"] = "interleaved"
    found = convert.probe(saved(name), text=TEXT, **given)
    assert found.settled == open_fields
    assert found.unsettled == {}
    known = {**found.settled, **given}
    report = convert.to_flax(saved(name), **known).report
    assert not report.assumed.keys() & {"positions", "embedding_scale", *found.options}
    assert convert.probe(saved(name), text=TEXT, **known).rows == []


# What the search finds, of losses that are made up.


def table(
    loss: Callable[..., float], noise: float = 0.0, seed: int = 0
) -> Callable[[dict[str, Any]], np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = rng.normal(0, 1, 64)  # windows differ far more than combinations
    return lambda fields: 5 + texts - texts.mean() + loss(**fields) + rng.normal(0, noise, 64)


OPTIONS = {"a": (0, 1, 2, 3, 4), "b": ("x", "y", "z"), "c": ("p", "p2", "q")}


def ranked(
    measure: Callable[[dict[str, Any]], np.ndarray],
    groups: Any = (("a", "b"), ("c",)),
    first: Any = (),
    **rest: Any,
) -> Ranking:
    rows = Search(Space(OPTIONS, first, groups, {"c": ("p", "p2")}), measure).run()
    usual = {"a": 0, "b": "x", "c": "p"}
    return Ranking(
        rows,
        OPTIONS,
        **{"assumed": usual, "asked": [], "tokens": 1, "entropy": 9.0, "spelling": "", **rest},
    )


def test_fields_that_compensate_for_each_other_are_searched_together() -> None:
    def loss(a: int, b: str, c: str) -> float:
        return (c == "q") + (0.0 if (a, b) == (4, "z") else 1 + a + (b != "x"))

    alone = ranked(table(loss), groups=(("a",), ("b",), ("c",)))
    assert alone.settled == {"a": 0, "b": "x"}
    assert ranked(table(loss)).settled == {"a": 4, "b": "z"}
    assert ranked(table(loss), groups=(("a",), ("b",), ("c",)), first=("a", "b")).settled == {
        "a": 4,
        "b": "z",
    }


def test_an_earlier_field_is_searched_again_after_a_later_one() -> None:
    def loss(a: int, b: str, c: str) -> float:
        return 0.1 * a if c != "q" else -1 + 0.5 * (a != 4)

    assert ranked(table(loss), groups=(("a",), ("b",), ("c",))).settled == {"a": 4, "c": "q"}


def test_alike_values_are_tried_only_next_to_the_best() -> None:
    found = ranked(table(lambda a, b, c: a + ord(b) % 5 + (c == "q")))
    tried = [row.fields for row in found.rows]
    assert sum(fields["c"] == "p2" for fields in tried) == 1
    assert {"a": 0, "b": "x", "c": "p2"} in tried
    assert (len(tried), found.possible) == (19, 45)


def test_differences_within_noise_settle_nothing() -> None:
    def loss(a: int, b: str, c: str) -> float:
        return 0.5 * (b != "z") - 0.02 * (a == 1)

    found = ranked(table(loss, noise=0.1))
    assert found.settled == {"b": "z"}
    assert set(found.unsettled) == {"a", "c"}
    assert found.kept == {"a": 0, "c": "p"}
    assert found.line == "--set b=z"
    assert found.margin == pytest.approx(0.5, abs=0.1)
    assert ranked(table(loss, noise=0.001)).settled["a"] == 1


def test_the_first_row_moves_on_only_for_more_than_chance() -> None:
    """Moving on to a value that is as good would measure all others again next to it."""
    found = ranked(table(lambda a, b, c: a + (b != "x") - LEAST / 2 * (c == "p2")))
    assert found.rows[0].fields == {"a": 0, "b": "x", "c": "p"}
    assert found.unsettled == {"c": ["p", "p2", "q"]}
    assert ranked(table(lambda a, b, c: -float(c == "p2"))).rows[0].fields["c"] == "p2"


def test_once_the_loss_is_good_one_combination_is_varied() -> None:
    measure = table(lambda a, b, c: a + ord(b) % 5 + (c == "q"))
    groups, alike = (("a",), ("b",), ("c",)), {"c": ("p", "p2")}
    several, one = (
        Search(Space(OPTIONS, (), groups, alike), measure, good=good).run() for good in (0.0, 99.0)
    )
    assert len(one) < len(several)
    assert one[0].fields == several[0].fields


def test_a_rival_with_a_resized_part_keeps_a_field_open() -> None:
    found = ranked(table(lambda a, b, c: float(b != "z")))
    rival = Row({**found.rows[0].fields, "b": "x"}, found.rows[0].losses)
    assert found.settled == {"b": "z"}
    assert dataclasses.replace(found, adjusted=[rival]).unsettled["b"] == ["x", "z"]


def test_fields_that_mean_nothing_are_neither_varied_nor_settled() -> None:
    """Field c means something with b = z alone, and b = y is impossible with a > 0."""

    def used(values: dict[str, Any]) -> list[str] | None:
        if values["b"] == "y" and values["a"]:
            return None
        return ["a", "b", "c"] if values["b"] == "z" else ["a", "b"]

    def probed(best: str) -> Ranking:
        def loss(a: int, b: str, c: str = "") -> float:
            return a + (b != best) + (c == "q")

        space = Space(OPTIONS, ("a", "b"), (("a", "b"), ("c",)), {}, used)
        rows = Search(space, table(loss)).run()
        usual = {"a": 0, "b": "x", "c": "p"}
        return Ranking(rows, OPTIONS, usual, [], 1, 9.0, "")

    found = probed("x")
    assert (found.settled, found.unsettled) == ({"a": 0, "b": "x"}, {})
    assert not [row for row in found.rows if row.fields["b"] == "y" and row.fields["a"]]
    fields = [tuple(row.fields.items()) for row in found.rows]
    assert len(fields) == len({*fields})
    assert probed("z").unsettled == {"c": ["p", "p2"]}


def test_kept_values_are_possible_together() -> None:
    """Each of two open fields may have its usual value, but not both at once."""
    found = ranked(table(lambda a, b, c: float((a, b) not in [(0, "y"), (2, "x")]) + (c == "q")))
    assert found.unsettled == {"a": [0, 2], "b": ["x", "y"], "c": ["p", "p2"]}
    assert found.kept == {"a": 2, "b": "x", "c": "p"}
    assert found.to_say == {"a": 2}
    assert found.line == ""


def test_fields_that_only_chance_decides_are_not_in_the_line() -> None:
    """The usual value is ruled out, and two others are left that fit equally well."""
    found = ranked(
        table(lambda a, b, c: float(c == "p") + (b != "z")), assumed={"a": 0, "b": "x", "c": "p"}
    )
    assert found.settled == {"b": "z"}
    assert found.line == "--set b=z"
    assert found.unsettled["c"] == ["p2", "q"]
    assert found.to_say.keys() == {"c"}


def test_a_part_that_does_better_at_another_scale_is_a_misfit() -> None:
    def altered(gain: float) -> Ranking:
        found = ranked(table(lambda a, b, c: float(b != "z")))
        other = Row(found.rows[0].fields, found.rows[0].losses - gain)
        return dataclasses.replace(
            found, altered={"its positions halved": other, "its queries doubled": other}
        )

    assert altered(-0.1).settled == altered(LEAST / 2).settled == {"b": "z"}
    found = altered(0.25)
    assert not found.fits
    assert (found.settled, found.line, found.close) == ({}, "", [])
    assert "but with its positions halved the loss of the best falls by 0.2500" in misfit(found)


def test_a_model_worse_than_bigrams_settles_nothing() -> None:
    found = ranked(table(lambda a, b, c: float(b != "z")), bigram=4.9)
    assert (found.fits, found.settled) == (False, {})
    assert (
        "The best has a loss of 5.0000 nats per token, but a model that only counts which token "
        "follows which has 4.9000" in misfit(found)
    )
    assert ranked(table(lambda a, b, c: float(b != "z")), bigram=5.1).settled == {"b": "z"}


@pytest.mark.parametrize("length", [2, 50, 2000])
def test_bigram_loss_is_that_of_counting_one_pair_at_a_time(length: int) -> None:
    """The slow form counts the rest of the text for each pair."""
    ids = np.random.default_rng(length).integers(0, 5, length) * 2
    pairs = list(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    losses = []
    for i, (before, after) in enumerate(pairs):
        rest = pairs[:i] + pairs[i + 1 :]
        alone = (sum(two == after for _, two in rest) + 1) / (len(rest) + max(ids) + 1)
        following = [two for one, two in rest if one == before]
        kinds = len({two for one, two in pairs if one == before})
        trusted = len(following) / (len(following) + kinds)
        losses.append(
            -np.log(
                trusted * following.count(after) / max(1, len(following)) + (1 - trusted) * alone
            )
        )
    assert bigram_loss(ids) == pytest.approx(np.mean(losses))


def test_rows_within_noise_are_merged() -> None:
    found = ranked(table(lambda a, b, c: a + ord(b) % 5 + (c == "q")))
    row, values = found.groups[0]
    assert row is found.rows[0]
    assert {name: sorted(several) for name, several in values.items()} == {
        "a": [0],
        "b": ["x"],
        "c": ["p", "p2"],
    }
    assert sum(
        len(several["a"]) * len(several["b"]) * len(several["c"]) for _, several in found.groups
    ) == len(found.rows)


def test_losses_are_compared_window_by_window() -> None:
    rng = np.random.default_rng(0)
    texts = rng.normal(2, 1, 256)
    one, other = Row({}, texts), Row({}, texts + rng.normal(0.05, 0.1, 256))
    gap, noise = other.behind(one)
    assert gap == pytest.approx(0.05, abs=0.02)
    assert noise == pytest.approx(3 * 0.1 / 16, rel=0.2)
    assert one.behind(Row({}, texts + 1e-5)) == (pytest.approx(-1e-5), LEAST)


def test_fields_without_a_usual_value_are_written_only_if_settled() -> None:
    found = ranked(table(lambda a, b, c: float(b != "z")), assumed={"b": "x", "c": "p"})
    assert found.unsettled["a"] == [0, 1, 2, 3, 4]
    assert "a" not in found.kept
    assert found.line == "--set b=z"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_the_terminal_and_loses_nothing(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    fields = {
        "num_heads": (12, 24),
        "norm": ("pre", "residual"),
        "final_norm": (True, "unused"),
        "attention_scale": ("head_dim", "model_dim", "none"),
        "activation": ("gelu_tanh", "gelu"),
        "attention_scale_by_layer": (False, True),
        "norm_eps": (1e-5, 1e-12),
    }
    usual = {name: values[0] for name, values in fields.items()}
    lost = [
        usual,
        {**usual, "norm_eps": 1e-12},
        {**usual, "norm": "residual", "attention_scale": "none"},
    ]
    rows = [Row(one, np.array([2.0, 2.1]) + i * np.array([0.5, 0.6])) for i, one in enumerate(lost)]
    screen = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(ranking_page, "console", lambda: screen)
    ranking_page._table(Ranking(rows, fields, usual, [], 100, 3.0, ""))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    assert not [word for word in words if "\N{HORIZONTAL ELLIPSIS}" in word]
    if width < 120:
        assert {f"{name}={typed(value)}" for name, value in usual.items()} < {*words}
        assert words[-2:] == ["norm=residual", "attention_scale=none"]
    else:
        assert words[:10] == [*fields, "loss", "behind", "noise"]
        assert words[-10:-3] == ["12", "residual", "true", "none", "gelu_tanh", "false", "1e-05"]


# The command, and what it refuses.


def test_to_flax_takes_the_line_that_probe_writes(
    saved: Callable[..., Path], text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    given = [
        f"--set={field}={typed(value)}"
        for field, value in but("num_heads", "attention_scale", "norm_eps").items()
    ]
    outcome = command("jaxgpt-convert", "probe", saved(), "--text", text, *given)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(
        "SETTLED: num_heads = 4, attention_scale = model_dim. This text does not decide norm_eps.\n"
    )
    assert "ids by the sorted characters of the text, as many as the vocabulary" in outcome.out
    assert (
        "undecided: norm_eps is one of 1e-05, 1e-06, 1e-08, 1e-12; 1e-05 is kept, as assumed"
        in outcome.err
    )
    line = outcome.out.splitlines()[-1]
    assert line == "--set num_heads=4 --set attention_scale=model_dim"
    done = command(
        "jaxgpt-convert", "to-flax", saved(), tmp_path / "model", *shlex.split(line), *given
    )
    assert done.code == 0, done
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"]["num_heads"] == 4


def test_another_text_of_the_same_characters_does_not_fit(
    saved: Callable[..., Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A wrong list of characters has the same effect."""
    other = tmp_path / "other.txt"
    other.write_text(
        TEXT.translate(
            dict(zip(map(ord, CHARACTERS), CHARACTERS[5:] + CHARACTERS[:5], strict=True))
        )
    )
    given = [f"--set={field}={typed(value)}" for field, value in but("norm").items()]
    outcome = command("jaxgpt-convert", "probe", saved(), "--text", other, *given)
    assert outcome.code == 3
    assert "NOTHING FITS" in outcome.err
    assert "--set" not in outcome.out
    told = json.loads(
        command("jaxgpt-convert", "probe", saved(), "--text", other, *given, "--json").out
    )
    assert (told["fits"], told["line"], told["settled"]) == (False, "", {})
    assert told["unsettled"] == {"norm": ["pre", "post", "residual"]}
    assert [set(row) for row in told["rows"]] == [{"norm", "loss", "behind", "noise"}] * 3


def test_a_file_that_leaves_nothing_open(
    saved: Callable[..., Path], text: Path, command: Callable[..., Any]
) -> None:
    given = [f"--set={field}={str(value).lower()}" for field, value in but().items()]
    outcome = command("jaxgpt-convert", "probe", saved(), "--text", text, *given)
    assert outcome == (0, "Nothing is left open that a loss could show.\n", "")


def test_fields_recorded_in_the_file_are_not_varied(saved: Callable[..., Path]) -> None:
    path = saved(config={"n_head": 4, "activation": "gelu", "layer_norm_eps": 1e-5})
    rest = {field: value for field, value in REST.items() if field != "norm_eps"}
    found = convert.probe(path, text=TEXT, norm="post", **rest)
    assert found.options.keys() == {"final_norm", "attention_scale"}
    assert found.settled == {"final_norm": True, "attention_scale": "model_dim"}
    assert found.line == "--set final_norm=true --set attention_scale=model_dim"


SHIFTED = [*CHARACTERS[3:], *CHARACTERS[:3]]


@pytest.mark.parametrize("where", ["in the file", "beside it", "given", "ids"])
def test_ids_come_from_the_file_its_folder_or_the_user(
    where: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """The ids are those of another list than the sorted characters of the text."""
    back = "".join(SHIFTED[CHARACTERS.index(character)] for character in TEXT)
    path = saved(itos=dict(enumerate(SHIFTED))) if where == "in the file" else saved()
    known: dict[str, Any] = {"text": back}
    if where == "beside it":
        (tmp_path / "tokenizer.json").write_text(json.dumps(SHIFTED))
    elif where == "given":
        (tmp_path / "chars.json").write_text(json.dumps(SHIFTED))
        known["tokenizer"] = tmp_path / "chars.json"
    elif where == "ids":
        known = {"ids": [CHARACTERS.index(character) for character in TEXT]}
    found = convert.probe(path, **known, **but("norm"))
    assert found.settled == {"norm": "post"}


@pytest.mark.parametrize(("suffix", "dtype"), [(".txt", "i8"), (".npy", "i4"), (".bin", "<u2")])
def test_ids_in_files(suffix: str, dtype: str, tmp_path: Path) -> None:
    ids, path = np.arange(0, 3000, 7).astype(dtype), tmp_path / f"ids{suffix}"
    if suffix == ".txt":
        path.write_text("[" + ", ".join(map(str, ids)) + "]\n")
    elif suffix == ".npy":
        np.save(path, ids)
    else:
        ids.tofile(path)
    assert np.array_equal(read_ids(str(path)), ids)
    assert read_ids("0 29 59").tolist() == [0, 29, 59]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "probe takes a text (--text) or ids (--ids), one of the two"),
        (["--text", "wood.txt", "--ids", "0 1"], "one of the two"),
        (["--text", "nowhere.txt"], "There is no file"),
        (
            ["--text", "short.txt"],
            "has a context of 24 tokens, so there should be 25 of them in a row or more, but",
        ),
        (["--ids", "0 1 2"], "but there are 3"),
        (["--ids", "0 1 999"], "Id 999 at position 2 is not in"),
        (["--ids", "-1 1 2"], "Id -1 at position 0"),
        (["--ids", "0 1 two"], "whole numbers such as 0 29 59, but got 'two'"),
        (["--ids", "floats.npy"], "should hold whole numbers, but holds float64"),
        (["--ids", "wrong.npy"], "wrong.npy is not an array of ids"),
        (
            ["--text", "other.txt"],
            "nothing says what its ids stand for. The text has 3 different characters",
        ),
        (["--text", "other.txt", "--tokenizer", "chars.json"], "The text has 'é', '€', which"),
        (
            ["--text", "wood.txt", "--tokenizer", "many.json"],
            "many.json has 40 ids: it belongs to another model",
        ),
        (["--text", "wood.txt", "--tokenizer", "none.json"], "none.json does not exist"),
        (["--text", "wood.txt", "--set", "num_heads=3"], "3 does not divide"),
        (
            ["--text", "wood.txt", "--set", "final_norm=false"],
            "final_norm = False was given, but the file has a final norm",
        ),
    ],
)
def test_mistakes_are_one_paragraph(
    words: list[str],
    message: str,
    saved: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    path = saved()
    monkeypatch.chdir(tmp_path)
    Path("wood.txt").write_text(TEXT)
    Path("short.txt").write_text("".join(CHARACTERS))
    Path("other.txt").write_text("é€a" * 99)
    Path("chars.json").write_text(json.dumps(CHARACTERS))
    Path("many.json").write_text(json.dumps([chr(65 + i) for i in range(40)]))
    Path("wrong.npy").write_text("no")
    np.save("floats.npy", np.zeros(99))
    assert message in refused("jaxgpt-convert", "probe", path, *words)


def test_the_context_length_shows_in_no_loss(
    command: Callable[..., Any], tmp_path: Path, text: Path
) -> None:
    """Sinusoids that are computed are the same in a context of any length."""
    state = {
        name: value
        for name, value in trained("post").state_dict().items()
        if "position" not in name
    }
    torch.save(state, tmp_path / "sinusoids.pt")
    fields = {**but(), "positions": "sinusoidal"}
    given = [f"--set={field}={typed(value)}" for field, value in fields.items()]
    outcome = command("jaxgpt-convert", "probe", tmp_path / "sinusoids.pt", "--text", text, *given)
    assert outcome.code in (0, 3)
    assert (
        "undecided: no loss shows context_length; set it with --set context_length=N" in outcome.err
    )


# Real files, where they are.

ASKED = {"attention_scale", "norm", "final_norm", "num_heads"}
OF_SHAKESPEARE = [
    name
    for name, facts in FACTS.items()
    if facts["fields"].get("vocab_size") == 65 and not facts["refuse"]
]


@pytest.mark.skipif(
    not SHAKESPEARE.exists(), reason="there is no tiny Shakespeare beside the project"
)
@pytest.mark.parametrize(
    "name", OF_SHAKESPEARE or [pytest.param("", marks=pytest.mark.skip("there is no zoo"))]
)
def test_fields_of_real_models_are_settled(name: str) -> None:
    facts = FACTS[name]
    text = SHAKESPEARE.read_text()
    alphabet = {character: id_ for id_, character in enumerate(sorted({*text}))}
    ids = [alphabet[character] for character in text[: 2**13]]
    usual = {**REST, "norm_eps": facts["fields"]["norm_eps"]}
    del usual["qkv_order"]  # their classes are known
    found = convert.probe(path_of(name), ids=ids, **usual)
    open_fields = ASKED & found.options.keys()
    assert open_fields == ASKED & {*facts["undecidable"]}
    assert {field: found.settled.get(field) for field in open_fields} == {
        field: facts["fields"][field] for field in open_fields
    }
    assert found.settled["activation"] == facts["fields"]["activation"]
