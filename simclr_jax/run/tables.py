"""Tables that people give: CSV files with a head, whose fields are separated by commas, semicolons or tabs."""

import csv
import os

from simclr_jax import base

KEYS = ("path", "id", "filename")  # heads of the column that names pictures
_DELIMITERS = (",", ";", "\t")


def read_table(path: str | os.PathLike[str], *, flag: str) -> tuple[list[str], list[dict[str, str]]]:
    """(heads, rows); what a short row lacks is empty. The head says what separates fields.

    Raises:
        base.InputError: no such file, or no text in UTF-8. The message names `flag`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(_DELIMITERS, key=head.count), restval="")
            rows = list(reader)
            heads = [str(name) for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise base.InputError(
            f"{flag} must be a CSV in UTF-8; {path} cannot be read: {base.one_line(error).rstrip('.')}."
        ) from error
    return heads, rows
