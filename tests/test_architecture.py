"""The floors of the package, what may import what, and the size of files and functions."""

import ast
import functools
import io
import pathlib
import subprocess
import sys
import tokenize
from collections.abc import Iterator

import pytest

from simclr_jax.__main__ import VERBS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "simclr_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# Room -> the rooms that it may import beside itself; the order is that of the floors.
GROUND = {"base", "atomic_files", "units"}
LIBRARY = ("augment", "losses", "models", "methods", "optim", "train_step", "probes", "retrieval", "data", "interop")
ALLOWED = {
    "base": set(),
    "units": set(),
    "atomic_files": {"base"},
    **{room: {"base"} for room in LIBRARY},
    "data": {"base", "units"},
    "methods": {"base", "losses", "models"},
    "train_step": {"base", "optim"},
    "distributed": {"base"},
    "run": {*GROUND, *LIBRARY, "distributed"} - {"losses"},
    "planning": {*GROUND, *LIBRARY, "distributed", "run"},
    "html_report": GROUND,
    "cli": {*GROUND, *LIBRARY, "distributed", "run", "planning", "html_report"},
    "__main__": {*GROUND, "run", "cli"},
    "__init__": {"base", *LIBRARY, "run"},
}
# Outside package -> the rooms that may import it.
HOMES = {
    "orbax": {"run.checkpoint"},
    "ml_collections": {"run.config"},
    "absl": {"run.config"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tensorboardX": {"run.workdir"},
    "safetensors": {"interop"},
    "tensorflow": {"interop"},
    "av": {"run.clips"},
    "onnx": {"interop"},
    "huggingface_hub": {"interop"},
    "torch": {"interop"},
    "torchvision": {"interop"},
    "jinja2": {"html_report"},
    "matplotlib": {"html_report"},
    "pyarrow": {"run.feature_file", "data.pairs"},
    "tokenizers": {"data.tokens"},
    "usearch": {"retrieval"},
    "umap": {"retrieval"},
}
LAZY = {"cv2", "grain", "jinja2", "matplotlib", "PIL", "skimage", "sklearn", "tensorboardX", "tensorflow_datasets"} | {
    *("av", "huggingface_hub", "onnx", "pyarrow", "safetensors"),
    *("tensorflow", "tokenizers", "torch", "torchvision", "timm", "umap", "usearch"),
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib"}


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports_of(path: pathlib.Path, *, at_import: bool = False) -> set[str]:
    """Dotted names imported by a file; `at_import` leaves out the imports inside functions and for type checkers."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        lazy = isinstance(node, ast.FunctionDef) or typing_only
        if not (at_import and lazy):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    return set(visit(parse(path)))


def ours(path: pathlib.Path) -> set[str]:
    return {name.removeprefix("simclr_jax.") for name in imports_of(path) if name.startswith("simclr_jax.")}


# What holds for every file is one test, not two hundred: each would take longer to report than to run.


def test_imports_go_down_only():
    for path in FILES:
        room = room_of(path)
        told = f"{path} belongs to no floor: add it to this test and to the README's picture of the tree"
        assert room in ALLOWED, told
        for name in ours(path):
            target = name.split(".")[0]
            assert target == room or target in ALLOWED[room], f"{path} must not import {name}"
            if room == "cli" and target == "cli":
                own = name.startswith(f"cli.{path.stem.split('_')[0]}_") or name == "cli.flags"
                assert own, f"{path}: a verb imports the flags and VERB_*.py of its own, never another verb"


def test_the_rooms_are_few_and_their_imports_make_no_circle():
    arrows = {(room_of(path), name.split(".")[0]) for path in FILES for name in ours(path)}
    arrows = {(source, target) for source, target in arrows if source != target}
    assert len(ALLOWED) <= 20 and len(arrows) <= 70
    order = list(ALLOWED)
    assert all(order.index(target) < order.index(source) for source, target in arrows)


def test_every_library_is_imported_in_its_home_only():
    for path in FILES:
        top = {name.split(".")[0] for name in imports_of(path)}
        assert not top & FORBIDDEN, path
        for library, homes in HOMES.items():
            within = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            assert library not in top or within.startswith(tuple(homes)), f"{path} must not import {library}"


def test_heavy_optional_libraries_are_imported_where_they_are_used():
    for path in FILES:
        assert not {name.split(".")[0] for name in imports_of(path, at_import=True)} & LAZY, path


@pytest.mark.parametrize("verb", ["flags", "flags_outputs", *VERBS])
def test_a_verb_declares_its_flags_without_jax(verb):
    light = {"simclr_jax.base", "simclr_jax.atomic_files", "simclr_jax.units", "simclr_jax.cli.flags"}
    light |= {"simclr_jax.cli.flags_outputs"}
    light |= {f"simclr_jax.run.{name}" for name in ("config", "paths", "shipped_configs")}
    for name in imports_of(PACKAGE / "cli" / f"{verb}.py", at_import=True):
        assert name in light or name.split(".")[0] in sys.stdlib_module_names, f"{verb}.py: import {name} in main"


def test_configs_are_values_only():
    for path in CONFIGS:
        assert {name.split(".")[0] for name in imports_of(path)} <= {"ml_collections", "configs"}, path


def test_every_module_and_test_has_a_docstring_and_there_are_no_utils():
    for path in [*FILES, *CONFIGS, *ROOT.glob("tests/**/test_*.py")]:
        assert ast.get_docstring(parse(path)), f"{path} does not say what belongs in it"
        assert not {"utils", "util", "helpers", "common", "misc"} & {part.removesuffix(".py") for part in path.parts}


def test_files_fit_in_350_lines_and_functions_in_40_lines_of_code():
    assert {str(path): found for path in FILES if (found := what_is_too_long(path))} == {}


def what_is_too_long(path: pathlib.Path) -> list[str]:
    """The file, if it has more than 350 lines, and its functions of more than 40 lines of code."""
    source = path.read_text()
    found, code = ["the file"] * (source.count("\n") > 350), code_lines(source)
    for function in functions(parse(path)):
        inner = [set(range(f.lineno, f.end_lineno + 1)) for f in functions(function) if f is not function]
        own = code & set(range(function.lineno, function.end_lineno + 1)) - set().union(*inner)
        if len(own) > 40:
            found.append(f"{function.name} has {len(own)} lines of code")
    return found


def test_what_is_too_long_is_found(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("def long():\n" + "    x = 1\n" * 40 + "\n" * 320)
    assert what_is_too_long(path) == ["the file", "long has 41 lines of code"]
    path.write_text("def fits():\n" + "    x = 1\n" * 39 + "\n" * 310)
    assert what_is_too_long(path) == []


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: neither blank nor comment nor docstring."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(body[0].lineno, body[0].end_lineno + 1))
    return lines


def test_no_array_is_made_at_import():
    """An array would start the backend and take a device before the program has chosen one."""

    def calls(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        later = isinstance(node, ast.FunctionDef | ast.Lambda)
        parts = [node.args, *getattr(node, "decorator_list", [])] if later else ast.iter_child_nodes(node)
        for part in parts:
            yield from calls(part)

    makers = ("jnp.", "jax.numpy.", "jax.random.")
    for path in FILES:
        assert not [name for name in calls(parse(path)) if name.startswith(makers)], path


def test_the_program_starts_without_tensorflow_torch_and_plotting():
    code = """
import sys
import simclr_jax
assert not any(name.startswith(("jax", "numpy", "simclr_jax.")) and name != "simclr_jax" for name in sys.modules)
from simclr_jax.run import config as config_lib
from simclr_jax.run import setup
run = setup.make_run(config_lib.load_file("smoke").to_dict())
assert run.num_steps > 1
print(*{name.split(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "jax" in loaded
    assert not loaded & {"tensorflow", "torch", "grain", "matplotlib", "tensorflow_datasets", "jinja2", "tensorboardX"}
