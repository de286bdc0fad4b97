"""Who writes beside a job does not corrupt what it makes, and is told of."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from conftest import REPOSITORY
from cryoseg import provenance
from cryoseg.errors import InputError
from cryoseg.failures import Failure, explain
from cryoseg.foreign_files import changed_since_read
from cryoseg.provenance import record_path, recorded
from cryoseg.shared_folders import leave_notes, others_in
from cryoseg.volumes import open_volume, write_mrc
from kill import Watch, copied, left_over, open_whole
from test_workflow import RAW, Lab
from tracebacks import printed
from two_at_once import held_while, just_made, opened

SHARED = ("TS_1", "TS_2", "TS_3", "TS_4")

# Reads a mapped volume again and again, as a job of a large one does.
READ_FOR_LONG = """
import sys
from cryoseg.joblog import log_to
from cryoseg.volumes import open_volume
with log_to(sys.argv[2]):
    volume = open_volume(sys.argv[1])
    print("reading", flush=True)
    while True:
        volume[:]
"""


def volume_at(path, value):
    write_mrc(path, np.full((8, 64, 64), value, np.float32), voxel_size=10.0)


def job_of(folder):
    """What a script is given by Snakemake, as far as records need it."""
    files = {"input": {"tomogram": str(folder / "TS_1.mrc")}}
    files["output"] = {"scaled": str(folder / "scaled.mrc")}
    return SimpleNamespace(rule="scale_tomogram", params={"settings": {}}, **files)


def rewrite_in_place(path):
    content = bytearray(path.read_bytes())
    content[2000:3000] = bytes(1000)
    path.write_bytes(content)


def replace(path):
    volume_at(path.with_name("new.mrc"), 2)
    os.replace(path.with_name("new.mrc"), path)


@pytest.mark.parametrize("change", [rewrite_in_place, replace])
def test_a_tomogram_that_changes_while_it_is_read_makes_the_job_fail_with_its_name(
    change, tmp_path
):
    job = job_of(tmp_path)
    path = tmp_path / "TS_1.mrc"
    volume_at(path, 1)
    with pytest.raises(InputError, match=r"TS_1.mrc: the file was changed while it was read"):
        run_while(job, lambda: change(path))
    assert not record_path(job.output["scaled"]).exists()
    run_while(job, lambda: None)
    assert record_path(job.output["scaled"]).exists()


def scale_while(job, happens):
    with recorded(job):
        first = open_volume(job.input["tomogram"])[0:1]
        happens()
        write_mrc(job.output["scaled"], first)


def run_while(job, happens):
    with recorded(job):
        first = open_volume(job.input["tomogram"])[0:1]
        time.sleep(0.3)  # the hash of the content that was there is taken meanwhile
        happens()
        write_mrc(job.output["scaled"], first)


@pytest.fixture
def hash_again():
    """Occupies all that hash files; returns a function that ends it."""
    end = threading.Event()
    for _ in range(4):
        provenance._readers.submit(end.wait)
    yield end.set
    end.set()


def test_a_tomogram_that_changes_before_its_turn_to_be_hashed_is_noticed_and_leaves_no_output(
    tmp_path, hash_again
):
    job, path = job_of(tmp_path), tmp_path / "TS_1.mrc"
    volume_at(path, 1)
    threading.Timer(0.5, hash_again).start()
    with pytest.raises(InputError, match=r"TS_1.mrc: the file was changed"):
        scale_while(job, lambda: replace(path))
    assert not (tmp_path / "scaled.mrc").exists()


def test_so_is_one_that_changes_when_the_job_is_done_and_its_turn_has_not_come(
    tmp_path, hash_again
):
    job, path = job_of(tmp_path), tmp_path / "TS_1.mrc"
    volume_at(path, 1)
    threading.Timer(0.5, lambda: [replace(path), hash_again()]).start()
    with pytest.raises(InputError, match=r"TS_1.mrc: the file was changed"):
        scale_while(job, lambda: None)
    assert not (tmp_path / "scaled.mrc").exists()


def lab_of_one_tomogram(folder, seed=0):
    lab = Lab(folder)
    lab.write_config(scale={"raw": {"input_path": RAW, "output_path": "scaled", "invert": False}})
    lab.write_tomogram("TS_1", seed)
    return lab


@pytest.fixture
def lab(tmp_path):
    return lab_of_one_tomogram(tmp_path / "lab")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A finished run of another tomogram of the same name, which nobody disturbed."""
    lab = lab_of_one_tomogram(tmp_path_factory.mktemp("other"), seed=99)
    lab.run("scale")
    return lab


def tomogram_of(lab):
    return lab.folder / RAW / "TS_1.mrc"


def scaled_of(lab):
    return lab.folder / "scaled" / "TS_1.mrc"


