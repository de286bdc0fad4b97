"""Volumes are read as they are, refused with a reason, and written whole or not at all."""

import contextlib
import logging
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import h5py
import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import REPOSITORY
from cryoseg import volumes
from cryoseg.errors import InputError
from cryoseg.hdf5_files import text_at
from cryoseg.volumes import (
    copied_near,
    is_known_size,
    open_label_volume,
    open_mask,
    open_volume,
    write_mrc,
    written_aside,
)

TYPES = {0: "i1", 1: "<i2", 2: "<f4", 6: "<u2", 12: "<f2"}


def numbers(dtype, shape=(3, 4, 5)):
    """Different voxels, the extremes of integer types included."""
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if values.dtype.kind in "iu":
        values.flat[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return values


def written(path, data, **header):
    """An MRC file with header fields changed afterwards."""
    with mrcfile.new(path, data, overwrite=True) as mrc:
        mrc.voxel_size = (3.0, 2.0, 1.0)
    with open(path, "r+b") as file:
        for offset, (form, value) in header.get("fields", {}).items():
            file.seek(offset)
            file.write(struct.pack(form, *np.atleast_1d(value)))
    return path


@pytest.mark.parametrize("mode", TYPES)
def test_every_real_mode_is_read_voxel_by_voxel(mode, tmp_path):
    data = numbers(TYPES[mode])
    volume = open_volume(written(tmp_path / "a.mrc", data))
    assert volume.data.dtype == data.dtype
    np.testing.assert_array_equal(volume.data, data)
    assert volume.shape == (3, 4, 5)


def test_big_endian_files_are_read(tmp_path):
    data = numbers(">f4")
    np.testing.assert_array_equal(open_volume(written(tmp_path / "a.mrc", data)).data, data)


@given(data=st.data())
def test_slicing_a_volume_copies_the_box(data):
    values = numbers(">i2")
    box = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
        for n in (3, 4, 5)
    )
    volume = volumes.Volume(values, (1.0,) * 3, (0.0,) * 3, (0,) * 3, None)
    copy = volume[box]
    np.testing.assert_array_equal(copy, values[box])
    np.testing.assert_array_equal(volume[box[0]], values[box[0]])
    assert copy.dtype.isnative
    assert not np.shares_memory(copy, values)


def test_reading_a_volume_does_not_keep_its_pages(tmp_path):
    """The resident memory of a process that reads 100 MB, column by column, stays far below it."""
    program = (
        f"import sys; sys.path.append({str(REPOSITORY / 'scripts')!r})\n"
        "from cryoseg.volumes import open_volume\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "volume, before = open_volume(sys.argv[1]), resident()\n"
        "for x in range(0, 256, 64):\n"
        "    volume[:, :, x : x + 1]\n"
        "    print(resident() - before)\n"
    )
    write_mrc(tmp_path / "a.mrc", np.broadcast_to(np.float32(1), (400, 256, 256)))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.mrc"], capture_output=True, check=True
    )
    assert all(float(growth) < 40 for growth in done.stdout.split())


def test_bytes_are_unsigned_where_imod_says_so(tmp_path, caplog):
    path = written(tmp_path / "a.mrc", numbers("i1"), fields={152: ("<i", 1146047817)})
    assert open_volume(path).data.max() == 128  # -128 read as unsigned
    assert "unsigned" in caplog.text
    written(path, numbers("i1"), fields={152: ("<i", 1146047817), 156: ("<i", 1)})
    assert open_volume(path).data.min() == -128


def test_a_wrong_machine_stamp_is_seen_through(tmp_path, caplog):
    path = written(tmp_path / "a.mrc", numbers("<f4"), fields={212: ("2B", (0x11, 0x11))})
    np.testing.assert_array_equal(open_volume(path).data, numbers("<f4"))
    assert "bytes are swapped" in caplog.text


def test_extension_and_extended_header_do_not_matter(tmp_path):
    path = tmp_path / "TS_1.rec"
    with mrcfile.new(path, numbers("<f4")) as mrc:
        mrc.set_extended_header(np.zeros(80, "V1"))
    np.testing.assert_array_equal(open_volume(path).data, numbers("<f4"))


def test_geometry_is_read(tmp_path):
    fields = {16: ("<i", -7), 24: ("<i", 9), 196: ("<f", 1.5), 204: ("<f", -2.5)}
    volume = open_volume(written(tmp_path / "a.mrc", numbers("<f4"), fields=fields))
    assert volume.voxel_size == (1.0, 2.0, 3.0)
    assert volume.nstart == (-7, 0, 9)
    assert volume.origin == (1.5, 0.0, -2.5)


