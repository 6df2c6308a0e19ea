"""One feature for a clip: the mean of its frames', from a folder of frames or a video file."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from simclr_jax import base, data
from simclr_jax.data import decode
from simclr_jax.interop import files
from simclr_jax.run import encoder as encoder_lib
from simclr_jax.run import paths

_PASS = 16  # frames in memory at a time


def embed_clip(
    encoder: encoder_lib.Encoder,
    path: str | os.PathLike[str],
    *,
    num_frames: int = 16,
    layer: str | int = "h",
) -> np.ndarray:
    """The mean feature of frames that lie evenly in a clip: float32 [D].

    Frames are prepared as pictures are in `Encoder.__call__`. Nothing is learned about motion: the order of the frames
    does not matter.

    Args:
        encoder: of `simclr_jax.load`.
        path: a folder of frames, whose order is that of their names, or a video file (needs PyAV).
        num_frames: how many; all of a clip with fewer.
        layer: as for a call of the encoder.

    Raises:
        InputError: num_frames is below 1, nothing is there, no frame can be read, or PyAV is missing.

    Reference: the usual baseline of image networks on video, temporal average pooling (Karpathy et al. 2014, "late
    fusion" over all frames).

    Example::

        encoder = simclr_jax.load("runs/demo")
        features = np.stack([clips.embed_clip(encoder, path) for path in videos])
    """
    if num_frames < 1:
        raise base.InputError(f"num_frames must be at least 1; got {num_frames}. Use for example 16.")
    where = pathlib.Path(paths.typed(os.fspath(path), flag="path"))
    if not where.exists():
        raise base.InputError(f"path must be a folder of frames or a video file; got {where}: there is none.")
    frames = _folder_frames(where, num_frames) if where.is_dir() else _video_frames(where, num_frames)
    total, count, part = None, 0, []
    for frame in [*frames, None]:
        part += [] if frame is None else [frame]
        if part and (frame is None or len(part) == _PASS):
            h = encoder(part, batch_size=_PASS, layer=layer)
            total = h.sum(axis=0, dtype=np.float64) + (0 if total is None else total)
            count, part = count + len(h), []
    if total is None:
        raise base.InputError(f"A clip must have a frame that can be read; {where} has none.")
    return (total / count).astype(np.float32)


def evenly(num: int, among: int) -> list[int]:
    """The places of `num` frames that lie evenly among all, each in the middle of its part; all where there are fewer.

    Example::

        evenly(2, 8)    # [2, 6]
    """
    num = min(num, among)
    return [(2 * place + 1) * among // (2 * num) for place in range(num)]


def _folder_frames(folder: pathlib.Path, num_frames: int) -> Iterator[np.ndarray]:
    pictures = data.open_pictures(str(folder))
    for place in evenly(num_frames, len(pictures.ids)):
        try:
            yield data.decode_picture(pictures, place).pixels
        except (decode.DamagedImage, OSError) as error:
            raise base.InputError(
                f"Every chosen frame of a clip must be readable; {pictures.paths[place]}: {base.one_line(error, 100)}. "
                "Remove it."
            ) from error


def _video_frames(path: pathlib.Path, num_frames: int) -> Iterator[np.ndarray]:
    """Frames of a video in the order of time; a mark that it is to be turned is not heeded."""
    try:
        import av
    except ImportError as error:
        raise files.missing_library("'simclr-jax[video]'", "PyAV", "video") from error
    try:
        with av.open(str(path)) as container:
            # Many files do not say how many frames they have, or not truly: packets are counted, which is quick.
            count = sum(packet.size > 0 for packet in container.demux(video=0))
        wanted = set(evenly(num_frames, count)) if count else set()
        with av.open(str(path)) as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place in wanted:
                    yield frame.to_ndarray(format="rgb24")
                if place >= max(wanted, default=0):
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise base.InputError(
            f"path must be a folder of frames or a video file; {path}: {base.one_line(error, 100)}."
        ) from error