def scaled_while(lab, find, sought, other):
    """Scale a tomogram and replace it meanwhile; returns what the run printed and its exit status.

    find: opened or just_made, of the path ``sought``; other: the Lab of what replaces it
    """
    new = copied(tomogram_of(other), lab.folder / "new.mrc")
    with subprocess.Popen(
        lab.command("--cores", "1", "--", "scale"), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, cwd=lab.folder,
    ) as run:  # fmt: skip
        assert held_while(
            run, partial(find, run.pid, sought), partial(new.replace, tomogram_of(lab))
        )
        shown, _ = run.communicate()
    return shown, run.returncode


def test_a_tomogram_that_is_replaced_while_a_run_reads_it_is_named_and_scaled_anew(lab, other):
    shown, code = scaled_while(lab, opened, tomogram_of(lab), other)
    assert "raw_scale_tomogram TS_1: " in printed(code, shown, fails=True)
    assert f"{RAW}/TS_1.mrc: the file was changed while it was read" in shown
    assert not scaled_of(lab).exists()
    lab.run("scale")
    assert scaled_of(lab).read_bytes() == scaled_of(other).read_bytes()


def test_one_that_is_replaced_once_its_job_has_read_it_is_scaled_anew_by_the_next_run(lab, other):
    """What was made of it gets its date only then, and Snakemake notes what is there as read."""
    shown, code = scaled_while(lab, just_made, scaled_of(lab), other)
    assert f"changed after it was read: {RAW}/TS_1.mrc" in printed(code, shown)
    assert scaled_of(lab).read_bytes() != scaled_of(other).read_bytes()
    lab.run("scale")
    assert scaled_of(lab).read_bytes() == scaled_of(other).read_bytes()
    assert lab.plan("scale") == set()


@pytest.mark.parametrize("change", [rewrite_in_place, replace])
def test_a_tomogram_that_changed_after_it_was_read_is_known_by_the_record(change, tmp_path):
    job, path = job_of(tmp_path), tmp_path / "TS_1.mrc"
    given = [job.output["scaled"]], [str(path)]
    volume_at(path, 1)
    run_while(job, lambda: None)
    os.utime(path)
    assert changed_since_read(*given) == []
    change(path)
    assert changed_since_read(*given) == given[1]
    path.unlink()
    assert changed_since_read(*given) == []


def test_a_tomogram_that_is_only_touched_or_copied_anew_does_not(tmp_path):
    job = job_of(tmp_path)
    path = tmp_path / "TS_1.mrc"
    volume_at(path, 1)
    run_while(job, lambda: os.utime(path, (1, 1)))
    run_while(job, lambda: path.write_bytes(path.read_bytes()))


