"""Streams of crops: the same bits for any workers, hosts and point of entry; damaged, vanished and stuck pictures."""

import hashlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data
from simclr_jax.data import cutting, decode, encoded, host_crop, host_draws, order, streaming, workers

pytest.importorskip("cv2")
pytest.importorskip("simplejpeg")
COUNT, BATCH, SIZE, SEED = 23, 8, 12, 4


def write_pictures(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        target = folder / ("cats", "dogs")[number % 2] / f"{number:02d}.{'png' if number == 5 else 'jpg'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((30 + number, 40), Image.Resampling.BICUBIC).save(target)


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "set")
    return tmp_path / "set"


def load(folder):
    return data.load_split(f"folder:{folder}", "all", stream_above=-1, progress=False)


def opened(image_set, *, kind="threads", num=2, rows=None, said=None, **how):
    """A stream of the rows `rows` of every batch (all of them by default)."""
    mine = np.arange(BATCH) if rows is None else np.asarray(rows)
    how = {"max_corrupt_fraction": 0.0, **how}
    settings = workers.WorkerSettings(kind, num, how.pop("stall_seconds", 60.0))
    return streaming.open_stream(
        image_set,
        how.pop("cuts", cutting.Cuts(size=SIZE, seed=SEED)),
        examples_of=lambda step: order.stream_indices(SEED, step * BATCH, BATCH, num_examples=COUNT)[mine],
        positions=mine,
        settings=settings,
        warn=(said if said is not None else []).append,
        **how,
    )


def digests(stream, steps):
    try:
        batches = [stream.read(step) for step in steps]
        return [hashlib.sha256(rows.crops.tobytes() + rows.labels.tobytes()).hexdigest() for rows in batches]
    finally:
        stream.close()


def counting(image_set):
    """(the same split, the list that its reads are added to)."""
    opens, images = [], image_set.images

    def fetch(place):
        opens.append(place)
        return images.fetch(place)

    watched = encoded.EncodedImages(images.encoded._replace(fetch=fetch), images.rows)
    return image_set._replace(images=watched), opens


def test_a_batch_holds_the_device_s_windows_of_the_visited_pictures(folder):
    image_set = load(folder)
    stream = opened(image_set)
    rows = stream.read(2)  # straddles two epochs
    stream.close()
    examples = order.stream_indices(SEED, 2 * BATCH, BATCH, num_examples=COUNT)
    np.testing.assert_array_equal(rows.labels, image_set.labels[examples])
    expected = np.empty((2, SIZE, SIZE, 3), np.uint8)
    for position, example in enumerate(examples):
        picture = decode.decode_image((folder / image_set.ids[example]).read_bytes(), long_side=10**6).pixels
        place, sizes = np.asarray([position]), np.asarray([picture.shape[:2]])
        boxes = host_draws.draw_boxes(SEED, 2, positions=place, sizes=sizes, num_views=2, min_scale=0.08)
        for view in range(2):
            host_crop.crop(picture, tuple(int(part[0, view]) for part in boxes), out=expected[view])
        np.testing.assert_array_equal(rows.crops[position], expected)


def test_the_stream_is_the_same_for_any_number_of_threads_and_from_any_step_on(folder):
    image_set = load(folder)
    whole = digests(opened(image_set, num=0), range(7))
    assert len(set(whole)) == 7
    for num in (1, 2, 4):
        assert digests(opened(image_set, num=num, num_batches=7), range(7)) == whole
    assert digests(opened(image_set, num=2), [4, 5, 6]) == whole[4:]
    assert digests(opened(image_set, num=3), [5, 2, 6]) == [whole[5], whole[2], whole[6]]


@pytest.mark.parametrize("num", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_processes_give_the_stream_of_threads(folder, num):
    image_set = load(folder)
    expected = digests(opened(image_set, num=1), range(3))
    assert digests(opened(image_set, kind="processes", num=num), range(3)) == expected


def test_worker_processes_load_no_jax():
    words = "import sys, simclr_jax.data.workers as w; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True)


def test_hosts_read_their_own_rows_only(folder):
    image_set = load(folder)
    whole = opened(image_set)
    expected = [whole.read(step) for step in range(3)]
    whole.close()
    for hosts in (2, 4):
        for host in range(hosts):
            share = BATCH // hosts
            mine = np.arange(host * share, (host + 1) * share)
            part, opens = counting(image_set)
            stream = opened(part, num=0, rows=mine)
            for step in range(3):
                rows = stream.read(step)
                np.testing.assert_array_equal(rows.crops, expected[step].crops[mine])
                np.testing.assert_array_equal(rows.labels, expected[step].labels[mine])
            assert len(opens) == 3 * share


def test_a_vanished_file_stops_the_run_by_name_or_is_replaced_and_named_once(folder):
    image_set = load(folder)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[3])
    untouched = opened(image_set).read(0)
    (folder / image_set.ids[example]).unlink()
    with pytest.raises(base.InputError, match=rf"at most 0 of {COUNT}.*{image_set.ids[example]}: No such file"):
        opened(image_set).read(0)
    said, again = [], []
    rows = opened(image_set, said=said, max_corrupt_fraction=0.05).read(0)
    like = [n for n in range(COUNT) if image_set.labels[n] == image_set.labels[example] and n != example]
    other = like[encoded.replacement(example, 0, len(like))]
    assert rows.labels[3] == image_set.labels[other] == image_set.labels[example] and rows.crops[3].any()
    keep = np.arange(BATCH) != 3
    np.testing.assert_array_equal(rows.crops[keep], untouched.crops[keep])
    stream = opened(image_set, said=again, max_corrupt_fraction=0.05)
    for step in range(4):  # an epoch and a bit: met twice, said once
        stream.read(step)
    assert said == again and len(said) == 1 and image_set.ids[example] in said[0]
    np.testing.assert_array_equal(opened(image_set, num=4, max_corrupt_fraction=0.05).read(0).crops, rows.crops)


