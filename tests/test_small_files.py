"""What lies in the place of a small file is never waited for, and never read without an end."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cryoseg.calibrations import scoring_calibration
from cryoseg.errors import InputError
from cryoseg.failures import names_input_error, stamp_of_log
from cryoseg.joblog import log_to
from cryoseg.paces import benchmark_seconds
from cryoseg.provenance import read_record, record_path, sha256
from cryoseg.run_owners import owners
from cryoseg.run_warnings import warnings_in
from cryoseg.shared_folders import NOTES, leave_notes, noted_elsewhere, other_runs, others_in
from cryoseg.slurm import _tail
from cryoseg.small_files import MOST_BYTES, files_only, read_json, read_text
from cryoseg.splits import split_behind
from cryoseg.training_estimates import _epochs_done
from cryoseg.unmade import read_unmade
from cryoseg.verification import _begin_or_none
from fuzzing import Hangs, at_most


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def refused(read, path):
    """The sentence with which a reader refuses a path, within a second."""
    with at_most(1), pytest.raises(InputError) as error:
        read(path)
    return str(error.value)


@pytest.mark.parametrize("read", [read_text, read_json, sha256])
def test_a_pipe_and_a_device_are_refused(read, pipe, tmp_path):
    assert refused(read, pipe) == f"{pipe}: it is a pipe or a device, not a file; remove it"
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    assert refused(read, link) == f"{link}: it is a pipe or a device, not a file; remove it"


def test_a_pipe_that_open_alone_would_wait_for_is_refused_in_any_mode(pipe):
    with pytest.raises(Hangs), at_most(0.3):
        open(pipe).close()
    for mode in ("r", "rb"):
        with at_most(1), pytest.raises(InputError, match="a pipe"):
            open(pipe, mode, opener=files_only).close()
    assert not [each for each in os.listdir("/proc/self/fd") if leads_to(each, pipe)]


def leads_to(number, path):
    return os.path.realpath(f"/proc/self/fd/{number}") == str(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(10**12)
    assert (
        refused(read_json, path)
        == f"{path}: it has more than {MOST_BYTES} bytes, too many; remove it"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 200_000])
def test_what_is_no_json_is_named_with_what_to_do(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    said = refused(lambda path: read_json(path, remedy="make it anew"), tmp_path / "a.json")
    assert said.startswith(f"{tmp_path}/a.json: it cannot be read (")
    assert said.endswith("; make it anew")
    assert refused(read_json, tmp_path).startswith(f"{tmp_path}: it cannot be read (")
    (tmp_path / "a.json").write_text('{"é": 1}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": 1}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_no_reader_of_what_runs_keep_waits_for_a_pipe(tmp_path):
    folder = tmp_path / "out"
    made, benchmark = folder / "TS_1.h5", tmp_path / "benchmark.tsv"
    log, model = tmp_path / "a.log", tmp_path / "run" / "model" / "model_best.ckpt"
    places = [
        *(record_path(made), folder / NOTES / "a.json", tmp_path / "owners" / "a.json", benchmark),
        *(log, tmp_path / "run" / "settings.yaml", record_path(folder / "calibration.json")),
        tmp_path / "unmade.json",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    step = SimpleNamespace(outputs={"scores": [str(made)]}, settings={})
    entries = {str(folder): {}}
    assert "a pipe" in refused(read_record, made)
    assert "a pipe" in refused(read_unmade, tmp_path / "unmade.json")
    assert "a pipe" in refused(lambda run: _epochs_done(run, {}), tmp_path / "run")
    with at_most(5):
        (said,) = others_in(entries)
        assert said.endswith("a.json: it is a pipe or a device, not a file; remove it")
        assert not list(other_runs(entries))
        assert not list(leave_notes(entries))
        assert owners(tmp_path / "owners") == {}
        assert benchmark_seconds(benchmark) is None
        assert scoring_calibration(step) is None
        assert warnings_in(log) == []
        assert not names_input_error(log, before=None)
        assert stamp_of_log(log) is None
        assert _tail(log) == ""
        assert _begin_or_none(str(log), "content") is None
        assert split_behind(model) == {}
        with pytest.raises(SystemExit), log_to(log):
            pass


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff\xfe", "a pipe", "a folder"])
def test_notes_of_others_that_are_none_tell_nothing(content, tmp_path):
    """Nor those that may not be read: Snakemake's are for a user and his group."""
    notes = tmp_path / "run" / ".snakemake" / "metadata"
    notes.mkdir(parents=True)
    path, runs = tmp_path / "run" / "out" / "x.h5", [(str(tmp_path / "run/out"), tmp_path / "run")]

    def found():
        place_of = {str(path): notes / "whole", "out/x.h5": notes / "within"}
        return list(noted_elsewhere(path, runs, lambda _, key: place_of[key]))

    (notes / "within").write_text('{"endtime": 5.0}')
    if content == "a pipe":
        os.mkfifo(notes / "whole")
    elif content == "a folder":
        (notes / "whole").mkdir()
    elif content is not None:
        (notes / "whole").write_bytes(content)
    with at_most(5):
        assert found() == [{"endtime": 5.0}]


@pytest.mark.root
def test_notes_of_others_that_may_not_be_read_tell_nothing():
    with tempfile.TemporaryDirectory() as run:  # not in pytest's folder, which only root may enter
        note = Path(run, ".snakemake", "metadata", "x")
        note.parent.mkdir(parents=True)
        note.write_text('{"endtime": 5.0}')
        note.chmod(0o600)
        os.chmod(run, 0o755)

        def found():
            path = Path(run, "out", "x.h5")
            return list(noted_elsewhere(path, [(f"{run}/out", run)], lambda *_: note))

        assert len(found()) == 2
        os.seteuid(4712)
        try:
            assert found() == []
        finally:
            os.seteuid(0)
