"""The structure: folders import only those listed below them, and each library has its place."""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers import ROOT

# Topics from top to bottom; each may import those below it, and all of convert those of jaxgpt.
TOPICS = {
    "convert": [
        "__main__", "commands", "proving", "measuring", "foreign", "probing", "api", "hub",
        "llama2c_bin", "write_plan", "dialect_tables", "loaded", "conversion", "choose", "extras", "tokens",
        "detect", "renaming", "files", "dialects", "names", "rows", "streams", "reference", "dtypes",
    ],
    "jaxgpt": [
        "__main__", "convert", "commands", "planning", "training", "lm_eval", "serving", "generation",
        "storage", "data", "devices", "model", "system", "settings", "presets", "pytree", "config",
        "mesh_config", "optim_config", "seq2seq_config", "model_config", "model_rules", "rotary_scaling",
        "fields", "optional", "file_names", "errors",
    ],
}  # fmt: skip
ORDER = [f"{package}.{topic}" for package, topics in TOPICS.items() for topic in topics]
PUBLIC = {"jaxgpt.__init__", "convert.__init__", "jaxgpt.convert"}  # reach down by name, when asked
# Each of these libraries could be replaced by changing one folder.
ONLY_IN = {
    "orbax": {"jaxgpt.storage"},
    "flax": {"jaxgpt.model"},
    "tokenizers": {"jaxgpt.data", "convert.tokens"},
    "matplotlib": {"jaxgpt.storage"},
    "starlette": {"jaxgpt.serving"},
    "uvicorn": {"jaxgpt.serving"},
    "lm_eval": {"jaxgpt.lm_eval"},
    "tyro": {"jaxgpt.commands", "convert.commands"},
}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for package in TOPICS
    for file in (ROOT / package).rglob("*.py")
}


def topic(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imported(module: str) -> Iterator[str]:
    """The modules that `module` imports, at its top or inside a function, by their full names."""
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) + 1 - node.level] if node.level else []
            name = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{name}.{alias.name}"
                yield full if full in MODULES or f"{full}.__init__" in MODULES else name


@pytest.mark.parametrize("module", sorted(MODULES.keys() - PUBLIC))
def test_imports_only_go_down(module: str) -> None:
    own = topic(module)
    for name in imported(module):
        if name.split(".")[0] in TOPICS and topic(name) not in (own, "jaxgpt"):
            assert ORDER.index(topic(name)) > ORDER.index(own), (
                f"{module} imports {name}, which is above"
            )


def test_there_is_no_cycle() -> None:
    edges = {
        module: {name for name in imported(module) if name in MODULES}
        for module in MODULES.keys() - PUBLIC
    }
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for module in leaves:
            del edges[module]
    assert not edges, f"these import each other: {sorted(edges)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_libraries_are_imported_only_in_their_places(module: str) -> None:
    tops = {name.partition(".")[0] for name in imported(module)}
    if module.startswith("jaxgpt") and module != "jaxgpt.convert":
        assert not tops & {"torch", "convert"}
    for library, places in ONLY_IN.items():
        assert library not in tops or topic(module) in places, (
            f"{library} belongs in {places}, not in {module}"
        )


def test_files_are_small() -> None:
    for module, file in MODULES.items():
        lines = file.read_text().count("\n")
        assert lines <= 250, f"{module} has {lines} lines, and may have 250"


def test_lines_are_narrow() -> None:
    wide = [
        f"{module}:{i}"
        for module, file in MODULES.items()
        for i, line in enumerate(file.read_text().split("\n"), 1)
        if len(line) > 100
    ]
    assert not wide


def test_functions_take_few_parameters() -> None:
    """At most six; public functions may have more that are keyword-only, and commands their flags."""
    many = []
    for module, file in MODULES.items():
        if topic(module).endswith((".commands", ".__main__")):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args
                count = sum(each.arg not in ("self", "cls") for each in arguments)
                if node.name.startswith("_"):
                    count += len(node.args.kwonlyargs)
                if count > 6:
                    many.append(f"{module}.{node.name} takes {count}")
    assert not many


def test_every_folder_has_a_docstring() -> None:
    for package in TOPICS:
        for file in (ROOT / package).glob("*/__init__.py"):
            assert (
                len((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]) > 20
            ), file


def test_file_names_are_written_in_one_place() -> None:
    """Those of jaxgpt's folders in `jaxgpt.file_names`, those of Hugging Face's in `hf_folder`."""
    from jaxgpt import file_names

    values = [value for name, value in vars(file_names).items() if name.isupper()]
    listed = {*file_names.SPLITS.values(), *(value for value in values if isinstance(value, str))}
    elsewhere = [
        f"{module}:{node.lineno} {node.value}"
        for module, file in MODULES.items()
        if module not in ("jaxgpt.file_names", "convert.files.hf_folder")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in listed
        and "." in node.value
    ]
    assert not elsewhere
