"""Which folders of a data set are splits, which are classes, and what is held out: decided from paths alone.

A layout is either understood, and then described in one line, or refused: never quietly given another meaning.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from simclr_jax import base, units
from simclr_jax.data import imageset, scan

HELD_OUT_SHARE = 0.1
# Fewer test images than this make scores that jump; see `_check_test`.
SMALL_TEST = 10
_ROLES = {
    **dict.fromkeys(("train", "training", "trainset", "trn", "learn", "learning"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "vali", "validation", "validate", "valset", "validset", "dev", "devel"), "valid"),
    **dict.fromkeys(("development", "eval", "evaluation", "holdout", "heldout"), "valid"),
}
_FILLERS = frozenset("image images img imgs picture pictures pic pics photo photos set data dataset split seg".split())  # noqa: SIM905


class ImageFile(NamedTuple):
    """An image of the data set: its name (path below the data folder), where it is, its split and its class folder
    ("" = none). offset: where its bytes begin in the file at `path`; 0 for a file of its own."""

    name: str
    path: str
    split: str
    class_name: str
    num_bytes: int
    mtime_ns: int
    offset: int = 0


class Layout(NamedTuple):
    """What was understood.

    files: images of both splits, sorted by name.
    train_from, test_from: where the splits come from, in words.
    left_out: folder -> number of its images that belong to no split.
    warnings: a sentence for each thing that may not be meant so.
    """

    files: list[ImageFile]
    train_from: str
    test_from: str
    left_out: dict[str, int]
    warnings: tuple[str, ...]


def split_role(name: str) -> str | None:
    """ "train", "valid" or "test" if a folder's name says so (`Training`, `val2017`, `test_images`), else None."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    roles = [_ROLES[word] for word in words if word in _ROLES]
    others = [word for word in words if word not in _ROLES and word not in _FILLERS]
    return roles[0] if len(roles) == 1 and not others else None


def understand(listing: scan.Listing, title: str) -> Layout:
    """The splits and classes of a folder.

    If it has a folder for training (see `split_role`) and one for tests or validation, or the first alone, these are
    the splits. A test folder goes before a validation folder, unless only the latter has the training classes.
    Otherwise, and if there is no test folder, a tenth of the images is held out class by class. Below that, the first
    folder on the way to a file is its class; files directly at the top are unlabelled.

    Args:
        listing: what lies in the folder.
        title: how messages call it.

    Raises:
        base.InputError: folders look like splits, but not in a way that can be understood.
    """
    splits = _find_splits(listing.files, title)
    if splits:
        chosen = [
            (file, split, splits[split]) for file in listing.files for split in splits if _is_in(file, splits[split])
        ]
    else:
        _refuse_nested_splits(listing.files, title)
        chosen = [(file, "train", ()) for file in listing.files if not file.is_linked]
    renamed, warnings = _same_classes(chosen)
    files = [_describe(file, split, depth=len(top), renamed=renamed) for file, split, top in chosen]
    test_from = f"{'/'.join(splits['test'])}/" if "test" in splits else "a tenth held out, class by class"
    if "test" not in splits:
        held_out = choose_held_out((file.name, file.class_name) for file in files)
        files = [file._replace(split="test" if file.name in held_out else "train") for file in files]
    used = {file.name for file in files}
    left_out = Counter(
        f"{file.parts[0]}/" if len(file.parts) > 1 else "the top"
        for file in listing.files
        if "/".join(file.parts) not in used and not (file.is_linked and not splits)
    )
    train_from = f"{'/'.join(splits['train'])}/" if splits else ""
    warnings += _check_classes(files, listing, splits)
    return Layout(files, train_from, test_from, dict(left_out), tuple(warnings))


class _Top(NamedTuple):
    """A folder of the root: the number of images directly in it, and in each of its folders."""

    direct: int
    below: Counter[str]


