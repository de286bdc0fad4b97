"""Each output tells what it was made of, and verify finds what no longer belongs together."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import mrcfile
import numpy as np
import pytest

from admit_tomogram import admit_tomogram
from conftest import REPOSITORY
from cryoseg import provenance
from cryoseg.errors import ChangedError, InputError
from cryoseg.provenance import (
    header_lines,
    matches_record,
    read_record,
    record_path,
    recorded,
    sha256,
)
from cryoseg.steps import Step
from cryoseg.verification import verify
from cryoseg.volumes import Waiting, written_aside
from test_workflow import RAW, Lab


class Workshop:
    """A folder with one step: a file made of another by doubling its text."""

    def __init__(self, folder):
        self.source, self.made = folder / "source.txt", folder / "made" / "made.txt"
        self.source.write_text("abc")
        self.made.parent.mkdir()
        self.settings = {"data": {"min": 0, "sizes": {1: 5, 10: 7, 2: 6}}}

    def step(self, **changes):
        given = {
            "name": "double",
            "tomogram": "TS_1",
            "inputs": {"text": [str(self.source)]},
            "outputs": {"twice": [str(self.made)]},
            "settings": {"settings": self.settings},
        }
        return Step(**given | changes)

    def work(self):
        job = SimpleNamespace(
            rule="double",
            input={"text": str(self.source)},
            output={"twice": str(self.made)},
            params={"settings": self.settings},
        )
        with recorded(job) as record:
            self.made.write_text(self.source.read_text() * 2)
            record["measured"] = {"seconds": 1}

    def record(self):
        return json.loads(record_path(self.made).read_text())

    def found(self, **changes):
        (finding,) = verify([self.step(**changes)])
        return finding.status, finding.reason


@pytest.fixture
def workshop(tmp_path):
    shop = Workshop(tmp_path)
    shop.work()
    return shop


@pytest.fixture(autouse=True)
def fresh_process():
    """Hashes are remembered within one process; verify is always a process of its own."""
    provenance._hashes.clear()


def rewrite(path, content):
    """Other content, the same size and time of change."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    provenance._hashes.clear()


def test_a_record_has_inputs_outputs_settings_versions_and_the_date(workshop):
    record = workshop.record()
    assert record["inputs"] == [
        {
            "name": "text",
            "path": str(workshop.source),
            "part": "content",
            "sha256": hashlib.sha256(b"abc").hexdigest(),
            "mtime_ns": workshop.source.stat().st_mtime_ns,
        }
    ]
    assert record["outputs"][0]["sha256"] == hashlib.sha256(b"abcabc").hexdigest()
    assert record["step"] == "double"
    assert record["settings"]["settings"]["data"]["min"] == 0
    assert {"cryoseg", "python", "torch"} <= set(record["versions"])
    assert record["date"].startswith("20")
    assert record["measured"] == {"seconds": 1}


def test_a_job_that_fails_leaves_no_record_of_an_earlier_one(workshop):
    job = SimpleNamespace(rule="double", input={}, output={"twice": str(workshop.made)}, params={})

    def fail():
        with recorded(job):
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    assert record_path(workshop.made).exists()  # of a file that a job elsewhere left meanwhile
    workshop.made.unlink()  # as Snakemake does before a job
    with pytest.raises(InputError):
        fail()
    assert not record_path(workshop.made).exists()


def job_of(output):
    return SimpleNamespace(rule="x", input={}, output={"one": str(output)}, params={})


