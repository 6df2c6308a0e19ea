"""Features of clips: which frames are taken, and that their mean comes out, from folders and from video files."""

import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base
from simclr_jax.run import clips

LEVELS = np.arange(40) * 5  # grey levels of the frames of a clip, one a frame


def mean_level(frames, *, batch_size, layer):
    """In the place of an encoder: h is the mean level of a frame, twice."""
    assert len(frames) <= batch_size and layer in ("h", "z")
    return np.stack([np.full(2, frame.astype(np.float64).mean()) for frame in frames])


def write_frames(folder) -> None:
    folder.mkdir()
    for number, level in enumerate(LEVELS):
        Image.fromarray(np.full((12, 16, 3), level, np.uint8)).save(folder / f"{number:03d}.png")


@pytest.mark.parametrize(
    ("num", "among", "places"), [(1, 5, [2]), (2, 8, [2, 6]), (3, 3, [0, 1, 2]), (9, 2, [0, 1]), (4, 10, [1, 3, 6, 8])]
)
def test_frames_lie_evenly(num, among, places):
    assert clips.evenly(num, among) == places


@pytest.mark.parametrize("num_frames", [1, 16, 20, 100])
def test_the_feature_of_a_folder_is_the_mean_over_its_chosen_frames(tmp_path, num_frames):
    write_frames(tmp_path / "clip")
    h = clips.embed_clip(mean_level, tmp_path / "clip", num_frames=num_frames)
    chosen = [LEVELS[int((place + 0.5) * 40 / min(num_frames, 40))] for place in range(min(num_frames, 40))]
    assert h.dtype == np.float32
    np.testing.assert_allclose(h, [np.mean(chosen)] * 2, rtol=1e-6)


def test_a_video_file_gives_what_its_frames_give(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in LEVELS:
            picture = np.full((32, 32, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for num_frames, expected in ((1, LEVELS[20]), (2, LEVELS[[10, 30]].mean()), (40, LEVELS.mean())):
        h = clips.embed_clip(mean_level, tmp_path / "clip.mp4", num_frames=num_frames, layer="z")
        np.testing.assert_allclose(h, [expected] * 2, atol=4)  # the codec's loss; neighbours differ by 5


def test_what_is_no_clip_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for path, told in (("nothing", "there is none"), ("text.mp4", "text.mp4: "), ("damaged", "0.png")):
        with pytest.raises(base.InputError, match=told) as caught:
            clips.embed_clip(mean_level, tmp_path / path)
        assert "\n" not in str(caught.value)
    with pytest.raises(base.InputError, match="num_frames must be at least 1"):
        clips.embed_clip(mean_level, tmp_path, num_frames=0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(base.InputError, match=r"pip install 'simclr-jax\[video\]'"):
        clips.embed_clip(mean_level, tmp_path / "text.mp4")
