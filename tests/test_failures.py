"""The end of a run says of each failed job where and why it failed."""

import csv
import errno
import os
from dataclasses import replace

import pytest
import snakemake.io
from snakemake_interface_common.exceptions import WorkflowError

from cryoseg.failures import (
    COLUMNS,
    Failure,
    explain,
    failure_lines,
    names_input_error,
    stamp_of_log,
    why_not_begun,
    write_failures,
)
from cryoseg.folders import why_no_notes
from cryoseg.run_warnings import MOST_WARNINGS, warning_lines
from cryoseg.slurm import JobRecord, job_record, span

RECORD = JobRecord(
    number="12", state="FAILED", node="node2", memory="400M", time_limit="00:01:00", log="12.log"
)


def failure(log, **record):
    about = JobRecord(**(vars(RECORD) | record)) if record else None
    return Failure("lamella_score_voxels", "TS_1", str(log), about)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "TS_1.log"


def test_failures_are_listed_with_reason_and_log(tmp_path):
    (tmp_path / "a.log").write_text("INFO begin\nerror: a.mrc: truncated\n")
    (tmp_path / "b.log").write_text(
        "Traceback (most recent call last):\n  File\nMemoryError: no more\n"
    )
    (tmp_path / "c.log").write_text("INFO 3 of 9 tiles\n")
    logs = [str(tmp_path / f"{name}.log") for name in "abcd"]
    failures = [Failure("score_voxels", name, log) for name, log in zip("abcd", logs, strict=True)]
    lines = failure_lines(failures)
    assert lines[0] == "4 jobs failed:"
    assert lines[1:3] == ["  score_voxels a: a.mrc: truncated", f"    log: {logs[0]}"]
    assert lines[3] == "  score_voxels b: MemoryError: no more"
    assert "killed perhaps" in lines[5]
    assert lines[5].endswith("the last line of its log: INFO 3 of 9 tiles")
    assert "left no log" in lines[7]
    assert failure_lines([]) == []


def test_an_array_that_does_not_fit_is_out_of_memory_and_a_crash_outweighs_what_was_ignored(log):
    failure = Failure("score_voxels", "TS_1", str(log))
    begin = "Traceback (most recent call last):\n  File\n"
    log.write_text(f"{begin}numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3 GiB\n")
    assert explain(failure)[0] == "out of memory"
    log.write_text(
        f"Exception ignored in: x\n{begin}OSError: errno = 28\n"
        "Fatal Python error: Segmentation fault\n\nExtension modules: numpy\n"
    )
    assert explain(failure) == ("error", "it crashed: Fatal Python error: Segmentation fault")


def test_a_job_that_the_c_library_ends_for_lack_of_memory_is_out_of_memory(log):
    log.write_text("INFO 3 of 9\ncannot allocate memory for thread-local data: ABORT\n")
    kind, said = explain(Failure("merge_labels", "TS_1", str(log)))
    assert kind == "out of memory"
    assert said.startswith("out of memory: cannot allocate memory for thread-local data: ABORT; ")
    assert "raise its limit (ulimit -v" in said


def test_what_the_run_knows_of_a_job_is_the_reason_where_its_log_gives_none(log):
    log.write_text("INFO 3 of 9 tiles\n")
    failure = Failure("score_voxels", "TS_1", str(log), said="no space is left")
    assert explain(failure) == ("error", "no space is left")
    log.write_text("error: a.mrc: truncated\n")
    assert explain(failure) == ("input error", "a.mrc: truncated")


def test_an_empty_log_on_a_full_disk_is_explained_by_that(log, monkeypatch):
    log.write_text("")
    failure = Failure("score_voxels", "TS_1", str(log))
    assert "killed perhaps" in explain(failure)[1]
    monkeypatch.setattr("cryoseg.folders.LEAST_FREE", 2**62)
    assert f"{log.parent}: no space is left" in explain(failure)[1]


@pytest.mark.parametrize(
    ("record", "kind", "sentence"),
    [
        ({"state": "TIMEOUT"}, "timeout", "(the cluster job had asked for 00:01:00)"),
        ({"state": "OUT_OF_MEMORY"}, "out of memory", "(the cluster job had asked for 400M)"),
        ({"out_of_memory": True}, "out of memory", "(the cluster job had asked for 400M)"),
        ({"state": "NODE_FAIL"}, "node failure", "node failure"),
        ({"state": "CANCELLED"}, "cancelled", "cancelled"),
        ({"state": "FAILED"}, "error", "killed perhaps"),
        ({"number": "", "last_line": "Invalid account"}, "not submitted", "Invalid account"),
    ],
)
def test_what_slurm_says_of_a_job_is_the_reason_where_its_log_gives_none(
    log, record, kind, sentence
):
    log.write_text("INFO 3 of 9 tiles\n")
    found, said = explain(failure(log, **record))
    assert found == kind
    assert sentence in said


def test_the_sentence_of_an_input_error_wins_over_slurms_state(log):
    log.write_text("error: raw/TS_1.mrc: the file is truncated\n")
    expected = ("input error", "raw/TS_1.mrc: the file is truncated")
    assert explain(failure(log, state="FAILED")) == expected


def test_the_log_of_an_earlier_try_is_not_taken_for_the_last_ones(log):
    log.write_text("error: raw/TS_1.mrc: the file is truncated\n")
    os.utime(log, (1000, 1000))
    before = stamp_of_log(log)
    tried = replace(failure(log, state="NODE_FAIL"), before=before)
    assert explain(tried) == ("node failure", "node failure")
    assert not names_input_error(log, before)
    log.write_text("error: raw/TS_1.mrc: the file is truncated\n")
    assert explain(tried)[0] == "input error"
    assert names_input_error(log, before)


