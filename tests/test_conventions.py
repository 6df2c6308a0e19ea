"""House rules that hold for every public name of the package."""

import ast
import importlib
import pathlib
import re
from collections.abc import Iterator

import pytest

from simclr_jax import augment

PACKAGE = pathlib.Path(__file__).parents[1] / "simclr_jax"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def public(path: pathlib.Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of those classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_"))


def public_functions(path: pathlib.Path) -> Iterator[ast.FunctionDef]:
    return (node for node in public(path) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    for node in public(MODULES[module]):
        # A Protocol is documented on its only method.
        documented = [node, *(m for m in getattr(node, "body", []) if getattr(m, "name", "") == "__call__")]
        assert any(ast.get_docstring(n) for n in documented), f"{module}.{node.name} says nothing"


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_take_at_most_three_positional_arguments(module):
    for node in public_functions(MODULES[module]):
        names = [a.arg for a in [*node.args.posonlyargs, *node.args.args] if a.arg not in ("self", "cls")]
        assert len(names) <= 3, f"{module}.{node.name} takes {', '.join(names)}: make the later ones keyword-only"


@pytest.mark.parametrize("module", MODULES)
def test_a_key_is_the_first_argument(module):
    for node in public_functions(MODULES[module]):
        positional = [a.arg for a in [*node.args.posonlyargs, *node.args.args] if a.arg not in ("self", "cls")]
        if "key" in positional and node.name.startswith(("random_", "draw_")):
            assert positional[0] == "key", f"{module}.{node.name}"


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_a_function_that_raises_input_error_says_so(module):
    for node in public_functions(MODULES[module]):
        raises = any(isinstance(n, ast.Raise) and n.exc and "InputError" in ast.dump(n.exc) for n in ast.walk(node))
        if raises:
            assert "InputError" in (ast.get_docstring(node) or ""), f"{module}.{node.name} hides an InputError"


@pytest.mark.parametrize("module", MODULES)
def test_messages_for_the_user_are_one_line(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("InputError"):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            assert not any("\n" in text for text in texts), f"{module}, line {node.lineno}"


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_names_in_all_exist(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", ["__doc__"]):
        assert hasattr(loaded, name)


def test_every_random_augmentation_has_a_deterministic_twin():
    random = {name.removeprefix("random_") for name in dir(augment) if name.startswith("random_")}
    adjust = {name.removeprefix("adjust_") for name in dir(augment) if name.startswith("adjust_")}
    assert {"brightness", "contrast", "saturation", "hue", "gaussian_blur"} <= random
    assert {name.removeprefix("resized_") for name in random} <= adjust
    for name in random | adjust:
        for prefix in ("random_", "adjust_"):
            function = getattr(augment, prefix + name, None)
            assert function is None or function.__doc__, f"augment.{prefix}{name} says nothing"


ROOT = PACKAGE.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
WRITTEN = {"parity.md", "aot.md"}  # by programs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_120(page):
    text = re.sub(r"(?s)```.*?```|<!-- \S+: from here on.*?<!-- end of", "", page.read_text())
    prose = [line for line in text.splitlines() if not line.startswith(("|", "<", "![", "    ", "#"))]
    assert page.name in WRITTEN or [line for line in prose if len(line) > 120 and " " in line[2:]] == []