def test_a_tomogram_that_is_cut_short_while_it_is_mapped_leaves_a_clear_word(tmp_path):
    path, log = tmp_path / "TS_1.mrc", tmp_path / "TS_1.log"
    volume_at(path, 1)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    with subprocess.Popen(
        [sys.executable, "-c", READ_FOR_LONG, path, log], env=environment
    ) as reading:
        deadline = time.monotonic() + 60
        while not (log.exists() and "reading" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.truncate(path, 2000)
        assert reading.wait(60) == -signal.SIGBUS
    kind, said = explain(Failure("scale_tomogram", "TS_1", str(log)))
    assert kind == "error"
    assert "a file that it read was cut short or written anew meanwhile" in said


def test_many_processes_that_write_one_file_leave_a_whole_one(tmp_path):
    code = (
        "import sys, numpy as np\nfrom cryoseg.volumes import write_mrc\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"  # until both are there
        "for _ in range(30):\n"
        "    write_mrc(sys.argv[1], np.full((8, 64, 64), int(sys.argv[2]), np.float32))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    path, values = tmp_path / "scaled.mrc", set()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, str(value)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for value in (1, 2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.stdin.close()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            (value,) = np.unique(open_volume(path)[:])
            values.add(int(value))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert values == {1, 2}
    assert [each.name for each in tmp_path.iterdir()] == ["scaled.mrc"]


def lab_of(who, folder, invert=False, output="scaled"):
    """A Lab of somebody, which scales what lies in a common folder into another one."""
    lab = Lab(folder / who)
    paths = {"input_path": str(folder / RAW), "output_path": str(folder / output)}
    lab.write_config(scale={"raw": paths | {"invert": invert}})
    return lab


def fill_common_folder(folder):
    lab = Lab(folder)
    for seed, name in enumerate(SHARED):
        lab.write_tomogram(name, seed)
    return folder


def run_overlapping(begin, folder):
    """Run two commands of which each writes into a folder while the other is on its way.

    begin: two functions that start a process
    Returns what each printed; an AssertionError where one fails, or what is made is not whole.
    """

    def wait_for(run, count):
        deadline = time.monotonic() + 120
        while run.poll() is None and len(list(folder.glob("*.mrc"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert run.poll() is None, run.communicate()[0]

    def of_all(run, does):
        snakemake = psutil.Process(run.pid)
        does(snakemake)  # first, so that it starts no other
        for process in snakemake.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                does(process)

    with Watch(folder) as watch, ExitStack() as at_the_end:
        first = begin[0]()
        at_the_end.callback(first.kill)
        wait_for(first, 1)
        of_all(first, psutil.Process.suspend)
        at_the_end.callback(of_all, first, psutil.Process.resume)
        made = len(list(folder.glob("*.mrc")))
        second = begin[1]()
        at_the_end.callback(second.kill)
        wait_for(second, made + 1)
        of_all(first, psutil.Process.resume)
        shown = [run.communicate()[0] for run in (first, second)]
        at_the_end.pop_all()
    assert [first.returncode, second.returncode] == [0, 0], shown
    assert not watch.damaged
    for name in SHARED:
        open_whole(folder / f"{name}.mrc", ".mrc")
    return shown


def check_as_of_a_lone_run(folder):
    """An AssertionError unless two runs have left what a run alone makes of a common folder."""
    lab_of("alone", folder, output="alone/scaled").run("--", "scale")
    ours, theirs = folder / "scaled", folder / "alone" / "scaled"
    names = {path.name for path in ours.glob("[!.]*")}
    assert names == {path.name for path in theirs.glob("[!.]*")}
    for name in SHARED:
        assert (ours / f"{name}.mrc").read_bytes() == (theirs / f"{name}.mrc").read_bytes()


def test_two_runs_of_two_working_folders_leave_whole_files_in_one_output_folder(tmp_path):
    folder = fill_common_folder(tmp_path)
    labs = [lab_of(who, folder) for who in ("anna", "ben")]
    (folder / "scaled").mkdir()

    def begin(lab):
        return subprocess.Popen(
            lab.command("--cores", "1", "--", "scale"),
            cwd=lab.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    shown = run_overlapping([partial(begin, lab) for lab in labs], folder / "scaled")
    for other, told in zip(reversed(labs), shown, strict=True):
        assert f"the run in {other.folder} writes there too, with the same settings" in told
    check_as_of_a_lone_run(folder)
    for lab in labs:
        assert lab.plan("scale") == set()
        assert not left_over(lab)


def test_outputs_of_somebody_elses_settings_are_told_of_before_they_are_taken_for_ones_own(
    tmp_path,
):
    folder = fill_common_folder(tmp_path)
    anna, ben = lab_of("anna", folder), lab_of("ben", folder, invert=True)
    assert "writes there too" not in anna.run("--", "scale")
    for again in (ben.run("--", "scale"), anna.run("-n")):
        assert f"{folder}/scaled: the run in {folder}/" in again
        assert "with other settings (scale.raw.invert is " in again
        assert "name another folder" in again
    # Nobody is told of a working folder that is gone, or of a note that was deleted.
    (anna.folder).rename(folder / "moved")
    assert "writes there too" not in ben.run("-n", "--", "scale")


def test_who_writes_into_a_folder_of_anothers_project_and_its_owner_are_told(tmp_path):
    """The owner's paths are relative, and the owner leaves no note."""
    folder = fill_common_folder(tmp_path)
    anna, ben = lab_of("anna", folder), lab_of("ben", folder, invert=True)
    inside = anna.folder / "scaled"
    for lab, output in ((anna, "scaled"), (ben, str(inside))):
        entry = {"input_path": str(folder / RAW), "output_path": output, "invert": lab is ben}
        lab.write_config(scale={"raw": entry})
    assert "writes there too" not in anna.run("--", "scale")
    again = ben.run("--", "scale")
    assert f"{inside}: the run in {anna.folder} writes there too, with settings that are" in again
    again = anna.run("-n")
    assert f"{inside}: the run in {ben.folder} writes there too, with other settings" in again
    assert "scale.raw.invert is True there, False here" in again
    # A folder that only lies in another project is nobody's.
    elsewhere = entry | {"output_path": str(anna.folder / "elsewhere")}
    ben.write_config(scale={"raw": elsewhere})
    assert "writes there too" not in ben.run("-n", "--", "scale")


def test_a_folder_where_no_note_can_be_left_is_said_and_stops_nobody(tmp_path):
    (tmp_path / ".cryoseg_runs").write_text("no folder")
    (said,) = leave_notes({str(tmp_path): {}})
    assert "runs of other working folders are not told of this one" in said
    assert not list(others_in({str(tmp_path): {}}))


def test_a_note_that_is_none_is_named(tmp_path):
    (tmp_path / ".cryoseg_runs").mkdir()
    (tmp_path / ".cryoseg_runs" / "a.json").write_text("[]")
    (said,) = others_in({str(tmp_path): {}})
    assert "a.json: it is no note of a run" in said
