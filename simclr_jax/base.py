"""The nouns of the project: what a batch, a method and a training state are.

Everything else imports this file and this file imports nothing of ours. Letters used in every docstring:
B batch, V views, N = B*V rows, D representation, d projection, K steps or neighbours, C classes;
`h` representation [N, D], `z` projection [B, V, d]. JAX is imported when it is used: processes that only read pictures
do without.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, Protocol, TypedDict

if TYPE_CHECKING:
    import jax

    Array = jax.Array
    Views = Array | tuple[Array, ...]
    Metrics = Mapping[str, Array]
    Schedule = Callable[[Array], Array]

PyTree = Any


def __getattr__(name: str) -> Any:
    """The types that are JAX's, once they are used: what only reads a command line or a path does not wait for JAX."""
    if name not in ("Array", "Views", "Metrics", "Schedule"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import jax

    types = {
        "Array": jax.Array,
        "Views": jax.Array | tuple[jax.Array, ...],
        "Metrics": Mapping[str, jax.Array],
        "Schedule": Callable[[jax.Array], jax.Array],
    }
    return types[name]


class InputError(ValueError):
    """A mistake of the user: the message is one line with the rule, what was received and the remedy.

    Entry points print it and exit with status 2; no traceback is shown.
    """


# What terminals obey: sequences that begin with ESC [ or ESC ], and ESC with one letter.
_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\|$)|[@-Z\\^_a-z])")


def one_line(text: object, limit: int = 400) -> str:
    """What a user typed or a library said, fit to stand in a message of one line.

    Colours and other codes for terminals are taken out, runs of white space become one space, and what cannot be
    printed is escaped. Beyond `limit` characters the middle is left out, as a library's reason stands at either end.
    """
    words = " ".join(_TERMINAL_CODES.sub("", str(text)).split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)
    half = (limit - len(" ... ")) // 2
    return plain if len(plain) <= limit else f"{plain[:half]} ... {plain[-half:]}"


# What moves the cursor of a terminal or sets its colours: controls but for tab and newline.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def plain(text: str) -> str:
    """Text for a terminal, on as many lines as it has: other controls than newlines and tabs are escaped."""
    return text.translate(_CONTROLS)


def parse_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of JSON text from a file, which anybody may have written.

    Raises:
        ValueError: it is not JSON, not in UTF-8, or lists lie in lists by the thousand (a RecursionError by itself).
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("its lists lie in lists without end") from error


# What Python has in the place of bytes of a name that are not UTF-8, and other halves of letters.
_NOT_UTF8 = re.compile("[\\ud800-\\udfff]")


def as_utf8(text: str) -> str:
    """Text that UTF-8 can hold: what stands for a byte of a file's name that is not UTF-8 is escaped, as \\xff."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return _NOT_UTF8.sub(escape, text)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings such as a config, by "section.key"."""
    entries: dict[str, Any] = {}
    for key, value in tree.items():
        entries.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return entries


def platform(mesh: jax.sharding.Mesh | None = None) -> str:
    """What the devices of `mesh` are, here or only described to a compiler: "cpu", "gpu" or "tpu".

    Without a mesh, what JAX runs on by default in this process.
    """
    import jax

    found = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return "gpu" if found in ("cuda", "rocm") else found


def check_choice(value: object, choices: Collection[str], *, name: str, remedy: str = "") -> None:
    """Raises InputError unless `value` is one of `choices`; the message calls it `name` and lists them."""
    if not isinstance(value, str) or value not in choices:
        got = repr(one_line(value, 80)) if isinstance(value, str) else one_line(repr(value), 80)
        raise InputError(f"{name} must be one of {_listed(choices)}; got {got}.{' ' * bool(remedy)}{remedy}")


def _listed(choices: Collection[str]) -> str:
    """Names with commas; of a long list neighbours of one beginning are drawn together: resnet18|34|50."""
    if sum(map(len, choices)) <= 200:
        return ", ".join(choices)
    groups: dict[str, list[str]] = {}
    for name in choices:
        ending = re.search(r"[0-9]+$", name) or re.search(r"[^_]+$", name)
        start = name[: ending.start()] if ending else name
        groups.setdefault(start, []).append(name[len(start) :])
    return ", ".join(start + "|".join(endings) for start, endings in groups.items())


def check_number(name: str, value: float, remedy: str, *, least: float | None = None) -> None:
    """Raises InputError unless the setting `name` is finite and above 0, or at least `least`."""
    large_enough = value > 0 if least is None else value >= least
    if not (large_enough and value < float("inf")):
        rule = "above 0" if least is None else f"at least {least:g}"
        raise InputError(f"{name} must be {rule} and finite; got {value}. {remedy}")