def test_voxel_size_is_zero_where_the_header_does_not_know_it(tmp_path):
    path = written(tmp_path / "a.mrc", numbers("<f4"), fields={28: ("<i", 0), 44: ("<f", 0.0)})
    assert open_volume(path).voxel_size == (1.0, 0.0, 0.0)


def test_truncated_file_is_refused_with_both_byte_counts(tmp_path):
    path = written(tmp_path / "TS_03.mrc", numbers("<f4"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"TS_03\.mrc: .*3 x 4 x 5 .*1264 bytes.* 1254") as error:
        open_volume(path)
    assert "copy it anew" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({12: ("<i", 4)}, "complex"),
        ({12: ("<i", 3)}, "complex"),
        ({12: ("<i", 16)}, "mode 16"),
        ({12: ("<i", 101)}, "mode 101"),
        ({88: ("<i", 401), 36: ("<i", 1)}, "stack of volumes"),
        ({88: ("<i", 0), 8: ("<i", 1)}, "2D image"),
        ({8: ("<i", 0)}, "0 x 4 x 5"),
        ({0: ("<i", -5)}, "3 x 4 x -5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_real_volume_is_refused(fields, words, tmp_path):
    path = written(tmp_path / "TS_03.mrc", numbers("<f4"), fields=fields)
    with pytest.raises(InputError, match="TS_03.mrc: .*" + words):
        open_volume(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "0 bytes"), (b"x" * 100, "100 bytes"), (b"some text\n" * 500, "mode .* is not read")],
    ids=["empty", "short", "text"],
)
def test_files_that_are_no_mrc_are_refused(content, words, tmp_path):
    (tmp_path / "a.mrc").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_volume(tmp_path / "a.mrc")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"TS_9\.mrc: there is no such file"):
        open_volume(tmp_path / "TS_9.mrc")


def test_small_faults_are_read_over_and_logged(tmp_path, caplog):
    path = written(tmp_path / "a.mrc", numbers("<f4"), fields={208: ("<i", 0), 64: ("<i", 3)})
    with open(path, "ab") as file:
        file.write(b"tail")
    np.testing.assert_array_equal(open_volume(path).data, numbers("<f4"))
    for words in ("lacks the letters MAP", "4 bytes after the data", "axis order"):
        assert words in caplog.text


