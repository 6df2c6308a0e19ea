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


def listing() -> str:
    """All names in few words, families last: "demo, smoke, cifar10, cifar10_{byol, tiny}"."""
    names = sorted(configs())
    families: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition("_")
        families.setdefault(first, []).append(rest)
    large = {first: [rest for rest in members if rest] for first, members in families.items() if len(members) > 2}
    alone = [name for name in names if "_" not in name or name.split("_")[0] not in large]
    return ", ".join([*alone, *(f"{first}_{{{', '.join(members)}}}" for first, members in large.items())])
