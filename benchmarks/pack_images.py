"""Packs a prepared TFDS data set as class folders of its original files, to be read where TFDS is not installed.

    python benchmarks/pack_images.py --data_name=tfds:cifar10/jpeg --data_dir=FOLDER --output=cifar10_jpeg.tar.gz
    tar -xzf cifar10_jpeg.tar.gz          there; then --data_name=folder:cifar10_jpeg

The bytes are copied, not encoded again; files that share their headers, as those of one encoder do, pack to a fraction.
The archive holds NAME/train/CLASS/NUMBER.jpg and NAME/test/..., its own name in the place of NAME.
"""

import argparse
import io
import pathlib
import tarfile
from collections.abc import Iterator

from simclr_jax import data
from simclr_jax.data import kinds


def files(name: str, split: str, *, data_dir: str | None) -> Iterator[tuple[str, bytes]]:
    """(CLASS/NUMBER.ending, its bytes) of every example of a split, in its order."""
    source, _, rest = name.partition(":")
    opened = data.DATASETS[source].open
    assert opened is not None
    encoded = opened(rest, split, data_dir=data_dir, canvas_size=None)
    for index in range(len(encoded.ids)):
        content, label = encoded.read(index)
        yield f"{encoded.class_names[label]}/{index:06d}.{str(kinds.image_format(content[:64])).lower()}", content


def pack(name: str, *, data_dir: str | None, output: pathlib.Path) -> int:
    """Writes the archive of both splits; returns the number of files in it."""
    folder, count = output.name.partition(".")[0], 0
    with tarfile.open(output, "w:gz", compresslevel=6) as archive:
        for split in ("train", "test"):
            # Sorted: what one class has in common lies close together.
            for path, content in sorted(files(name, split, data_dir=data_dir)):
                # TarInfo's defaults name no owner and no time, so the same data make the same files wherever they lie.
                info = tarfile.TarInfo(f"{folder}/{split}/{path}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                count += 1
    return count


def main() -> None:
    """Packs, and says how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_name", default="tfds:cifar10/jpeg", help="tfds:NAME[/CONFIG]")
    parser.add_argument("--data_dir", help="where it is prepared")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("cifar10_jpeg.tar.gz"))
    asked = parser.parse_args()
    count = pack(asked.data_name, data_dir=asked.data_dir, output=asked.output)
    print(f"{asked.output}: {count} files, {asked.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