def test_what_others_put_in_the_place_of_an_output_while_its_job_runs_is_not_replaced(tmp_path):
    path = tmp_path / "a.h5"

    def work(theirs):
        with recorded(job_of(path)):
            with written_aside(path) as aside:
                aside.write_text("ours")
            theirs()

    with pytest.raises(InputError, match=r"a\.h5: put there by others while this job ran"):
        work(lambda: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert not record_path(path).exists()
    assert list(tmp_path.glob(".*")) == []
    path.unlink()
    work(lambda: None)
    assert path.read_text() == "ours"


def test_what_another_job_of_ours_made_meanwhile_is_replaced(tmp_path):
    path = tmp_path / "a.h5"
    with recorded(job_of(path)):
        with written_aside(path) as aside:
            aside.write_text("later")
        # Of another process: this one knows which of its own files wait.
        paths = {"PYTHONPATH": str(REPOSITORY / "scripts")}
        subprocess.run(
            [sys.executable, "-c", MADE_ELSEWHERE, path], env=os.environ | paths, check=True
        )
        assert path.read_text() == "earlier"
    assert path.read_text() == "later"
    assert matches_record(path)


def test_what_another_job_of_ours_made_is_ours_while_its_run_dates_it(tmp_path, monkeypatch):
    path, read, looks = tmp_path / "a.h5", provenance._read_sha256, []

    def dated_meanwhile(*arguments):
        if not looks:
            os.utime(path, (1000, 1000))
        looks.append(arguments)
        return read(*arguments)

    with recorded(job_of(path)), written_aside(path) as aside:
        aside.write_text("ours")
    provenance._hashes.clear()
    monkeypatch.setattr(provenance, "_read_sha256", dated_meanwhile)
    assert matches_record(path)
    assert len(looks) == 2


def test_a_record_that_another_job_took_away_as_it_began_is_written_again(tmp_path, monkeypatch):
    path, name = tmp_path / "a.h5", Waiting.name

    def another_begins(files, place, over=None):
        if place == str(path):
            record_path(path).unlink()  # as it sees no output yet
        name(files, place, over)

    monkeypatch.setattr(Waiting, "name", another_begins)
    with recorded(job_of(path)), written_aside(path) as aside:
        aside.write_text("ours")
    assert matches_record(path)


def remove(folder):
    shutil.rmtree(folder)


def make_anew(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("which", "when", "happens", "said"),
    [
        ("in", "before", remove, "in/a.txt is gone since the run began; bring it back"),
        ("in", "within", remove, "in/a.txt is gone since the run began; bring it back"),
        ("out", "within", remove, "out/b.txt: its folder is gone; bring it back"),
        ("out", "within", make_anew, "out/b.txt: what was written for it is gone; see that"),
    ],
)
def test_a_folder_that_goes_away_beneath_a_job_is_named(which, when, happens, said, tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    source, made = tmp_path / "in" / "a.txt", tmp_path / "out" / "b.txt"
    source.write_text("abc")
    job = job_of(made)
    job.input = {"text": str(source)}

    def work():
        if when == "before":
            happens(tmp_path / which)
        with recorded(job):
            with written_aside(made) as aside:
                aside.write_text("made")
            if when == "within":
                happens(tmp_path / which)

    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/{said}")):
        work()
    assert not made.exists()


def test_a_model_of_an_input_that_is_gone_is_taken_away(tmp_path):
    source, made = tmp_path / "a.txt", tmp_path / "model.ckpt"
    source.write_text("abc")
    job = job_of(made)
    job.input = {"text": str(source)}

    def train():
        with recorded(job, waits=False):
            made.write_text("a model")
            source.unlink()

    with pytest.raises(InputError, match=r"a\.txt is gone since the run began"):
        train()
    assert not made.exists()


def test_a_working_folder_that_gets_another_name_hides_nobodys_file_from_a_job(
    tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def work():
        with recorded(job_of("a.txt")):
            (tmp_path / "here").rename(tmp_path / "there")
            Path("a.txt").write_text("theirs")
            with written_aside("a.txt") as aside:
                aside.write_text("ours")

    with pytest.raises(InputError, match=r"a\.txt: put there by others while this job ran"):
        work()
    assert Path("a.txt").read_text() == "theirs"


def test_a_tomogram_is_not_admitted_by_findings_that_were_replaced_meanwhile(tmp_path):
    findings, mark = tmp_path / "TS_1.json", tmp_path / "TS_1.admitted"
    findings.write_text('{"findings": []}')
    job = SimpleNamespace(
        rule="admit", input={"findings": str(findings)}, output={"a": str(mark)}, params={}
    )

    def admit():
        with recorded(job):
            admit_tomogram(findings, mark, settings={"demands": []})
            assert not mark.exists()
            findings.write_text('{"findings": [1]}')

    with pytest.raises(ChangedError):
        admit()
    assert not mark.exists()


MADE_ELSEWHERE = """
import sys
from types import SimpleNamespace
from cryoseg.provenance import recorded
from cryoseg.volumes import written_aside
with recorded(SimpleNamespace(rule="x", input={}, output={"one": sys.argv[1]}, params={})):
    with written_aside(sys.argv[1]) as aside:
        aside.write_text("earlier")
"""


@pytest.mark.parametrize("recorded_before", [True, False])
def test_of_two_jobs_that_end_at_once_one_leaves_its_file_and_record(
    tmp_path, monkeypatch, recorded_before
):
    path, link, times = tmp_path / "a.h5", os.link, []

    def made_elsewhere():
        subprocess.run(
            [sys.executable, "-c", MADE_ELSEWHERE, path], check=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")},
        )  # fmt: skip

    def late(source, target):
        times.append(target)
        if len(times) == 1 and recorded_before:
            path.write_text("earlier")
        elif len(times) == 1:
            made_elsewhere()
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with recorded(job_of(path)):
        with written_aside(path) as aside:
            aside.write_text("later")
        if recorded_before:  # the other one has come as far as to its record
            made_elsewhere()
            path.unlink()
    assert path.read_text() == "later"
    assert matches_record(path)
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["a.h5"]


def test_a_job_that_is_refused_one_name_takes_no_other_file_away(tmp_path):
    ours, theirs = tmp_path / "a.h5", tmp_path / "b.h5"
    job = SimpleNamespace(
        rule="x", input={}, output={"one": str(ours), "two": str(theirs)}, params={}
    )

    def work():
        with recorded(job):
            for path in (ours, theirs):
                with written_aside(path) as aside:
                    aside.write_text("later")
            subprocess.run(
                [sys.executable, "-c", MADE_ELSEWHERE, ours], check=True,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")},
            )  # fmt: skip
            theirs.write_text("theirs")

    with pytest.raises(InputError, match=r"b\.h5: put there by others"):
        work()
    assert (ours.read_text(), theirs.read_text()) == ("earlier", "theirs")
    assert matches_record(ours)


@pytest.mark.parametrize("theirs", [True, False])
def test_a_changed_input_takes_away_only_the_model_that_was_made_of_it(
    theirs, tmp_path, monkeypatch
):
    source, model, hash_of = tmp_path / "patches.h5", tmp_path / "model.ckpt", provenance._hash_of
    source.write_text("before")
    job = SimpleNamespace(
        rule="x", input={"patches": str(source)}, output={"model": str(model)}, params={}
    )

    def meanwhile(future):
        if theirs:
            model.unlink()
            model.write_text("theirs")
        return hash_of(future)

    def train():
        with recorded(job, waits=False):
            model.write_text("ours")
            source.write_text("changed since")

    monkeypatch.setattr(provenance, "_hash_of", meanwhile)
    with pytest.raises(ChangedError):
        train()
    assert model.exists() == theirs


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_between_record_and_name_is_not_replaced(tmp_path, monkeypatch, links):
    path, link = tmp_path / "a.h5", os.link

    def late(source, target):
        if not path.exists():
            path.write_text("theirs")
        if not links:
            raise OSError(errno.EPERM, "no links here")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with (
        pytest.raises(InputError, match="put there by others"),
        recorded(job_of(path)),
        written_aside(path) as aside,
    ):
        aside.write_text("ours")
    assert path.read_text() == "theirs"
    assert not matches_record(path)


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP])
def test_files_get_their_names_where_there_are_no_hard_links(tmp_path, monkeypatch, error):
    def refuse(source, target):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.h5"
    with recorded(job_of(path)), written_aside(path) as aside:
        aside.write_text("ours")
    assert matches_record(path)
    assert list(tmp_path.glob(".*")) == []


# A job with two outputs that is killed when it gives a file its name, the one with a number.
KILLED = """
import os, sys
from types import SimpleNamespace
from cryoseg.provenance import recorded
from cryoseg.volumes import written_aside
names = []

def unless_killed(name):
    def named(source, target):
        names.append(target)
        if len(names) > int(sys.argv[1]):
            os.kill(os.getpid(), 9)
        name(source, target)
    return named

os.replace, os.link = unless_killed(os.replace), unless_killed(os.link)
outputs = {"one": "out/a.txt", "two": "out/b.txt"}
with recorded(SimpleNamespace(rule="x", input={}, output=outputs, params={})):
    for path in outputs.values():
        with written_aside(path) as aside:
            aside.write_text(path)
        assert not os.path.exists(path)
    if sys.argv[2:]:
        import subprocess
        subprocess.run([sys.executable, "-c", sys.argv[2], "out/a.txt"], check=True)
"""


@pytest.mark.parametrize("named", range(5))
def test_wherever_a_job_is_killed_each_output_has_its_record(named, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    paths = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    job = subprocess.run(
        [sys.executable, "-c", KILLED, str(named)], env=os.environ | paths, cwd=tmp_path
    )
    assert job.returncode == (0 if named == 4 else -9)
    made = [path for path in (folder / "a.txt", folder / "b.txt") if path.exists()]
    assert len(made) == max(0, named - 2)
    for path in made:
        outputs = {each["path"]: each["sha256"] for each in read_record(path)["outputs"]}
        assert outputs[str(path.relative_to(tmp_path))] == sha256(path)
    assert bool(list(folder.glob(".*"))) == (named < 4)  # which the next such job removes


@pytest.mark.parametrize("named", range(6))
def test_killed_while_it_replaces_what_a_job_elsewhere_left_either_is_ours(named, tmp_path):
    (tmp_path / "out").mkdir()
    paths = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    job = subprocess.run(
        [sys.executable, "-c", KILLED, str(named), MADE_ELSEWHERE],
        env=os.environ | paths, cwd=tmp_path,
    )  # fmt: skip
    assert job.returncode == (0 if named == 5 else -9)
    first, second = tmp_path / "out" / "a.txt", tmp_path / "out" / "b.txt"
    assert first.read_text() == ("earlier" if named < 3 else "out/a.txt")
    assert matches_record(first)
    assert second.exists() == (named >= 4)
    if named == 5:  # the record is of the file alone
        assert len(read_record(first)["outputs"]) == 2


def test_a_job_that_fails_after_it_has_written_leaves_no_output(tmp_path):
    job = SimpleNamespace(rule="x", input={}, output={"one": str(tmp_path / "a.txt")}, params={})

    def fail():
        with recorded(job):
            with written_aside(tmp_path / "a.txt") as aside:
                aside.write_text("complete")
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with written_aside(tmp_path / "a.txt") as aside:  # waits for nothing any more
        aside.write_text("complete")
    assert (tmp_path / "a.txt").exists()


def test_an_output_that_does_not_wait_is_recorded_where_it_lies(tmp_path):
    path = tmp_path / "model.ckpt"
    job = SimpleNamespace(rule="x", input={}, output={"one": str(path)}, params={})
    with recorded(job, waits=False):
        with written_aside(path) as aside:
            aside.write_text("complete")
        assert path.exists()
    assert read_record(path)["outputs"][0]["sha256"] == sha256(path)


def test_what_was_not_touched_matches(workshop):
    assert workshop.found() == ("matches", "")


def test_what_was_made_without_a_file_matches_until_the_file_is_there(tmp_path):
    shop = Workshop(tmp_path)
    late = tmp_path / "late.txt"
    inputs = {"text": [str(shop.source), str(late)]}
    job = SimpleNamespace(
        rule="double", input=inputs, output={"twice": str(shop.made)},
        params={"settings": shop.settings},
    )  # fmt: skip
    with recorded(job, absent=[str(late)]):
        shop.made.write_text("abcabc")
    assert shop.found(inputs=inputs) == ("matches", "")
    late.write_text("def")
    provenance._hashes.clear()
    status, reason = shop.found(inputs=inputs)
    assert status == "changed"
    assert reason == f"text {late} is there now; it was made without that file"


def test_numbers_as_keys_of_settings_are_those_of_the_record(workshop):
    workshop.settings = {"data": {"sizes": {2: 6, 1: 5, 10: 7}, "min": 0}}
    assert workshop.found() == ("matches", "")


def test_an_input_of_other_content_is_found_although_its_size_and_date_are_the_same(workshop):
    rewrite(workshop.source, b"abd")
    status, reason = workshop.found()
    assert status == "changed"
    assert f"text {workshop.source} is another now" in reason


def test_an_input_that_was_copied_matches(workshop):
    os.utime(workshop.source)
    provenance._hashes.clear()
    assert workshop.found() == ("matches", "")


def test_an_output_that_was_edited_is_found(workshop):
    rewrite(workshop.made, b"abcabd")
    assert workshop.found()[1].startswith("the file itself was changed after 20")


def test_an_output_whose_record_tells_of_two_jobs_is_that_of_either(workshop):
    """As where one was killed between record and name, in the place of what the other had left."""
    record = workshop.record()
    (made,) = record["outputs"]
    record["outputs"].insert(0, made | {"sha256": 64 * "0"})
    record_path(workshop.made).write_text(json.dumps(record))
    assert workshop.found() == ("matches", "")
    rewrite(workshop.made, b"abcabd")
    assert workshop.found()[1].startswith("the file itself was changed after 20")


def test_an_input_from_elsewhere_is_named_beside_the_one_it_was_made_of(workshop):
    status, reason = workshop.found(inputs={"text": ["elsewhere.txt"]})
    assert status == "changed"
    assert reason == f"text is elsewhere.txt now, it was made of {workshop.source}"


def test_an_input_that_is_gone_is_missing(workshop):
    workshop.source.unlink()
    assert workshop.found()[1] == f"text {workshop.source} is missing or cannot be read"


def test_a_setting_is_named_with_both_values(workshop):
    workshop.settings = {"data": {"min": 1, "sizes": {1: 5, 10: 7, 2: 6}}}
    assert workshop.found() == ("changed", "data.min is 1, it was made with 0")


def test_what_is_gone_differs_from_what_was_never_made(workshop):
    workshop.made.unlink()
    assert workshop.found()[0] == "missing"
    record_path(workshop.made).unlink()
    assert workshop.found() == ("not made yet", "")


def test_a_file_without_a_record_cannot_pass(workshop):
    record_path(workshop.made).unlink()
    assert workshop.found()[0] == "no record"
    record_path(workshop.made).write_text("{")
    assert "it cannot be read" in workshop.found()[1]
    record_path(workshop.made).write_text("[" * 200_000)
    assert "it cannot be read" in workshop.found()[1]
    for text in ("[]", '{"date": "", "inputs": [5], "outputs": [], "settings": {}}'):
        record_path(workshop.made).write_text(text)
        assert "this is no record of cryoseg" in workshop.found()[1]


def test_what_was_made_of_a_changed_file_is_found_although_its_own_inputs_match(workshop, tmp_path):
    later = tmp_path / "later.txt"
    job = SimpleNamespace(
        rule="later", input={"twice": str(workshop.made)}, output={"out": str(later)}, params={}
    )
    with recorded(job):
        later.write_text("x")
    rewrite(workshop.source, b"abd")
    outputs = {"out": [str(later)]}
    step = Step("later", None, {"twice": [str(workshop.made)]}, outputs, {})
    first, second = verify([workshop.step(), step])
    assert first.status == "changed"
    assert (second.status, second.reason) == (
        "made of an outdated file",
        f"{workshop.made}, which it was made of, does not match",
    )


def test_a_damaged_file_is_unreadable(tmp_path):
    made = tmp_path / "a_preds.h5"
    job = SimpleNamespace(rule="label", input={}, output={"labels": str(made)}, params={})
    with recorded(job):
        made.write_bytes(b"no HDF5 at all")
    (finding,) = verify([Step("label", "a", {}, {"labels": [str(made)]}, {})])
    assert finding.status == "unreadable"


def test_of_an_input_whose_header_alone_is_read_only_that_counts(tmp_path):
    tomogram, made = tmp_path / "a.mrc", tmp_path / "made.txt"
    with mrcfile.new(tomogram) as mrc:
        mrc.set_data(np.zeros((8, 9, 10), np.float32))
    job = SimpleNamespace(
        rule="label", input={"tomogram": str(tomogram)}, output={"out": str(made)}, params={}
    )
    with recorded(job, headers=["tomogram"]):
        made.write_text("x")
    step = Step("label", "a", {"tomogram": [str(tomogram)]}, {"out": [str(made)]}, {})
    content = bytearray(tomogram.read_bytes())
    content[2000] ^= 1
    rewrite(tomogram, bytes(content))
    assert verify([step])[0].status == "matches"
    content[196] ^= 1  # the origin
    rewrite(tomogram, bytes(content))
    assert verify([step])[0].status == "changed"


def test_lines_of_an_mrc_header_have_room_for_few_and_say_what_is_left_out():
    lines = header_lines({}, {"masks": ["f" * 64] * 12})
    assert len(lines) == 9
    assert lines[-1] == "and 5 more inputs"
    assert all(len(line) <= 80 for line in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two tomograms, scaled and given a mask."""
    lab = Lab(tmp_path_factory.mktemp("finished"))
    scale = {"raw": {"input_path": RAW, "output_path": "scaled", "invert": False}}
    lab.write_config(scale=scale, predict={"lamella": "config/lamella.yaml"})
    shutil.copy(REPOSITORY / "tests" / "data" / "lamella.ckpt", lab.folder / "lamella.ckpt")
    lab.write_stage("lamella", save_original_file_extension=True)
    for seed, name in enumerate(("TS_1", "TS_2")):
        lab.write_tomogram(name, seed)
    lab.run("all", "overview")
    return lab


MADE_OF_ALL = ("checks/scaled.tsv", "checks/scaled.html", "overview.html", "overview.tsv")


def content_of(folder):
    """Each file's content but for logs and the table that verify writes."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {".snakemake", "logs"} & set(path.relative_to(folder).parts)
        if path.name != "verify.tsv"
    }


def test_files_carry_what_they_were_made_of(finished):
    raw = hashlib.sha256((finished.folder / RAW / "TS_1.mrc").read_bytes()).hexdigest()
    scaled = hashlib.sha256((finished.folder / "scaled" / "TS_1.mrc").read_bytes()).hexdigest()
    model = hashlib.sha256((finished.folder / "lamella.ckpt").read_bytes()).hexdigest()
    with mrcfile.open(finished.folder / "scaled" / "TS_1.mrc") as mrc:
        assert f"tomogram SHA-256 {raw[:40]}" in mrc.get_labels()
    predictions = finished.folder / "predictions" / "lamella"
    with mrcfile.open(predictions / "TS_1_preds.mrc") as mrc:
        assert f"tomogram SHA-256 {scaled[:40]}" in mrc.get_labels()
        assert f"checkpoint SHA-256 {model[:40]}" in mrc.get_labels()
    with h5py.File(predictions / "TS_1_preds.h5") as file:
        assert json.loads(file.attrs["inputs"])["score_voxels"]["tomogram"] == scaled
        assert file.attrs["checkpoint_sha256"] == model


def test_verify_says_what_changed_and_leaves_all_as_it_is(finished):
    """The run that follows makes anew what verify named, as far as dates tell it."""
    shown = finished.run("verify")
    assert "22 outputs: 21 matches, 1 not made yet" in shown  # what calibrate measures
    raw = finished.folder / RAW / "TS_1.mrc"
    content = bytearray(raw.read_bytes())
    content[3000] ^= 1
    rewrite(raw, bytes(content))
    finished.write_stage(
        "lamella", parameters__network__threshold=0.4, save_original_file_extension=True
    )
    before = content_of(finished.folder)
    shown = finished.run("verify", fails=True)
    assert content_of(finished.folder) == before
    rows = (finished.folder / "verify.tsv").read_text().splitlines()
    status = {row.split("\t")[0]: row.split("\t")[3:] for row in rows[1:]}
    assert status["scaled/TS_1.mrc"][0] == "changed"
    assert {status[f][0] for f in MADE_OF_ALL} == {"made of an outdated file"}
    assert "is another now" in status["scaled/TS_1.mrc"][1]
    scores = "predictions/lamella/scores"
    assert status[f"{scores}/TS_1_scores.h5"][0] == "made of an outdated file"
    assert status[f"{scores}/TS_2_scores.h5"] == ["matches", ""]
    why = ["changed", "threshold is 0.4, it was made with 0.2"]
    for name in ("TS_1_preds.h5", "TS_1_preds.mrc", "TS_2_preds.h5", "TS_2_preds.mrc"):
        assert status[f"predictions/lamella/{name}"] == why
    assert "threshold is 0.4, it was made with 0.2" in shown
    assert "16 of 22 outputs do not match" in shown


def test_what_was_corrected_by_hand_is_made_anew_as_verify_says(finished):
    """Once it is moved away: where it lies, no run replaces it."""
    mask = finished.folder / "predictions" / "lamella" / "TS_2_preds.h5"
    spelled = "predictions/lamella/TS_2_preds.h5"
    anew = ("-R", "lamella_label_voxels", "--", spelled)
    with h5py.File(mask, "r+") as file:
        file["labels"][:3] = 7
    corrected = mask.read_bytes()
    shown = finished.run("verify", fails=True)
    assert "1 of them may not be what a job left, and snakemake refuses to replace" in shown
    assert "move them to another folder" in shown
    assert "1 file of others" in finished.run(*anew, fails=True)
    assert mask.read_bytes() == corrected
    mask.rename(finished.folder / "TS_2_preds.h5")
    finished.run(*anew)
    shown = finished.run("verify", fails=True)  # for the rest, which was not asked for
    assert "Run snakemake to make them anew, and name steps that it takes for done" in shown
    rows = (finished.folder / "verify.tsv").read_text().splitlines()
    (row,) = (row.split("\t") for row in rows if row.startswith(f"{spelled}\t"))
    assert row[3:] == ["matches", ""]
    (finished.folder / "verify.tsv").write_text("somebody's notes\n")
    assert "is no table that cryoseg wrote" in finished.run("verify", fails=True)
    assert (finished.folder / "verify.tsv").read_text() == "somebody's notes\n"
