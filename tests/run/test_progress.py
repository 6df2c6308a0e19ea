"""Rates and the progress line as people read them."""

import threading

import pytest

from simclr_jax.run import progress


def test_a_meter_gives_the_rate_since_the_last_reading_and_the_time_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    meter = progress.Meter(done=10, total=100)
    now += 5
    assert meter.read(20) == (2.0, 40.0)
    now += 1
    assert meter.read(60) == (40.0, 1.0)


def test_a_meter_leaves_paused_time_out_of_the_rate_and_keeps_the_time_before(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    meter = progress.Meter(done=0, total=10)
    now += 1
    with meter.paused():
        now += 1000
    now += 1
    assert meter.read(6) == (3.0, pytest.approx(4 / 3))


def test_a_meter_survives_a_clock_that_stands_still(monkeypatch):
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 1.0)
    meter = progress.Meter(done=0, total=10)
    rate, left = meter.read(0)
    assert rate == 0 and left > 0


def test_the_training_line_names_every_number():
    row = {"step": 40, "epoch": 1.25, "loss": 3.14159, "contrastive_accuracy": 0.5, "images_per_second": 1234.4}
    line = progress.training_line(row, num_steps=1000, seconds_left=61)
    assert line == "step   40/1000  epoch 1.2  loss 3.1416  contrastive acc 50.0 %  1234 images/s  left 1 min 01 s"
    assert len(line) <= 100


def test_lines_for_people_go_to_stderr(capsys):
    progress.say("hello")
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "hello\n")


def test_a_muted_process_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_muted", threading.Event())
    progress.say("one")
    progress.mute()
    progress.say("two")
    assert capsys.readouterr().err == "one\n"


def test_a_screen_that_is_gone_does_not_end_a_run(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(progress.sys, "stderr", Gone())
    progress.say("one")