@pytest.mark.parametrize("name", ["a b.mrc", "ü'\"$[1]{2}*.rec", "x.mrc_13.28Apx.mrc"])
def test_odd_file_names_work(name, tmp_path):
    write_mrc(tmp_path / name, numbers("<f4"))
    np.testing.assert_array_equal(open_volume(tmp_path / name).data, numbers("<f4"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("mode", TYPES)
def test_written_files_are_valid_and_hold_the_same_voxels(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_BYTES", 30)  # several slabs even here
    data = numbers(TYPES[mode])
    write_mrc(tmp_path / "a.mrc", data, voxel_size=10)
    assert mrcfile.validate(tmp_path / "a.mrc")
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert mrc.header.mode == mode
        np.testing.assert_array_equal(mrc.data, data)
        np.testing.assert_allclose(mrc.header.rms, data.astype(float).std(), rtol=1e-6)
        np.testing.assert_allclose(mrc.header.dmean, data.mean(dtype=float), rtol=1e-6)
        assert (mrc.header.dmin, mrc.header.dmax) == (data.min(), data.max())


@pytest.mark.parametrize(("largest", "mode"), [(127, 0), (128, 6), (255, 6)])
def test_labels_are_bytes_unless_they_exceed_127(largest, mode, tmp_path):
    labels = np.array([0, 1, largest], np.uint8).reshape(1, 1, 3)
    write_mrc(tmp_path / "a.mrc", labels)
    volume = open_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(volume.data, labels)
    assert volume.data.dtype == TYPES[mode]


def test_output_lies_where_its_input_lies(tmp_path):
    fields = {16: ("<i", -7), 24: ("<i", 9), 196: ("<f", 1.5), 204: ("<f", -2.5)}
    source = open_volume(written(tmp_path / "a.mrc", numbers("<i2"), fields=fields))
    write_mrc(tmp_path / "b.mrc", source.data.astype(np.uint8) > 3, like=source)
    copy = open_volume(tmp_path / "b.mrc")
    assert (copy.voxel_size, copy.origin, copy.nstart) == (
        source.voxel_size,
        source.origin,
        source.nstart,
    )


def test_hdf5_datasets_are_written_as_mrc(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        labels = file.create_dataset("labels", data=numbers("u1") % 100)
        write_mrc(tmp_path / "a.mrc", labels)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.mrc").data, numbers("u1") % 100)


def test_a_file_written_aside_appears_only_when_complete(tmp_path):
    target = tmp_path / "a b.h5"
    target.write_text("old")
    with written_aside(target) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
        assert aside.parent == tmp_path
        assert aside.name.startswith(".")
        assert aside.suffix == ".h5"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_nothing_aside_and_the_old_file_as_it_was(tmp_path):
    target = tmp_path / "a.mrc"
    target.write_text("old")

    def write_half():
        with written_aside(target) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_masks_come_from_hdf5_and_mrc_alike(tmp_path):
    inside = numbers("u1") % 2
    with h5py.File(tmp_path / "a_preds.h5", "w") as file:
        file.create_dataset("labels", data=inside)
    write_mrc(tmp_path / "a.mrc", inside.astype(np.float32))
    for name in ("a_preds.h5", "a.mrc"):
        mask = open_mask(tmp_path / name, (3, 4, 5))
        box = mask[1:3, :, 2:4]
        assert mask.shape == (3, 4, 5)
        assert box.dtype == np.uint8
        np.testing.assert_array_equal(box, inside[1:3, :, 2:4])


def test_any_label_is_inside_and_half_counts(tmp_path):
    values = np.array([-1, 0, 0.4, 0.5, 7, np.nan], np.float32).reshape(1, 1, 6)
    write_mrc(tmp_path / "a.mrc", values)
    mask = open_mask(tmp_path / "a.mrc", (1, 1, 6))
    assert mask[:, :, :].ravel().tolist() == [0, 0, 0, 1, 1, 0]


shapes = st.tuples(*[st.integers(1, 7)] * 3)


@given(old=shapes, new=shapes, data=st.data())
def test_mask_of_another_size_is_resized_by_nearest_neighbour(old, new, data):
    stored = np.random.default_rng(0).integers(0, 2, old).astype(np.uint8)
    index = [
        np.floor((np.arange(n) + 0.5) * o / n).astype(int) for o, n in zip(old, new, strict=True)
    ]
    expected = stored[np.ix_(*index)]
    box = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in new
    )
    np.testing.assert_array_equal(volumes.Mask(stored, new)[box], expected[box])


def test_resizing_a_mask_names_both_sizes(tmp_path, caplog):
    write_mrc(tmp_path / "a.mrc", np.ones((2, 2, 2), np.uint8))
    with caplog.at_level(logging.WARNING):
        mask = open_mask(tmp_path / "a.mrc", (4, 4, 4))
    assert "2 x 2 x 2" in caplog.text
    assert "4 x 4 x 4" in caplog.text
    assert mask[0:4, 0:4, 0:4].all()


def test_masks_that_are_none_are_refused(tmp_path):
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        file["winner"] = numbers("u1")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["labels"] = np.zeros((4, 4), np.uint8)
    (tmp_path / "text.h5").write_text("text")
    for name, words in {
        "scores.h5": r"no dataset 'labels' but \['winner'\]",
        "flat.h5": "2 axes",
        "text.h5": "no HDF5 file",
        "missing.h5": "no such file",
    }.items():
        with pytest.raises(InputError, match=words):
            open_mask(tmp_path / name, (4, 4, 4))


def linked(file):
    file["labels"] = h5py.ExternalLink("elsewhere.h5", "labels")


def linked_through(file):
    file["other"] = h5py.ExternalLink("elsewhere.h5", "labels")
    file["labels"] = h5py.SoftLink("/other")


def viewed(file):
    layout = h5py.VirtualLayout((4, 4, 4), np.uint8)
    layout[...] = h5py.VirtualSource("elsewhere.h5", "labels", (4, 4, 4))
    file.create_virtual_dataset("labels", layout)


def raw(file):
    file.create_dataset("labels", (4, 4, 4), np.uint8, external=[("elsewhere.h5", 0, 64)])


def vast(file):
    file.create_dataset("labels", (2**20,) * 3, np.uint8, chunks=(1, 1, 1))


def no_voxels(file):
    file["labels"] = np.zeros((4, 0, 4), np.uint8)


def nothing(file):
    file["labels"] = h5py.Empty(np.uint8)


def vast_chunks(file):
    file.create_dataset("labels", (4,) * 3, "u4", chunks=(900,) * 3, maxshape=(None,) * 3)


def unknown_filter(file):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((4, 4, 4))
    settings.set_filter(40000, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((4, 4, 4))
    h5py.h5d.create(file.id, b"labels", h5py.h5t.STD_U8LE, space, settings)


def texts(file):
    file.create_dataset("labels", (4, 4, 4), h5py.string_dtype())


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (linked, "labels is a link, which is not followed"),
        (linked_through, "labels is a link, which is not followed"),
        (viewed, "labels lies in other files, which are not read"),
        (raw, "labels lies in other files, which are not read"),
        (vast, "labels is said to be 1048576 x 1048576 x 1048576"),
        (no_voxels, "labels is said to be 4 x 0 x 4"),
        (nothing, "labels is empty"),
        (vast_chunks, "stored in chunks of 2916000000 bytes"),
        (unknown_filter, "packed by filter 40000"),
        (texts, "is of type object"),
    ],
)
def test_labels_are_read_from_their_own_file_and_from_what_fits_memory(write, says, tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["labels"] = np.ones((4, 4, 4), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)
    for read in (open_label_volume, lambda path: open_mask(path, (4, 4, 4))):
        with pytest.raises(InputError, match=says) as error:
            read(tmp_path / "a.h5")
        assert str(tmp_path / "a.h5") in str(error.value)


@pytest.mark.parametrize("value", [b"\xff", 7, None], ids=["no UTF-8", "number", "nothing"])
def test_an_attribute_that_is_no_text_is_named(value, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if value is not None:
            file.attrs["checkpoint_sha256"] = value
        with pytest.raises(InputError, match=r"a.h5: attribute checkpoint_sha256 .* must be text"):
            text_at(file, tmp_path / "a.h5", "checkpoint_sha256")


@pytest.mark.parametrize("value", ["ten", ("a", "b", "c"), np.zeros(0), b"\xff", True, 10**6 * "x"])
def test_a_voxel_size_of_another_kind_is_unknown(value, tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w", track_order=True) as file:
        file["labels"] = numbers("u1")
        if len(np.atleast_1d(value)) and not isinstance(value, str):
            file.attrs["voxel_size"] = value
        else:
            file.attrs["voxel_size"] = np.asarray(str(value)[:60000], h5py.string_dtype())
    assert open_label_volume(tmp_path / "a.h5").voxel_size == (0, 0, 0)
    assert "counts as unknown" in caplog.text
    assert len(caplog.text) < 600


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ((1.0, 2.0, 3.0), (1, 2, 3)),
        (10.0, (10, 10, 10)),
        ([10], (10, 10, 10)),
        ((10, 10), (0, 0, 0)),
        ((10, 10, np.nan), (0, 0, 0)),
        ("unknown", (0, 0, 0)),
        (h5py.Empty("f"), (0, 0, 0)),
    ],
)
def test_a_voxel_size_of_hdf5_is_three_numbers_or_unknown(given, read, tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = numbers("u1")
        file.attrs["voxel_size"] = given
    with caplog.at_level(logging.WARNING):
        assert open_label_volume(tmp_path / "a.h5").voxel_size == read
    assert ("a.h5: attribute voxel_size is" in caplog.text) == (read == (0, 0, 0))


@pytest.mark.parametrize("wrong", [0, -8, np.nan, np.inf])
def test_a_voxel_size_is_known_where_all_of_it_is(wrong):
    assert is_known_size((8, 8, 8))
    for axis in range(3):
        sizes = [8.0, 8.0, 8.0]
        sizes[axis] = wrong
        assert not is_known_size(sizes)


@pytest.mark.parametrize("dtype", ["S2", complex])
def test_labels_that_are_no_real_numbers_are_refused(dtype, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = numbers("u1").astype(dtype)
    for read in (open_label_volume, lambda path: open_mask(path, (3, 4, 5))):
        with pytest.raises(InputError, match=r"a.h5: dataset labels is of type"):
            read(tmp_path / "a.h5")


def test_a_byte_mask_of_255_is_a_mask(tmp_path):
    inside = np.zeros((4, 5, 6), np.uint8)
    inside[1:3] = 255
    with mrcfile.new(tmp_path / "mask.mrc") as mrc:
        mrc.set_data(inside.view(np.int8))
    mask = open_mask(tmp_path / "mask.mrc", inside.shape)
    np.testing.assert_array_equal(mask[:, :, :], inside > 0)


def test_what_a_killed_process_left_is_removed_by_the_next_try(tmp_path):
    path = tmp_path / "TS_01_preds.h5"
    killed = subprocess.Popen(["true"])
    killed.wait()
    with written_aside(path) as aside:
        aside.touch()
        left, other = (
            aside.with_name(aside.name.replace(str(os.getpid()), str(number)))
            for number in (killed.pid, os.getppid())
        )
    left.touch()
    other.touch()  # of a process that lives
    with written_aside(path) as aside:
        aside.write_text("complete")
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


def test_outputs_are_written_on_a_nodes_own_disk_if_asked_and_appear_complete(
    tmp_path, monkeypatch
):
    scratch, path = tmp_path / "own", tmp_path / "a.mrc"
    scratch.mkdir()
    monkeypatch.setenv("CRYOSEG_SCRATCH", "$CRYOSEG_TEST_DISK")
    monkeypatch.setenv("CRYOSEG_TEST_DISK", str(scratch))
    with written_aside(path) as aside:
        assert aside.parent == scratch
        aside.write_text("complete")
        assert not path.exists()
    assert path.read_text() == "complete"
    with contextlib.suppress(KeyError), written_aside(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert path.read_text() == "complete"
    assert not list(scratch.iterdir())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mrc", "own"]


def test_a_disk_that_the_node_does_not_name_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOSEG_SCRATCH", "$CRYOSEG_NO_SUCH_DISK")
    with written_aside(tmp_path / "a.mrc") as aside:
        assert aside.parent == tmp_path
        aside.write_text("")


def test_a_disk_that_is_not_on_the_node_is_said_and_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CRYOSEG_SCRATCH", str(tmp_path / "nowhere"))
    with caplog.at_level("INFO"), written_aside(tmp_path / "a.mrc") as aside:
        assert aside.parent == tmp_path
        aside.write_text("")
    assert "nowhere is no folder to write to" in caplog.text


def test_a_file_is_read_from_a_nodes_own_disk_if_asked_and_no_copy_stays(tmp_path, monkeypatch):
    path, scratch = tmp_path / "a.mrc", tmp_path / "own"
    path.write_text("voxels")
    scratch.mkdir()
    with copied_near(path) as near:
        assert near == path
    monkeypatch.setenv("CRYOSEG_SCRATCH", str(scratch))
    with contextlib.suppress(KeyError), copied_near(path) as near:
        assert near.parent == scratch
        assert near.read_text() == "voxels"
        raise KeyError
    assert not list(scratch.iterdir())
    assert path.exists()


def test_a_file_is_read_where_it_lies_if_the_nodes_disk_has_no_room(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.mrc"
    path.write_bytes(bytes(100))
    monkeypatch.setenv("CRYOSEG_SCRATCH", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=199))
    with caplog.at_level("INFO"), copied_near(path) as near:
        assert near == path
    assert "has no room for a copy of" in caplog.text


def test_a_file_is_read_where_it_lies_if_the_nodes_disk_fills_meanwhile(
    tmp_path, monkeypatch, caplog
):
    path, scratch = tmp_path / "a.mrc", tmp_path / "own"
    path.write_text("voxels")
    scratch.mkdir()

    def fill(source, target):
        target.write_text("vox")
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("CRYOSEG_SCRATCH", str(scratch))
    monkeypatch.setattr("shutil.copyfile", fill)
    with caplog.at_level("INFO"), copied_near(path) as near:
        assert near == path
    assert "is read where it lies, not copied" in caplog.text
    assert not list(scratch.iterdir())


def test_what_a_killed_process_left_on_the_disk_of_the_node_goes(tmp_path, monkeypatch):
    scratch = tmp_path / "own"
    scratch.mkdir()
    monkeypatch.setenv("CRYOSEG_SCRATCH", str(scratch))
    killed = subprocess.Popen(["true"])
    killed.wait()
    with written_aside(tmp_path / "a.mrc") as aside:
        aside.touch()
        orphan = aside.with_name(aside.name.replace(str(os.getpid()), str(killed.pid)))
    other = orphan.with_name(orphan.name.replace("a.mrc", "b.mrc"))
    orphan.touch()
    other.touch()
    with written_aside(tmp_path / "a.mrc") as aside:
        aside.write_text("")
    assert [path.name for path in scratch.iterdir()] == [other.name]


@pytest.mark.parametrize("name", ["a|b.mrc", "1-2.mrc", "$(a) b\n.mrc", "é|" * 60])
def test_what_is_written_aside_may_be_called_as_it_likes(name, tmp_path):
    with written_aside(tmp_path / name) as aside:
        aside.write_bytes(b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    assert os.listdir(tmp_path) == [name]
