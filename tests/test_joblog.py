"""The log has it all, the terminal has the reason, and nothing else happens on failure."""

import ast
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from conftest import REPOSITORY
from cryoseg import joblog
from cryoseg.failures import names_input_error

PREAMBLE = """
import os, sys, time
sys.path.append({scripts!r})
from cryoseg.errors import InputError
from cryoseg.joblog import log_to, logger, progress
from cryoseg.volumes import written_aside
"""


def program(body):
    return PREAMBLE.format(scripts=str(REPOSITORY / "scripts")) + textwrap.dedent(body)


def run_job(body, log):
    """Run ``body`` inside log_to in a process of its own; returns it and the log's text."""
    code = program(f"with log_to({str(log)!r}):\n") + textwrap.indent(textwrap.dedent(body), "  ")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done, log.read_text(encoding="utf-8")


def test_all_output_goes_into_the_log_even_that_of_child_processes(tmp_path):
    body = """
        print("from python")
        print("to stderr", file=sys.stderr)
        os.system("echo from a child; echo its stderr >&2")
    """
    done, text = run_job(body, tmp_path / "logs" / "TS 1é.log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for words in ("from python", "to stderr", "from a child", "its stderr"):
        assert words in text


def test_messages_carry_time_and_level(tmp_path):
    _, text = run_job("logger.info('tiles: 3')\nlogger.debug('no')", tmp_path / "a.log")
    assert text.rstrip().endswith("INFO tiles: 3")
    assert text[:4].isdigit()
    assert len(text.splitlines()) == 1


def test_a_message_is_one_line_whatever_tomograms_are_called(tmp_path):
    code = r"logger.warning('%s: odd', 'a\nerror: b\r\x1b[31m\u202eé')"
    _, text = run_job(code, tmp_path / "a.log")
    (line,) = text.splitlines()
    assert line.endswith(r"WARNING a\nerror: b\r\x1b[31m\u202eé: odd")


def test_input_error_is_one_line_in_log_and_terminal_without_traceback(tmp_path):
    done, text = run_job("raise InputError('TS_03: too small')", tmp_path / "a.log")
    assert done.returncode == 1
    assert done.stderr == "error: TS_03: too small\n"
    assert text == "error: TS_03: too small\n"


def test_other_errors_leave_their_traceback_in_the_log_and_one_line_on_the_terminal(tmp_path):
    done, text = run_job("1 / 0", tmp_path / "a.log")
    assert done.returncode == 1
    assert done.stderr == "ZeroDivisionError: division by zero\n"
    assert text.startswith("Traceback")
    assert text.endswith(done.stderr)


@pytest.mark.parametrize(
    "body",
    [
        "import numpy; numpy.empty((2**20, 2**27), numpy.float32)",
        "raise RuntimeError('cannot allocate memory: tried to allocate 562949953421312 bytes')",
    ],
)
def test_a_lack_of_memory_is_a_sentence_with_what_is_needed_and_may_be_tried_again(body, tmp_path):
    done, text = run_job(body, tmp_path / "a.log")
    assert done.returncode == 1
    assert text.startswith("Traceback")
    assert text.endswith(done.stderr)
    assert re.fullmatch(
        r"out of memory: it held \d+ MB and asked for 562949953 MB more, where \d+ MB were free; "
        r"it needs at least 5629\d+ MB: give it .*\n",
        done.stderr,
    )
    assert not names_input_error(tmp_path / "a.log", before=None)


def test_a_lack_of_memory_is_told_where_a_library_fails_while_it_cleans_up_after_it(tmp_path):
    body = """
        try:
            raise RuntimeError("can't start new thread")
        finally:
            raise {error}
    """
    done, _ = run_job(body.format(error="RuntimeError('call iter() first')"), tmp_path / "a.log")
    assert done.stderr.startswith("out of memory: it held ")
    # What we say ourselves is the reason, whatever came before it.
    done, _ = run_job(body.format(error="InputError('a.mrc: too small')"), tmp_path / "a.log")
    assert done.stderr == "error: a.mrc: too small\n"


def test_a_lack_of_memory_is_told_where_none_at_all_is_left(tmp_path):
    body = """
        import psutil, resource
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        held = []
        for size in (2**20, 2**12, 2**6):
            try:
                while True:
                    held.append(bytearray(size))
            except MemoryError:
                pass
        held.append(bytearray(2**20))
    """
    done, text = run_job(body, tmp_path / "a.log")
    assert done.returncode == 1
    assert re.fullmatch(r"out of memory: it held \d+ MB .* more than \d+ MB: .*\n", done.stderr)
    assert text.endswith(done.stderr)


def test_a_file_that_cannot_be_mapped_for_lack_of_memory_is_not_called_damaged(tmp_path):
    body = """
        try:
            raise OSError(12, "Cannot allocate memory")
        except OSError as error:
            raise InputError("a.h5: delete the file") from error
    """
    done, _ = run_job(body, tmp_path / "a.log")
    assert done.stderr.startswith("out of memory: it held ")
    done, _ = run_job(body.replace('12, "Cannot allocate memory"', "5"), tmp_path / "a.log")
    assert done.stderr == "error: a.h5: delete the file\n"


def test_a_log_that_a_full_disk_does_not_take_hides_no_reason():
    for body, said in {
        "raise InputError('TS_03: too small')": "error: TS_03: too small\n",
        "print('x', flush=True)": "error: /dev: no space is left: a run keeps notes and logs there",
    }.items():
        code = program(f"with log_to('/dev/full'):\n  {body}")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1


def test_output_goes_to_the_terminal_again_afterwards(tmp_path):
    code = program(f"""
        print("before")
        with log_to({str(tmp_path / "a.log")!r}):
            print("inside")
        print("after")
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "before\nafter\n"
    assert (tmp_path / "a.log").read_text() == "inside\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_job_that_is_told_to_end_removes_what_is_half_written(number, tmp_path):
    target = tmp_path / "scores.h5"
    code = program(f"""
        with log_to({str(tmp_path / "a.log")!r}), written_aside({str(target)!r}) as aside:
            aside.write_text("half")
            time.sleep(60)
    """)
    job = subprocess.Popen([sys.executable, "-c", code])
    while not list(tmp_path.glob(".*scores.h5")):
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait(timeout=30) == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    assert f"terminated by signal {number}" in (tmp_path / "a.log").read_text()


INTERRUPTED_THREAD = """
    import signal, threading
    from cryoseg.provenance import sha256
    begin = threading.Thread.start

    def interrupted(thread):
        begin(thread)
        if thread.name.startswith("sha256"):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread.start = interrupted
    with log_to({log!r}):
        sha256({log!r})
"""
# As a library may, which calls what ends nothing, or waits for a lock that nobody gives back.
DEAF = """
    from cryoseg import joblog
    joblog.SECONDS_TO_END = 1
    with log_to({log!r}):
        print("begun", flush=True)
        while True:
            try:
                os.kill(os.getpid(), 15)
                time.sleep(60)
            except SystemExit:
                pass
"""


@pytest.mark.parametrize(
    ("code", "status"), [(INTERRUPTED_THREAD, 128 + signal.SIGINT), (DEAF, -signal.SIGKILL)]
)
def test_a_job_that_is_told_to_end_does_so_wherever_it_is(code, status, tmp_path):
    """Also while it starts a thread, of which Python waits for the end."""
    log = tmp_path / "a.log"
    job = subprocess.Popen([sys.executable, "-c", program(code.format(log=str(log)))])
    try:
        assert job.wait(timeout=30) == status
    finally:
        job.kill()
    assert "terminated by signal" in log.read_text()


def test_a_job_of_a_run_in_the_background_ignores_ctrl_c_as_the_run_does(tmp_path):
    log = tmp_path / "a.log"
    code = program(f"""
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do for what a script puts there
        with log_to({str(log)!r}):
            os.kill(os.getpid(), signal.SIGINT)
            print("goes on")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    """)
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert log.read_text().startswith("goes on")


@pytest.mark.parametrize("begin", ["log_to({log!r})", "logging_to_stderr()"])
def test_a_job_ends_whose_run_was_gone_before_it_began(begin, tmp_path):
    code = "from cryoseg import joblog; print(joblog.not_to_outlive_this())"
    paths = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True
    )
    named = ast.literal_eval(run.stdout)
    log = tmp_path / "a.log"
    code = program(
        f"from cryoseg.joblog import *\nwith {begin.format(log=str(log))}: time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | named) as job:
        # With log_to SIGTERM is an exception, which ends the block in good order.
        assert job.wait(timeout=30) in (128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.parametrize("named", ["{}", "5", "[]", "yes", "[" * 100_000])
def test_a_job_whose_run_is_named_by_nobody_of_ours_works_as_without(named, tmp_path):
    code = program(f"with log_to({str(tmp_path / 'a.log')!r}): time.sleep(2)")
    environment = os.environ | {joblog.RUN: named}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_progress_yields_every_item_once():
    assert list(joblog.progress("abc", what="letters")) == ["a", "b", "c"]
    assert list(joblog.progress(4)) == [0, 1, 2, 3]
    assert list(joblog.progress((n for n in range(3)), total=3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds_per_item", "lines"),
    [(0.0, 0), (1.0, 10), (100.0, 10)],
    ids=["too fast for a line", "a line per ten seconds and per tenth", "a line per tenth"],
)
def test_progress_lines_are_sparse(seconds_per_item, lines, monkeypatch, caplog):
    clock = iter(index * seconds_per_item for index in range(1000))
    monkeypatch.setattr(joblog.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "cryoseg"):
        list(joblog.progress(100, what="tiles"))
    assert len(caplog.messages) == lines
    if lines:
        assert caplog.messages[0].startswith("10 of 100 tiles")


def test_progress_draws_a_bar_on_a_terminal(tmp_path):
    terminal, end = os.openpty()
    code = program(f"""
        with log_to({str(tmp_path / "a.log")!r}):
            for _ in progress(3, what="tiles"):
                time.sleep(0.15)
    """)
    subprocess.run([sys.executable, "-c", code], stderr=end, check=True, timeout=60)
    os.close(end)
    drawn = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert "3/3" in drawn
    assert "tiles" in drawn
    assert (tmp_path / "a.log").read_text() == ""
