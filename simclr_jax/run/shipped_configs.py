"""Where the configs are that travel with the package. Imports nothing of ours, so that help comes at once."""

import pathlib


def root() -> pathlib.Path:
    """The folder that holds `configs/`: inside the installed package, or the checkout the package runs from."""
    package = pathlib.Path(__file__).parents[1]
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent


def configs() -> dict[str, pathlib.Path]:
    """Bare name -> file of every config that travels with the package."""
    return {path.stem: path for path in sorted((root() / "configs").glob("*.py")) if path.stem != "__init__"}
