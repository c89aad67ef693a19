"""The shape of the house: what may import what, and that nothing branches on a method's name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import perceptual_mae
from perceptual_mae.methods import METHODS

PACKAGE = Path(perceptual_mae.__file__).parent
FLOORS = (
    {
        "__init__",
        "errors",
        "files",
        "seeds",
        "settings",
        "foreign_pickle",
        "plain_yaml",
        "paths",
        "credentials",
        "terminal",
    },
    {"models", "losses", "augment", "data", "training", "dvae_file", "weight_files"},
    {"methods", "pretraining", "encoders", "evaluation", "transfer"},
    {"report", "export", "observers"},
    {
        "api",
        "python_api",
        "attention_maps",
        "estimate",
        "measure",
        "finetune",
        "predict",
        "check",
        "doctor",
        "cli",
        "app",
    },
)
"""Modules and packages from the ground up; one imports only from floors below it."""
NEIGHBOURS = {
    # `perceptual_mae.pretrain` and its like, which import when they are asked for
    *(("__init__", name) for name in ("encoders", "errors", "methods", "pretraining", "python_api", "transfer")),
    ("errors", "credentials"),
    ("files", "errors"),
    ("foreign_pickle", "errors"),
    ("settings", "errors"),
    ("plain_yaml", "errors"),
    ("paths", "errors"),
    ("training", "data"),  # a plan of images, and how many workers read them
    ("dvae_file", "models"),  # what a file of weights has to fit
    ("losses", "models"),  # what a loss judges is a type of the models'
    ("data", "augment"),  # crops are drawn where images are read
    ("models", "augment"),  # the central crop that a classifier looks at
    ("pretraining", "methods"),  # the table that training looks up
    ("transfer", "encoders"),
    ("transfer", "pretraining"),  # to say what a pre-training run is not
    ("transfer", "evaluation"),  # how classification is scored
    ("encoders", "pretraining"),  # a run is one of the things that hold an encoder
    ("export", "report"),  # a model card says what reports say
    ("observers", "report"),  # pictures of a run that trains
    ("python_api", "api"),
    ("python_api", "attention_maps"),
    ("python_api", "measure"),
    ("measure", "attention_maps"),
    ("cli", "estimate"),
    ("cli", "measure"),
    ("cli", "api"),
    ("cli", "finetune"),
    ("cli", "predict"),
    ("cli", "attention_maps"),
    ("cli", "doctor"),
    ("cli", "check"),
    ("cli", "app"),
}
"""The only imports within a floor."""
LONGEST = 400
"""Lines of a module: a file with one subject is shorter."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    """The module or package of the table that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor_of(name: str) -> int:
    return next((number for number, names in enumerate(FLOORS) if name in names), -1)


def imports(module: ast.Module) -> Iterator[str]:
    """Full names of everything imported anywhere in a module, also inside of functions."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """What of this package an imported name belongs to; None for other packages."""
    parts = name.split(".")
    if parts[0] != "perceptual_mae":
        return None
    return parts[1] if len(parts) > 1 and parts[1] != "__version__" else "__init__"


def test_every_module_has_a_floor() -> None:
    assert len(MODULES) > 40
    homeless = {place(path) for path in MODULES if floor_of(place(path)) < 0}
    assert not homeless, f"say in FLOORS where {homeless} live"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    here = place(path)
    for name in imports(tree(path)):
        assert not name.startswith("."), f"a relative import: {name}"
        there = own(name)
        if there is None or there == here:
            continue
        assert floor_of(there) >= 0, name
        below = floor_of(there) < floor_of(here)
        assert below or (here, there) in NEIGHBOURS, f"{here} (floor {floor_of(here)}) imports {name}"


FORBIDDEN = {
    # Tensors in, tensors out: no files, no logging, no parsing.
    "models": {"yaml", "json", "jsonargparse", "argparse", "logging", "matplotlib", "rich", "os", "io", "safetensors"},
    "losses": {"yaml", "json", "jsonargparse", "argparse", "logging", "matplotlib", "rich", "os", "io", "safetensors"},
    "augment": {"yaml", "json", "jsonargparse", "argparse", "logging", "matplotlib", "rich"},
    "data": {"timm", "accelerate", "matplotlib", "jsonargparse"},
    "methods": {"torch", "timm"},
    "training": {"timm", "matplotlib", "jsonargparse", "argparse"},
    "pretraining": {"matplotlib", "jsonargparse", "argparse"},
    "evaluation": {"matplotlib", "jsonargparse", "argparse"},
    "transfer": {"matplotlib", "jsonargparse", "argparse"},
    "report": {"timm", "accelerate", "jsonargparse", "argparse"},
    "cli": {"torch", "timm", "accelerate", "matplotlib", "numpy", "yaml"},
}
"""Other packages that have no business in one of ours."""


@pytest.mark.parametrize("package", FORBIDDEN)
def test_what_never_lives_there(package: str) -> None:
    for path in MODULES:
        if place(path) == package:
            found = {name.split(".")[0] for name in imports(tree(path))} & FORBIDDEN[package]
            assert not found, f"{path.relative_to(PACKAGE)} imports {found}"


def branches_by_method(module: ast.Module) -> list[int]:
    """Lines that compare something with the name of a method, or a method with a text."""
    lines = []
    for node in ast.walk(module):
        if isinstance(node, ast.Compare):
            sides = [leaf for side in (node.left, *node.comparators) for leaf in ast.walk(side)]
        elif isinstance(node, ast.match_case):
            sides = list(ast.walk(node.pattern))
        else:
            continue
        texts = {leaf.value for leaf in sides if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
        is_method = any(
            (isinstance(leaf, ast.Attribute) and leaf.attr == "method")
            or (isinstance(leaf, ast.Name) and leaf.id == "method")
            for leaf in sides
        )
        if texts & METHODS.keys() or (is_method and texts):
            lines.append(getattr(node, "lineno", 0) or node.pattern.lineno)  # type: ignore[attr-defined]
    return lines


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_method_is_data(path: Path) -> None:
    if path.name != "methods.py":
        assert branches_by_method(tree(path)) == [], "a method is data: put what differs into its row of METHODS"


@pytest.mark.parametrize(
    "code",
    [
        "if config.method == 'mse': pass",
        "if name in ('x', 'mse'): pass",
        "if 'ls-gan' == method: pass",
        "match name:\n    case 'a' | 'mse': pass",
        "x = 1 if self.config.method != 'whatever' else 2",
    ],
)
def test_branches_are_found(code: str) -> None:
    assert len(branches_by_method(ast.parse(code))) == 1


@pytest.mark.parametrize("code", ["METHODS[config.method]", "if config.method in METHODS: pass", "x = {'mse': 1}"])
def test_look_ups_are_no_branches(code: str) -> None:
    assert branches_by_method(ast.parse(code)) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines: two subjects?"
