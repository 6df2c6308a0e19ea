"""The tokenizer of a run that reads texts: made of its data once, kept in its workdir, and read from there."""

import pathlib
from collections.abc import Mapping
from typing import Any

from simclr_jax import atomic_files, base, data, methods
from simclr_jax.data import tokens
from simclr_jax.run import config as config_lib

FILE = "tokenizer.json"


def reads_texts(config: Mapping[str, Any]) -> bool:
    """Whether the method of this config needs texts."""
    return config["method"]["name"] in methods.IMAGE_TEXT


def with_tokens(config: Mapping[str, Any], train_set: data.ImageSet, *, kept: str | None) -> tuple[data.ImageSet, str]:
    """The training split with its texts as numbers, and the tokenizer to keep; both as they are for other methods.

    Args:
        config: of the run.
        train_set: whose texts the tokenizer is trained on, if there is none yet.
        kept: what the run has kept; None at its beginning.

    Raises:
        base.InputError: the data have no texts, or a value of the section `text` is not valid.
    """
    if not reads_texts(config):
        return train_set, ""
    if not train_set.texts:
        raise base.InputError(
            f"method.name {config['method']['name']} needs pictures with texts; got data.name "
            f"{config['data']['name']}. Use pairs:FILE.csv, pairs:FILE.parquet, pairs:FOLDER or pairs:SHARDS.tar."
        )
    lines = (text for own in train_set.texts for text in own)
    tokenizer = config_lib.call(data.make_tokenizer, config, "text", texts=lines, kept=kept)
    return train_set._replace(tokens=tokens.pad_texts(tokenizer, train_set.texts)), tokenizer.content


def keep(workdir: pathlib.Path, content: str) -> None:
    """Writes the tokenizer of a run, if it has one."""
    if content:
        atomic_files.write_bytes(workdir / FILE, content.encode())


def read_kept(workdir: pathlib.Path) -> str | None:
    """What `keep` wrote, None where there is nothing.

    Raises:
        base.InputError: it is no text.
    """
    try:
        return (workdir / FILE).read_text(encoding="utf-8")
    except OSError:
        return None
    except UnicodeDecodeError as error:
        raise base.InputError(
            f"{workdir / FILE} must be the text that was written there; {base.one_line(error, 80)}. Copy it there "
            "again."
        ) from error


def open_tokenizer(workdir: pathlib.Path, config: Mapping[str, Any]) -> data.Tokenizer:
    """The tokenizer of a run.

    Raises:
        base.InputError: it is not there.
    """
    kept = read_kept(workdir)
    if kept is None:
        raise base.InputError(
            f"A run that reads texts keeps its tokenizer in {FILE}; {workdir} has none. Copy it there; a run of other "
            "weights gets it from simclr-jax convert --tokenizer=FILE, for CLIP's bpe_simple_vocab_16e6.txt.gz."
        )
    tokenizer = config_lib.call(data.make_tokenizer, config, "text", kept=kept)
    assert isinstance(tokenizer, data.Tokenizer)
    return tokenizer
