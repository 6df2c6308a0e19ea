"""The work of `simclr-jax explore`: a projection, neighbours, pictures, fields and places, written as a page."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from simclr_jax import atomic_files, base, html_report, retrieval, units
from simclr_jax.cli import explore_fields, explore_pictures, explore_serve
from simclr_jax.run import compilation_cache, feature_file, progress
from simclr_jax.run import places as places_lib

_MAX_IN_FILE = 5000


def explore(
    *,
    features: str | None = None,
    output: str | None = None,
    serve: int | None = None,
    table: str | None = None,
    text: Sequence[str] | None = None,
    projection: str = "auto",
    clusters: int = 20,
    neighbors: int = 8,
    places: str = "auto",
    thumbnail: int | None = None,
    title: str | None = None,
) -> int:
    """Writes the map of embedded pictures, and shows it if asked to; returns the exit status.

    Args:
        features: a file that `embed` wrote; None to serve what is at `output`.
        output: a file `.html` for up to 5,000 pictures, or a folder; None for explore.html or the folder explore.
        serve: port of 127.0.0.1, 0 for any; None to serve nothing.
        table: a CSV, see `explore_fields.read_table`.
        text: words, see `explore_fields.make_word_fields`; the map is coloured by them at first.
        projection: see `retrieval.project_rows`.
        clusters, neighbors: 0 for none.
        places: "yes", "no", or "auto" for up to 5,000 pictures whose encoder is still there.
        thumbnail: pixels of a picture's longer side; None for 128, 96 or 64.
        title: heading; None for the name of the pictures.

    Raises:
        base.InputError: no such file, a value out of range, or a page that cannot be written.
    """
    progress.quiet_libraries()
    if features is None:
        if serve is None or output is None:
            raise base.InputError("--features is required, or --output and --serve to show what is there already.")
        return explore_serve.serve(pathlib.Path(output), serve)
    compilation_cache.keep()
    rows = {} if table is None else explore_fields.read_table(table)
    embedding = feature_file.load(features)
    target = pathlib.Path(output or ("explore.html" if len(embedding.names) <= _MAX_IN_FILE else "explore"))
    _check_target(target, len(embedding.names))
    asked = _Asked(projection, clusters, neighbors, places, thumbnail, title or _name(embedding))
    words = explore_fields.make_word_fields(embedding, text or ())
    with _opened(target) as folder:
        made, sheets = _make(embedding, asked, (rows, words), folder=folder)
        if folder is None:
            html_report.write_page(made, target, sheets=sheets)
        else:
            html_report.write_site(made, folder, sheets=sheets)
    again = "" if serve is not None or folder is None else f", or: simclr-jax explore --output={target} --serve"
    print(f"Wrote {target if folder is None else target / 'index.html'}: open it in a browser{again}")
    return 0 if serve is None else explore_serve.serve(target, serve)


class _Asked(NamedTuple):
    """What the flags ask for; see `explore`."""

    projection: str
    clusters: int
    neighbors: int
    places: str
    thumbnail: int | None
    title: str


def _name(embedding: feature_file.Embedding) -> str:
    """What the pictures are called: the name of their folder or data set."""
    images = str(embedding.meta["images"])
    return pathlib.PurePath(images).name or images


def _check_target(target: pathlib.Path, count: int) -> None:
    if target.suffix.lower() in (".html", ".htm"):
        if count > _MAX_IN_FILE:
            raise base.InputError(
                f"A page of one file takes at most {_MAX_IN_FILE} pictures; got {count}. Give --output a folder."
            )
        atomic_files.check_target(target)
        return
    # A folder is replaced as a whole: only one that holds nothing else.
    if target.is_dir() and {path.name for path in target.iterdir()} - {"index.html", "data"}:
        raise base.InputError(
            f"--output must be a new folder, or one that explore has written; {target} holds something else. Choose "
            "another name, or one that ends in .html for a page of one file."
        )
    atomic_files.check_folder(target, flag="--output")


@contextlib.contextmanager
def _opened(target: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """The folder that a site is written into, or None for a page of one file."""
    if target.suffix.lower() in (".html", ".htm"):
        yield None
        return
    with atomic_files.replacing_folder(target, flag="--output") as fresh:
        (fresh / "data").mkdir()
        yield fresh


def _make(
    embedding: feature_file.Embedding,
    asked: _Asked,
    given: tuple[dict[str, dict[str, str]], list[html_report.Field]],
    *,
    folder: pathlib.Path | None,
) -> tuple[html_report.Explorer, html_report.Sheets | None]:
    progress.say(f"The map of {units.counted(len(embedding.names), 'picture')} ...")
    projection = retrieval.project_rows(embedding.features, method=asked.projection)
    order = html_report.map_order(projection.positions)
    embedding = feature_file.take(embedding, order)
    k = min(asked.neighbors, len(order) - 1)
    near = []
    if k > 0:
        progress.say("Neighbours by the representation ...")
        near.append(explore_pictures.find_near(embedding.features, k=k, title="Nearest by the representation"))
    side = asked.thumbnail or explore_pictures.default_side(len(order))
    drawn = explore_pictures.draw_sheets(embedding, side=side, folder=None if folder is None else folder / "data")
    if k > 0 and drawn.sheets is not None:
        progress.say("Neighbours by pixels ...")
        pixels = explore_pictures.centred(drawn.pixels)
        near.append(explore_pictures.find_near(pixels, k=k, title="Nearest by pixels"))
    table, words = given
    fields = explore_fields.make_fields(embedding, near, clusters=asked.clusters, table=table)
    start = len(fields) if words else 0
    fields += [field._replace(values=field.values[order]) for field in words]
    found = _places(embedding, asked.places)
    explorer = html_report.Explorer(
        title=asked.title,
        positions=projection.positions[order],
        names=embedding.names,
        notes=_notes(embedding, projection.title, drawn.lost),
        fields=fields,
        near=near,
        places=found,
        label=0 if fields and fields[0].name == "label" and fields[0].names is not None else -1,
        start=start,
        texts=explore_pictures.texts_of(embedding),
    )
    return explorer, drawn.sheets


def _notes(embedding: feature_file.Embedding, projection: str, lost: int) -> list[str]:
    meta = embedding.meta
    made = (
        f"{projection} of {embedding.features.shape[1]} features (layer {meta['layer']}, {meta['protocol']}, weights "
    )
    notes = [f"{made}{meta['fingerprint'][:12]})."]
    if lost:
        told = (
            "The pictures cannot be read any more: points only."
            if lost == len(embedding.names)
            else (f"{lost:,} pictures cannot be read any more and are shown as grey squares.")
        )
        notes.append(told)
    return notes


def _places(embedding: feature_file.Embedding, when: str) -> html_report.Places | None:
    if when == "no" or (when == "auto" and len(embedding.names) > _MAX_IN_FILE):
        return None
    progress.say("Places of pictures, by the encoder (--places=no goes without) ...")
    try:
        found = places_lib.make_places(embedding, show=True)
    except base.InputError as error:
        if when == "yes":
            raise
        progress.say(f"The page goes without places: {error}")
        return None
    grid, depth = found.values.shape[1], found.values.shape[3]
    note = (
        f"{grid} x {grid} places of the square that the network sees; {depth} of {found.num_features} directions, with "
        f"{100 * found.kept:.0f} % of how places differ."
    )
    return html_report.Places(found.values, found.crop, note)