@pytest.mark.parametrize("before", ["error: raw/TS_1.mrc: the file is truncated\n", None])
def test_a_log_that_could_not_be_written_is_the_reason(log, monkeypatch, before):
    if before:
        log.write_text(before)
    tried = Failure("score_voxels", "TS_1", str(log), before=stamp_of_log(log))
    assert "it left no log" in explain(tried)[1]
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)
    kind, said = explain(tried)
    assert kind == "error"
    assert said.startswith(f"{log}: cannot be written")
    assert said.endswith(f"write into {log.parent}")


def test_a_job_that_never_began_its_step_shows_the_end_of_slurms_log(log):
    kind, said = explain(failure(log, last_line="python: No such file"))
    assert kind == "error"
    assert said.endswith("python: No such file")


def test_the_table_has_one_line_for_each_failure(tmp_path, log):
    log.write_text("error: a tab\there\n")
    path = tmp_path / "logs" / "failures.tsv"
    write_failures(path, [failure(log, state="FAILED"), Failure("inspect_model", None, "x.log")])
    with open(path, newline="") as file:
        first, second = csv.DictReader(file, delimiter="\t")
    assert tuple(first) == COLUMNS
    assert (first["rule"], first["kind"]) == ("inspect_model", "error")
    assert second["reason"] == "a tab\there"
    assert (second["node"], second["slurm_job"], second["slurm_log"]) == ("node2", "12", "12.log")
    assert failure_lines([failure(log, state="FAILED")])[1].startswith(
        "  lamella_score_voxels TS_1 on node2: "
    )


def test_what_sbatch_said_is_kept_of_a_job_that_it_refused():
    message = "SLURM sbatch failed. The error message was 'sbatch: error: Invalid account'.\n call"
    record = job_record(None, None, message)
    assert (record.number, record.last_line) == ("", "sbatch: error: Invalid account")


def test_a_record_is_read_from_what_slurm_prints(tmp_path, monkeypatch):
    printed = (
        "JobId=7 JobName=x JobState=TIMEOUT Reason=TimeLimit StartTime=2026-01-02T03:04:05 "
        "TimeLimit=00:01:00 NodeList=node3 BatchHost=node3 TRES=cpu=8,mem=3046M,node=1 "
        "Comment=rule_a wildcards b"
    )
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{printed}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "7.log").write_text("slurmstepd: error: Exceeded memory limit at some point.\n\n")
    record = job_record("7", tmp_path / "7.log")
    assert (record.state, record.node, record.memory) == ("TIMEOUT", "node3", "3046M")
    assert record.time_limit == "00:01:00"
    assert record.out_of_memory
    assert record.last_line.startswith("slurmstepd")


def test_many_names_are_written_short_and_safe_for_a_path():
    assert span({"TS_1"}) == "TS_1"
    assert span({"TS_1", "TS_3", "TS_2"}) == "TS_1..TS_3"
    assert span({"a/%j $(rm) é\n"}) == "a__j___rm____"
    assert len(span({"a" * 300, "b" * 300})) < 200


def write_warnings(path, *warnings):
    path.write_text("".join(f"2025-11-02 10:11:12 WARNING {each}\n" for each in warnings))
    return str(path)


def test_errors_come_before_warnings_and_the_table_with_the_rest_is_named(tmp_path):
    single = write_warnings(tmp_path / "TS_1.log", "TS_1: dim", "TS_1: alone")
    sentences = [f"TS_{number}: dim" for number in range(1, 31)] + ["error: TS_31: cut"]
    all_of_them = write_warnings(tmp_path / "tabulate.log", *sentences)
    lines = warning_lines({single: None, all_of_them: "checks/raw.tsv"})
    assert lines[:3] == ["1 error, 31 warnings:", "  error: TS_31: cut", "  TS_1: dim"]
    assert len(lines) == MOST_WARNINGS + 2
    assert lines[-1] == f"  ... and {32 - MOST_WARNINGS} more in checks/raw.tsv"


def test_warnings_that_no_table_holds_are_looked_for_in_logs(tmp_path):
    logs = [write_warnings(tmp_path / f"{n:02}.log", f"TS_{n}: dim") for n in range(25)]
    lines = warning_lines(dict.fromkeys(logs))
    assert lines[0] == "25 warnings:"
    assert lines[-1] == f"  ... and 5 more in {', '.join(logs[20:23])} and 2 more"
    assert warning_lines({str(tmp_path / "none.log"): None}) == []


@pytest.mark.parametrize("name", [3, "elsewhere", None])
def test_notes_are_not_to_blame_for_what_happens_elsewhere(name):
    assert why_no_notes(FileNotFoundError(errno.ENOENT, "gone", name), "/here/.snakemake") is None


@pytest.mark.parametrize("path", ["/here/.snakemake/scripts/a.py", ".snakemake/scripts"])
def test_notes_that_are_gone_are_named(path):
    error = FileNotFoundError(errno.ENOENT, "gone", path)
    said = why_no_notes(error, "/here/.snakemake")
    assert said.startswith("/here/.snakemake: what Snakemake keeps there is gone")


def test_a_folder_that_snakemake_cannot_make_is_named_with_what_to_do(monkeypatch):
    def refused(folder, **options):
        raise OSError(errno.EROFS, "Read-only file system", folder)

    monkeypatch.setattr(os, "makedirs", refused)
    with pytest.raises(WorkflowError) as found:
        snakemake.io.IOFile("predictions/semantic/TS_1.h5", None).prepare()
    assert why_not_begun([], [], found.value) == (
        "predictions/semantic: cannot be written (Read-only file system); see to it that you may "
        "write into predictions"
    )
