"""Texts as numbers: byte-level BPE by the library `tokenizers`, trained on the run's own texts or given in a file.

A row of tokens is [begin, ..., end, 0, 0 ...]: begin and end are the two highest numbers of the vocabulary, as in CLIP,
so that the end is where the highest number stands.
"""

import gzip
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras, imageset

MIN_VOCAB_SIZE = 300  # 256 bytes, begin and end, and some words


class Tokenizer(NamedTuple):
    """encode: texts -> int32 [M, length]. content: what a run keeps in tokenizer.json, JSON of `tokenizers`."""

    encode: Callable[[Sequence[str]], np.ndarray]
    content: str


def make_tokenizer(
    texts: Iterable[str] = (),
    *,
    tokenizer: str | None = None,
    vocab_size: int = 8192,
    length: int = 32,
    kept: str | None = None,
) -> Tokenizer:
    """A tokenizer: the one that a run has kept, one from a file, or one trained on texts.

    Training is a function of the texts alone. Letters are lowered. A text that is too long loses its end.

    Args:
        texts: to train on, where there is neither of the others.
        tokenizer: a file: .json of the library tokenizers, or CLIP's merges (merges.txt of the hub, or
            bpe_simple_vocab_16e6.txt.gz of OpenAI); None for one that is trained.
        vocab_size: numbers of the tokens are below it; at least 300. CLIP's is 49408.
        length: tokens of a row; 77 in CLIP.
        kept: `Tokenizer.content` of a run that goes on or is evaluated.

    Raises:
        base.InputError: a number is out of range, the file cannot be read or has more tokens, or the package tokenizers
            is missing.

    Example:
        >>> tokenizer = data.make_tokenizer(["a dog runs", "a dog sleeps"], vocab_size=300, length=8)
        >>> tokenizer.encode(["a dog"])[0, [0, -1]].tolist()
        [298, 0]
    """
    if vocab_size < MIN_VOCAB_SIZE or length < 3:
        raise base.InputError(
            f"text.vocab_size must be at least {MIN_VOCAB_SIZE} and text.length at least 3; got {vocab_size} and "
            f"{length}. Use 8192 and 32, of CLIP's vocabulary 49408 and 77."
        )
    library = extras.require("tokenizers")
    if kept is not None:
        made = _kept(library, kept)
    elif tokenizer is not None:
        made = _read(library, pathlib.Path(tokenizer).expanduser())
    else:
        made = _train(library, texts, num_tokens=vocab_size - 2)
    highest = max(made.get_vocab(with_added_tokens=False).values(), default=0)
    special = [made.token_to_id(word) for word in _SPECIAL]
    is_clip = special == [vocab_size - 2, vocab_size - 1]
    if highest >= vocab_size - 2 and not is_clip:
        raise base.InputError(
            f"text.vocab_size must be above all tokens, begin and end; got {vocab_size} and {highest + 1} tokens. "
            f"Use {highest + 1 if None not in special else highest + 3}."
        )

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), length), np.int32)
        for row, found in zip(rows, made.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ids = [vocab_size - 2, *found.ids[: length - 2], vocab_size - 1]
            row[: len(ids)] = ids
        return rows

    return Tokenizer(encode, made.to_str())


def pad_texts(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """int32 [N, C, L]: the tokens of all texts of every example; what is missing to the most, C, is -1.

    Raises:
        base.InputError: an example has no text.
    """
    counts = np.asarray([len(own) for own in texts])
    if not counts.all():
        raise base.InputError("Every picture needs a text; got one without. Leave it out.")
    flat = tokenizer.encode([text for own in texts for text in own])
    rows = np.full((len(texts), counts.max(), flat.shape[1]), -1, np.int32)
    rows[np.arange(counts.max()) < counts[:, None]] = flat
    return rows


_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_MOST_BYTES = 2**25  # of merges; CLIP's have 3 MB
_NUM_CLIP_MERGES = 48894  # the file of OpenAI has more


def _train(library: Any, texts: Iterable[str], *, num_tokens: int) -> Any:
    made = library.Tokenizer(library.models.BPE())
    made.normalizer = library.normalizers.Sequence([library.normalizers.NFC(), library.normalizers.Lowercase()])
    # A space in front: a word is the same at the beginning of a text and within.
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        texts, library.trainers.BpeTrainer(vocab_size=num_tokens, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def _read(library: Any, path: pathlib.Path) -> Any:
    try:
        if path.suffix == ".json":
            return library.Tokenizer.from_file(str(path))
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES / 1e6:.0f} MB, unpacked")
        return _clip_tokenizer(library, content.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise base.InputError(
            f"text.tokenizer must be a .json of the library tokenizers, or CLIP's merges (.txt, .txt.gz); "
            f"{imageset.printable(str(path))}: {base.one_line(error, 80)}. Check the path."
        ) from error


def _kept(library: Any, content: str) -> Any:
    try:
        return library.Tokenizer.from_str(content)
    except Exception as error:  # the library raises plain Exception
        raise base.InputError(
            f"A run that reads texts keeps its tokenizer in tokenizer.json; it is damaged: {base.one_line(error, 80)}. "
            "Copy it there again."
        ) from error


def _clip_tokenizer(library: Any, merges: str) -> Any:
    """CLIP's tokenizer from the lines of its merges, of which the first one is a title.

    Reference: simple_tokenizer.py of openai/CLIP. Difference: no mending of badly decoded text (ftfy) and no HTML.
    """
    lines = merges.split("\n")[1 : 1 + _NUM_CLIP_MERGES]
    pairs = [tuple(line.split()) for line in lines if len(line.split()) == 2]
    letters = [_BYTE_LETTERS[byte] for byte in _BYTE_ORDER]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs), *_SPECIAL]
    model = library.models.BPE(
        vocab={word: number for number, word in enumerate(words)}, merges=pairs, end_of_word_suffix="</w>"
    )
    made = library.Tokenizer(model)
    normal, split = library.normalizers, library.pre_tokenizers
    spaces = normal.Replace(library.Regex(r"\s+"), " ")
    made.normalizer = normal.Sequence([normal.NFC(), spaces, normal.Lowercase(), normal.Strip()])
    words_of = library.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = split.Sequence(
        [split.Split(words_of, "removed", invert=True), split.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return made


# The printable bytes stand for themselves, the others for letters from 256 on: in this order CLIP numbers them.
_BYTE_ORDER = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _BYTE_ORDER]
_BYTE_ORDER += _OTHERS
_BYTE_LETTERS = {byte: chr(256 + _OTHERS.index(byte)) if byte in _OTHERS else chr(byte) for byte in range(256)}