class Batch(TypedDict):
    """One global batch of undecorated images.

    image: uint8 [B, H, W, 3], RGB. All images of a data set share one canvas [H, W].
    size: int32 [B, 2], (height, width) of the valid region, which starts at the top left corner of the canvas;
        equal to (H, W) unless images of mixed sizes were fitted to one canvas.
    label: int32 [B]; -1 = unlabelled. A self-supervised method never reads it.
    index: int32 [B], place of the example in its data set, the same in every epoch; -1 on padding rows. For methods
        that remember something of every image.
    position: int32 [B], place of the example in the global batch; random numbers are derived from it, so that they
        do not depend on how the batch is spread over devices.
    mask: bool [B], False on padding rows.
    text: int32 [B, L], the tokens of one of the texts of every image; only of data that have texts.
    """

    image: Array
    size: Array
    label: Array
    index: Array
    position: Array
    mask: Array
    text: NotRequired[Array]


class TrainState(NamedTuple):
    """All that a run carries from step to step: arrays only, no functions.

    step: int32 scalar, number of updates made.
    params: `params["encoder"]` is the backbone in every method.
    method_state: `method_state["batch_stats"]["encoder"]` holds the backbone's BatchNorm statistics in every method.
    opt_state: the optimizer's state.
    """

    step: Array
    params: PyTree
    method_state: PyTree
    opt_state: PyTree


class MakeViews(Protocol):
    """The augmentation: images -> views."""

    def __call__(self, key: Array, images: Array, sizes: Array | None = None, positions: Array | None = None) -> Views:
        """Draws V augmented views of every image.

        Args:
            key: the step's key; per-example keys are folded in from `positions`.
            images: uint8 [0, 255] or float [0, 1], [B, H, W, 3]; or one image [H, W, 3].
            sizes: int32 [B, 2], valid (height, width) of every image; None where images fill their canvas.
            positions: int32 [B], place of every image in the global batch; None for 0 to B - 1.

        Returns:
            float32 [B, V, h, w, 3] in [0, 1]; [V, h, w, 3] for one image. With views of several sizes (multi-crop) a
            tuple of such arrays, the large views first.

        Raises:
            InputError: images of another shape or type.
        """
        ...


class Init(Protocol):
    """The method's parameters and state before the first update."""

    def __call__(self, key: Array, views: Any) -> tuple[PyTree, PyTree]:
        """Initial (params, method_state) for views shaped like float [B, V, h, w, 3], or a tuple of such arrays."""
        ...


class Embed(Protocol):
    """The method's network."""

    def __call__(
        self, params: PyTree, method_state: PyTree, views: Any, batch: Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        """Runs the network, row by row: (outputs, method_state). `outputs` has leading axis B.

        `views` is one array [B, V, h, w, 3]; under a recipe with small crops, a tuple of arrays, the large ones first.
        """
        ...


class Loss(Protocol):
    """The method's loss."""

    def __call__(self, outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The loss on the GLOBAL batch of outputs, without a network: (loss, (method_state, metrics))."""
        ...


class Update(Protocol):
    """What the method does after an update of the parameters."""

    def __call__(self, params: PyTree, method_state: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        """(params, method_state) once the optimizer has made update `step`, int32 counted from 0.

        Here a moving average follows the parameters, and parameters that must stay in a set are brought back to it.
        """
        ...


def keep(params: PyTree, method_state: PyTree, step: Array) -> tuple[PyTree, PyTree]:
    """The `Update` of a method that does nothing after an update."""
    del step
    return params, method_state


class Method(NamedTuple):
    """A self-supervised method as four pure functions; one training loop serves them all.

    num_views: views of every image that `embed` takes; None where any number, or the loss checks it.
    needs: what `embed` reads of the batch beside the views, of "index" (places in the data set) and "text".
    """

    init: Init
    embed: Embed
    loss: Loss
    update: Update
    num_views: int | None = None
    needs: tuple[str, ...] = ()


def check_given(method: Method, views: Views, given: Mapping[str, Array | None]) -> None:
    """Raises InputError unless there are as many views as the method takes, and what else it reads."""
    shape = (views[0] if isinstance(views, tuple) else views).shape
    if method.num_views not in (None, shape[1]):
        raise InputError(
            f"views must be [B, {method.num_views}, h, w, 3] for this method, which takes {method.num_views} of every "
            f"image; got {list(shape)}. Views of an image are on axis 1."
        )
    arguments = {"index": ("index", "places in the data set, [B]"), "text": ("texts", "tokens, [B, L]")}
    for name in method.needs:
        if given[name] is None:
            argument, what = arguments[name]
            raise InputError(f"{argument} must be given to this method: {what}, int32; got none.")
