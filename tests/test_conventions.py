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


TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def public() -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """(module, node) of all public functions and classes, and of the public methods of those classes."""
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield module, node
                for method in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        yield module, method


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    return ((module, node) for module, node in public() if isinstance(node, ast.FunctionDef))


def positional(function: ast.FunctionDef) -> list[str]:
    return [a.arg for a in [*function.args.posonlyargs, *function.args.args] if a.arg not in ("self", "cls")]


def test_every_public_name_has_a_docstring():
    for module, node in public():
        # A Protocol is documented on its only method.
        documented = [node, *(m for m in getattr(node, "body", []) if getattr(m, "name", "") == "__call__")]
        assert any(ast.get_docstring(n) for n in documented), f"{module}.{node.name} says nothing"


def test_public_functions_take_at_most_three_positional_arguments():
    for module, node in public_functions():
        names = positional(node)
        assert len(names) <= 3, f"{module}.{node.name} takes {', '.join(names)}: make the later ones keyword-only"


def test_a_key_is_the_first_argument():
    for module, node in public_functions():
        names = positional(node)
        if "key" in names and node.name.startswith(("random_", "draw_")):
            assert names[0] == "key", f"{module}.{node.name}"


def test_a_function_that_raises_input_error_says_so():
    for module, node in public_functions():
        if module.endswith("__main__"):
            continue
        raises = any(isinstance(n, ast.Raise) and n.exc and "InputError" in ast.dump(n.exc) for n in ast.walk(node))
        if raises:
            assert "InputError" in (ast.get_docstring(node) or ""), f"{module}.{node.name} hides an InputError"


def test_messages_for_the_user_are_one_line():
    for module, node in ((module, node) for module, tree in TREES.items() for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("InputError"):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            assert not any("\n" in text for text in texts), f"{module}, line {node.lineno}"


def test_nothing_of_ours_unpickles():
    """Neither by a module that does nothing else, nor by NumPy being told to."""
    unsafe = re.compile(
        r"^\s*(import|from) (pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b"
        r"|allow_pickle=True|yaml\.load\(|(?<![\w.])(eval|exec)\(",
        re.MULTILINE,
    )
    found = {str(path): unsafe.findall(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {path: hits for path, hits in found.items() if hits} == {}
    assert unsafe.search("import pickle") and unsafe.search("np.load(x, allow_pickle=True)")


def test_names_in_all_exist():
    for module in MODULES:
        if not module.endswith("__main__"):
            loaded = importlib.import_module(module)
            for name in getattr(loaded, "__all__", ["__doc__"]):
                assert hasattr(loaded, name), f"{module}.{name}"


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


def test_json_of_files_is_read_by_one_function():
    # Lists in lists by the thousand are a RecursionError for `json`, which readers of damaged files forget.
    among_ourselves = {"simclr_jax.base", "simclr_jax.planning.aot"}
    among_ourselves |= {"simclr_jax.distributed.peers", "simclr_jax.distributed.meetings"}
    for module, path in MODULES.items():
        if module not in among_ourselves:
            found = re.search(r"json\.loads?\((?!json\.dumps)", path.read_text())
            assert not found, f"{module} reads JSON by itself: use base.parse_json"
