"""Patches reach the network in an order that depends on the seed, and on nothing else."""

import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import REPOSITORY
from cryoseg.augmentation import Transforms
from cryoseg.errors import InputError
from cryoseg.joblog import TO_END
from cryoseg.patches import PatchFile
from cryoseg.training_data import (
    Augmentation,
    EpochOrder,
    PatchDataset,
    collate,
    training_loader,
    validation_loader,
)
from cryoseg.training_run import check_patches, split_patches
from training_jobs import configuration, patch_file, patch_files, volumes

SPATIAL = Transforms(zoom=(0.8, 1.2), flip=True)


@given(
    patches=st.integers(1, 40), batch=st.integers(1, 5), processes=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_each_epoch_uses_every_patch_and_all_processes_together_do_what_one_does(
    patches, batch, processes, seed
):
    ranks = [list(EpochOrder(patches, batch, seed, r, processes)) for r in range(processes)]
    together = [[*chain(*parts)] for parts in zip(*ranks, strict=True)]
    assert together == list(EpochOrder(patches, batch * processes, seed))
    numbers = [number for each in together for _, _, number in each]
    assert set(numbers) == set(range(patches))
    assert len(numbers) - patches < batch * processes  # no more is used twice than fills a batch
    assert all(len(each) == batch * processes for each in together)


def order_at(position, seed):
    """Batches of what is left of an epoch of ten."""
    return list(EpochOrder(20, 2, seed, position=lambda: position))


@given(st.integers(0, 29))
def test_an_order_goes_on_where_it_was_interrupted(done):
    whole = [
        batch
        for epoch in range(3)
        for batch in EpochOrder(20, 2, 0, position=lambda e=epoch: 10 * e)
    ]
    epoch_rest = list(EpochOrder(20, 2, 0, position=lambda: done))
    assert epoch_rest == whole[done : 10 * (done // 10 + 1)]


def test_epochs_and_seeds_shuffle_differently():
    orders = [
        list(EpochOrder(30, 3, seed, position=lambda p=p: p)) for seed in (0, 1) for p in (0, 10)
    ]
    numbers = [[number for batch in order for _, _, number in batch] for order in orders]
    assert len({tuple(each) for each in numbers}) == 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    image, labels = volumes(5)
    noisy = patch_file(folder, "noisy", image, labels, noisy=image * 0 + 0.5 + image / 100)
    return [PatchFile(path) for path in (*patch_files(folder, 1), noisy)]


def same(first, second):
    assert first.names == second.names
    assert first.draws == second.draws
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.distances.keys() == second.distances.keys()
    assert all(torch.equal(first.distances[n], second.distances[n]) for n in first.distances)


@pytest.mark.parametrize("how", ["workers", "cache"])
def test_neither_workers_nor_the_cache_change_a_batch(how, files):
    chosen = [(0, n) for n in range(len(files[0]))]
    plain = PatchDataset(files, chosen, SPATIAL)
    other = PatchDataset(files, chosen, SPATIAL, cache_rate=0.5 if how == "cache" else 0.0)
    loaders = [
        training_loader(dataset, EpochOrder(len(chosen), 3, 0), workers)
        for dataset, workers in ((plain, 0), (other, 2 if how == "workers" else 0))
    ]
    for first, second in zip(*loaders, strict=True):
        same(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_augment_as_the_trainer_does(workers, files):
    chosen = [(0, n) for n in range(len(files[0]))]
    dataset, order = PatchDataset(files, chosen, SPATIAL), EpochOrder(len(chosen), 3, 0)
    augmentation = Augmentation(0.1, 0.9, 3, distances=True)
    loader = training_loader(dataset, order, workers, augmentation=augmentation)
    for found, batch in zip(loader, training_loader(dataset, order, 0), strict=True):
        wanted = augmentation(batch)
        assert found.names == wanted.names
        for part in ("images", "labels", "squares"):
            torch.testing.assert_close(getattr(found, part), getattr(wanted, part))


def test_distances_are_read_only_where_they_are_used(files):
    dataset = PatchDataset(files, [(0, n) for n in range(len(files[0]))], SPATIAL)
    samples = [dataset[0, n, n % len(dataset)] for n in range(50)]
    assert {s.drawn.resampled for s in samples} == {True, False}
    assert all((s.distances is None) == s.drawn.resampled for s in samples)
    batch = collate(samples)
    assert set(batch.distances) == {n for n, s in enumerate(samples) if not s.drawn.resampled}


READER = """
import multiprocessing, os, threading, time
from cryoseg import training_data
def start_thread():  # as libraries do where a process begins
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
os.register_at_fork(after_in_child=start_thread)
training_data.collate = list
batches = iter(training_data._loader(range(8), 1, batch_size=1))
next(batches)
(reader,) = multiprocessing.active_children()
for thread in os.listdir(f"/proc/{reader.pid}/task"):
    status = open(f"/proc/{reader.pid}/task/{thread}/status").read()
    print(status.partition("SigBlk:")[2].split()[0])
"""


def test_no_thread_of_a_reader_is_ended_by_a_signal_that_tells_to_end():
    """The reader would end by it, and so the trainer, before it has saved anything."""
    done = subprocess.run(
        [sys.executable, "-c", READER], stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")},
    )  # fmt: skip
    blocked = [int(each, 16) for each in done.stdout.split()]
    assert len(blocked) > 2
    takes = [each for each in blocked if not all(each & 1 << number - 1 for number in TO_END)]
    assert len(takes) == 1  # which waits for them, and ends the reader if the trainer says so


def test_the_noisy_input_is_that_of_the_file(files):
    dataset = PatchDataset(files, [(1, 0)], Transforms(use_noisy_input=True))
    samples = [dataset[0, n, 0] for n in range(30)]
    for sample in samples:
        wanted = files[1].noisy(0) if sample.drawn.noisy else files[1].image(0)
        assert np.array_equal(sample.image[0], wanted)
    assert {s.drawn.noisy for s in samples} == {True, False}


def test_a_noisy_input_that_is_not_there_is_missed(files):
    from cryoseg.fine_tuning import starting_network

    config = configuration(transforms={"use_noisy_input": True})
    network, _ = starting_network(config)
    with pytest.raises(InputError, match="tomo_0: use_noisy_input is true and its patches have no"):
        check_patches(files, config, network.sizes)


def test_processes_validate_with_every_patch_once(files):
    dataset = PatchDataset(files, [(0, n) for n in range(7)])
    names = [
        name
        for rank in range(3)
        for batch in validation_loader(dataset, 2, 0, rank, 3)
        for name in batch.names
    ]
    assert sorted(names) == sorted(dataset.name(n) for n in range(7))


def test_one_tomogram_is_split_by_region(files):
    train, validation = split_patches(files[:1], configuration())
    corners = files[0].corners
    for _, one in train:
        for _, other in validation:
            assert (abs(corners[one] - corners[other]) >= files[0].patch_size).any()


def test_patches_for_another_number_of_classes_are_refused(files):
    from cryoseg.fine_tuning import starting_network

    network, _ = starting_network(configuration(4))
    with pytest.raises(InputError, match="cut for 3 out_channels, the network has 4"):
        check_patches(files, configuration(4), network.sizes)
