"""The house has floors, and imports only go down."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {
        "convert": "axes beside",
        "jaxgpt": "background bpe chips config disk interrupt plainpickle program settings shell tokenizer tree",
    },
    {
        "convert": "dialects foreign reference rows words",
        "jaxgpt": "attention block corpus cpu data flops layers model optim plot processes runs sampling sharding "
        "topologies trackers",
    },
    {
        "convert": "bridge detect evidence folder groups hubtokens llmc optimizer propose ranking report safefile said "
        "settle statedict suspect torchfile",
        "jaxgpt": "cache checkpoint decoding generate prepare progress step",
    },
    {
        "convert": "alternatives answers carry exact files hub ids loaded page parity probing show theirs verdict whole",
        "jaxgpt": "begin evaluate export look loop plan planpage sample train",
    },
    {"convert": "__main__", "jaxgpt": "__main__"},
]
ONLY_IN = {
    "orbax": {"jaxgpt.checkpoint"},
    "grain": {"jaxgpt.data"},
    "flax": {"jaxgpt.block", "jaxgpt.layers", "jaxgpt.model"},
}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text())
    for package in ("jaxgpt", "convert")
    for file in (ROOT / package).rglob("*.py")
}


def floor(module: str) -> int:
    """Of a room or a part of one; a package's `__init__` only lists names, and its dialects are one room."""
    room = "convert.dialects" if module.startswith("convert.dialects") else module
    package, name = room.split(".")
    found = [i for i, rooms in enumerate(FLOORS, 1) if name in rooms[package].split()]
    assert len(found) == 1, f"{module} has no floor of its own: put it in FLOORS"
    return found[0]


def imports(tree: ast.Module) -> set[str]:
    """Modules imported anywhere in a file; `from package import room` counts as the room."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {part if part in MODULES else str(node.module) for part in parts}
    return names


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"jaxgpt.__init__", "convert.__init__"}))
def test_imports_only_go_down(module: str) -> None:
    for name in imports(MODULES[module]):
        if name in MODULES and not name.endswith("__init__"):
            assert floor(name) <= floor(module), f"{module} (floor {floor(module)}) imports {name}, which lies above"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_libraries_stay_in_their_rooms(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(MODULES[module])}
    if module.startswith("jaxgpt"):
        assert not tops & {"torch", "convert"}
    for library, rooms in ONLY_IN.items():
        assert library not in tops or module in rooms, f"{library} belongs in {rooms}, not in {module}"


def test_rooms_are_small() -> None:
    for module in MODULES:
        lines = (ROOT / (module.replace(".", "/") + ".py")).read_text().count("\n")
        assert lines <= 260, f"{module} has {lines} lines"