def _tops(files: Iterable[scan.Found], above: tuple[str, ...] = ()) -> dict[str, _Top]:
    tops: dict[str, _Top] = {}
    depth = len(above)
    for file in files:
        if file.parts[:depth] != above or len(file.parts) < depth + 2:
            continue
        top = tops.setdefault(file.parts[depth], _Top(0, Counter()))
        if len(file.parts) > depth + 2:
            top.below[file.parts[depth + 1]] += 1
        else:
            tops[file.parts[depth]] = top._replace(direct=top.direct + 1)
    return tops


def _find_splits(files: list[scan.Found], title: str) -> dict[str, tuple[str, ...]]:
    """{"train": path below the root, "test": ...}; "test" may be absent; empty if there are no splits."""
    tops = _tops(files)
    roles = {name: split_role(name) for name in tops}
    trains = [name for name, role in roles.items() if role == "train"]
    tests = [name for name, role in roles.items() if role in ("test", "valid")]
    if trains and (tests or len(tops) == len(trains)):
        if len(trains) > 1:
            raise base.InputError(
                f"{title} must have one folder for training; got {_names(trains)}. Move all but one away, or their "
                "images together."
            )
        train = _descend(files, trains[0])
        classes = {_fold(name) for name in _tops(files, train)}

        def preference(name: str) -> tuple[bool, bool, str]:
            own = {_fold(below) for below in _tops(files, _descend(files, name))}
            return bool(classes) and not classes & own, roles[name] != "test", name.casefold()

        return {"train": train} | ({"test": _descend(files, min(tests, key=preference))} if tests else {})
    _refuse_half_splits(tops, trains, tests, title=title)
    return {}


def _descend(files: list[scan.Found], top: str) -> tuple[str, ...]:
    """The split folder itself, or the one of the same kind which is all that it holds (seg_train/seg_train/...)."""
    here = _tops(files)[top]
    inner = next(iter(here.below), "")
    is_doubled = not here.direct and len(here.below) == 1 and split_role(inner) == split_role(top)
    return (top, inner) if is_doubled else (top,)


def _refuse_half_splits(tops: Mapping[str, _Top], trains: list[str], tests: list[str], *, title: str) -> None:
    """Raises InputError where a folder looks like a split, with class folders inside, but its partner is missing."""
    for name in trains or tests:
        others = [other for other in tops if other != name]
        inside = {_fold(below) for below in tops[name].below}
        shared = {_fold(other) for other in others} | {_fold(b) for other in others for b in tops[other].below}
        looks_like_split = others and not tops[name].direct and (name in trains or inside & shared)
        is_flat_train = name in trains and others and all(not tops[other].direct for other in others)
        if looks_like_split or is_flat_train:
            missing = "test" if name in trains else "train"
            raise base.InputError(
                f"{title} has a folder {imageset.printable(name)}, which looks like a split, but none is called "
                f"{missing} beside it; got {_names(others)}. Name the folders train and test (or valid); if "
                f"{imageset.printable(name)} is a class, give it another name."
            )


def _refuse_nested_splits(files: list[scan.Found], title: str) -> None:
    """Raises InputError where the splits lie one level further down."""
    tops = _tops(files)
    for name, top in tops.items():
        roles = {split_role(below) for below in top.below}
        if "train" not in roles or not roles & {"test", "valid"}:
            continue
        inside = f"{imageset.printable(name)} holds {_names(top.below)}"
        if len(tops) == 1:
            raise base.InputError(
                f"{title} must hold the splits or classes themselves; {inside}: one level too high. "
                f"Give the folder {imageset.printable(name)} inside it."
            )
        raise base.InputError(
            f"{title} must hold splits above classes (train/ant, test/ant); {inside}. Order the folders so, or give "
            f"{imageset.printable(name)} alone."
        )


def _is_in(file: scan.Found, top: tuple[str, ...]) -> bool:
    return file.parts[: len(top)] == top and len(file.parts) > len(top)


def _fold(name: str) -> str:
    return name.casefold().strip()


def _class_of(file: scan.Found, depth: int) -> str:
    return file.parts[depth] if len(file.parts) > depth + 1 else ""