def test_a_damaged_picture_without_another_of_its_class_is_replaced_by_any(folder):
    image_set = load(folder)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[3])
    labels = image_set.labels.copy()
    for label in (7, -1):  # the only one of its class; one without a label
        labels[example] = label
        (folder / image_set.ids[example]).write_bytes(b"nothing")
        rows = opened(image_set._replace(labels=labels), max_corrupt_fraction=0.05).read(0)
        assert rows.labels[3] == image_set.labels[encoded.replacement(example, 0, COUNT)]


def test_a_truncated_picture_is_never_a_black_one(folder):
    image_set = load(folder)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[0])
    path = folder / image_set.ids[example]
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(base.InputError, match=f"{image_set.ids[example]}: damaged or truncated"):
        opened(image_set).read(0)


def test_a_picture_that_cannot_be_read_in_time_stops_the_run_by_its_name(folder):
    image_set = load(folder)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[0])
    path = folder / image_set.ids[example]
    path.unlink()
    os.mkfifo(path)  # opening it waits for a writer
    stream = opened(image_set, num=1, stall_seconds=0.5)
    with pytest.raises(base.InputError, match=f"within 0.5 seconds; {image_set.ids[example]} is not"):
        stream.read(0)
    threading.Thread(target=lambda: open(path, "wb").close(), daemon=True).start()


def test_a_killed_worker_process_stops_the_run_and_names_its_picture(folder):
    image_set = load(folder)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[0])
    path = folder / image_set.ids[example]
    path.unlink()
    os.mkfifo(path)
    stream = opened(image_set, kind="processes", num=1)
    child = workers_of_this_process()[-1]
    writer = threading.Timer(3.0, lambda: os.kill(child, signal.SIGKILL))
    writer.start()
    name = image_set.ids[example]
    with pytest.raises(base.InputError, match=rf"worker process ended while it read {name} \(SIGKILL\)"):
        stream.read(0)


def test_closing_leaves_waiting_tasks_undone(folder):
    image_set = load(folder)
    opens, begun, go_on = [], threading.Event(), threading.Event()

    def fetch(place):
        opens.append(place)
        begun.set()
        assert go_on.wait(20)
        return image_set.images.fetch(place)

    settings = workers.WorkerSettings(num=1)
    pool = workers.start_workers(fetch, cutting.Cuts(size=SIZE), settings=settings, most_rows=1)
    tasks = [cutting.Task([image_set.images.place(row)], np.zeros(1, int), 0) for row in range(5)]
    pending = [pool.submit(task, np.empty((1, 2, SIZE, SIZE, 3), np.uint8)) for task in tasks]
    assert begun.wait(20)
    pool.close()
    go_on.set()
    assert pending[0].future.result(20).damaged == []
    for later in pending[1:]:
        with pytest.raises(futures.CancelledError):
            later.future.result(20)
    assert len(opens) == 1


def workers_of_this_process():
    return [child.pid for child in multiprocessing.active_children()]


def test_a_central_crop_is_the_evaluation_view(folder):
    from simclr_jax import augment

    image_set = load(folder)
    size = 40
    cuts = cutting.Cuts(size=size, num_views=0, center_fraction=augment.center_fraction(size))
    rows = opened(image_set, cuts=cuts).read(0)
    example = int(order.stream_indices(SEED, 0, BATCH, num_examples=COUNT)[2])
    picture = decode.decode_image((folder / image_set.ids[example]).read_bytes(), long_side=10**6).pixels
    view = np.asarray(augment.make_eval_view(image_size=size)(picture))
    assert rows.crops.shape == (BATCH, 1, size, size, 3)
    np.testing.assert_allclose(rows.crops[2, 0] / 255.0, view, rtol=0, atol=0.502 / 255)


def test_settings_out_of_range_are_refused(folder):
    with pytest.raises(base.InputError, match="threads, processes; got 'gpus'"):
        opened(load(folder), kind="gpus")
    with pytest.raises(base.InputError, match="num_workers must be a whole number from 0 to 512; got -1"):
        opened(load(folder), num=-1)