def _same_classes(chosen: list[tuple[scan.Found, str, tuple[str, ...]]]) -> tuple[dict[str, str], list[str]]:
    """({name in one split: name of the same class in the other}, sentences): names which differ in case only."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file, split, top in chosen:
        name = _class_of(file, len(top))
        seen[_fold(name)][split].add(name)
    renamed: dict[str, str] = {}
    warnings = []
    for names in seen.values():
        variants = sorted(set().union(*names.values()))
        if len(variants) == 1:
            continue
        if all(len(of_split) == 1 for of_split in names.values()):
            (kept,) = names["train"]
            renamed |= dict.fromkeys(variants, kept)
            warnings.append(f"{_names(variants)} differ in case only and are taken for one class")
        else:
            warnings.append(f"{_names(variants)} differ in case only and are taken for {len(variants)} classes")
    return renamed, warnings


def _describe(file: scan.Found, split: str, *, depth: int, renamed: Mapping[str, str]) -> ImageFile:
    class_name = _class_of(file, depth)
    name = "/".join(file.parts)
    return ImageFile(name, file.path, split, renamed.get(class_name, class_name), file.num_bytes, file.mtime_ns)


def choose_held_out(files: Iterable[tuple[str, str]]) -> set[str]:
    """The names that are held out of (name, class) pairs: about a tenth of each class, by a hash of the name.

    A class of at least two images gives at least one and keeps at least one. Which ones depends on the names within
    the class alone, so that it is the same everywhere and hardly changes when files are added. If no class has two
    images, one image is held out of all.
    """
    groups = defaultdict(list)
    for name, class_name in files:
        digest = hashlib.sha256(name.encode()).digest()
        groups[class_name].append((int.from_bytes(digest[:8], "big"), name))
    held_out: set[str] = set()
    for group in groups.values():
        group.sort()
        below = sum(value < HELD_OUT_SHARE * 2**64 for value, _ in group)
        held_out |= {name for _, name in group[: min(max(below, 1), len(group) - 1)]}
    everything = sorted(item for group in groups.values() for item in group)
    return held_out or {name for _, name in everything[: len(everything) > 1]}


def _check_classes(files: list[ImageFile], listing: scan.Listing, splits: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Sentences about classes: only one, in one split only, called like a split, without images."""
    classes = {split: {f.class_name for f in files if f.split == split} - {""} for split in ("train", "test")}
    every = classes["train"] | classes["test"]
    warnings = []
    if len(every) == 1:
        inside = (
            {part for f in listing.files for part in f.parts[:-1][-1:]}
            - every
            - {p for t in splits.values() for p in t}
        )
        holds = f" (it holds {_names(inside)})" if inside else ""
        warnings.append(f"one class, {_names(every)}{holds}: is the folder one level too high?")
    if "test" in splits and classes["test"]:
        for split, other in (("train", "test"), ("test", "train")):
            only = classes[split] - classes[other]
            if only and classes[other]:
                warnings.append(f"{_names(only)}: images for {split} only, none for {other}")
    if not splits:
        odd = [name for name in every if split_role(name)]
        if odd:
            warnings.append(f"{_names(odd)}: named like a split, but taken for a class; a split needs train and test")
    tops = list(splits.values()) or [()]
    filled = {file.parts[:depth] for file in listing.files for depth in range(1, len(file.parts))}
    is_split = {folder for folder in listing.folders if len(folder) == 1 and split_role(folder[0])}
    empty = sorted(f for f in listing.folders - filled if f[:-1] in tops or f in is_split)
    if empty:
        warnings.append(f"{_names('/'.join(folder) for folder in empty)}: no image inside")
    return warnings


def check_test(files: list[ImageFile]) -> list[str]:
    """Sentences about the test images if they are too few to score labels on."""
    classes = {file.class_name for file in files} - {""}
    tests = [file for file in files if file.split == "test" and file.class_name]
    tested = {file.class_name for file in tests}
    if len(classes) < 2 or (len(tests) >= SMALL_TEST and len(tested) > 1):
        return []
    images = units.counted(len(tests), "test image")
    return [f"only {images} with a label, of {len(tested)} of {len(classes)} classes: scores on them say little"]


def _names(names: Iterable[str]) -> str:
    """A few names for a message."""
    shown = sorted(imageset.printable(name) for name in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
