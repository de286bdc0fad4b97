"""Patches on their way to the network: which ones, in which order, read by worker processes."""

import os
import signal
import threading
from dataclasses import dataclass, field
from multiprocessing.context import ForkContext, ForkProcess

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from cryoseg.augmentation import Draw, augment, draw
from cryoseg.joblog import TO_END

# Words that keep the random numbers of one purpose apart from those of another.
ORDER, AUGMENTATION = 1, 2


@dataclass
class Sample:
    """One patch as it was read, and what is to happen to it."""

    name: str  # tomogram and corner, for messages
    image: torch.Tensor  # (1, Z, Y, X) float32, as in the tomogram
    labels: torch.Tensor  # (Z, Y, X) uint8
    distances: torch.Tensor | None  # (C, Z, Y, X) int8, where they will be used
    drawn: Draw


@dataclass
class Batch:
    """Samples side by side; ``distances`` holds those of some, by their place in the batch."""

    names: list[str]
    images: torch.Tensor
    labels: torch.Tensor
    draws: list[Draw]
    distances: dict[int, torch.Tensor] = field(default_factory=dict)

    def __len__(self):
        return len(self.names)

    def _each(self, change):
        distances = {n: change(tensor) for n, tensor in self.distances.items()}
        return Batch(self.names, change(self.images), change(self.labels), self.draws, distances)

    def to(self, device, **kwargs):
        """Copy to a device; Lightning calls this."""
        return self._each(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self):
        """Copy to pinned memory; the data loader calls this."""
        return self._each(lambda tensor: tensor.pin_memory())


def collate(samples):
    """Put samples into a Batch."""
    return Batch(
        [s.name for s in samples],
        torch.stack([s.image for s in samples]),
        torch.stack([s.labels for s in samples]),
        [s.drawn for s in samples],
        {n: s.distances for n, s in enumerate(samples) if s.distances is not None},
    )


@dataclass
class Augmented:
    """A batch with what was drawn done to it; see augmentation.augment."""

    names: list[str]
    images: torch.Tensor  # (N, 1, Z, Y, X) float32
    labels: torch.Tensor  # (N, Z, Y, X) uint8
    squares: torch.Tensor | None  # (N, C, Z, Y, X) int8, signed squared distances

    def __len__(self):
        return len(self.names)


@dataclass(frozen=True)
class Augmentation:
    """Makes an Augmented of a Batch, wherever that lies.

    low, high: intensities of the tomogram that become 0 and 1; what is beyond is cut off
    channels:  of the network; distances: whether it learns them
    """

    low: float
    high: float
    channels: int
    distances: bool

    def __call__(self, batch):
        images = ((batch.images.float() - self.low) / (self.high - self.low)).clamp(0, 1)
        stored = batch.distances if self.distances else None
        return Augmented(
            batch.names, *augment(images, batch.labels, stored, batch.draws, self.channels)
        )


@dataclass(frozen=True)
class AugmentedCollate:
    """Puts samples into an Augmented, one after another: a processor's cache holds one."""

    augmentation: Augmentation

    def __call__(self, samples):
        each = [self.augmentation(collate([sample])) for sample in samples]

        def together(part):
            tensors = [getattr(one, part) for one in each]
            # PyTorch's own puts them side by side in memory that is shared with the trainer.
            return None if tensors[0] is None else default_collate([t[0] for t in tensors])

        return Augmented(
            [name for one in each for name in one.names],
            *(together(part) for part in ("images", "labels", "squares")),
        )


class PatchDataset(Dataset):
    """Patches of several patch files.

    files:      PatchFile objects
    chosen:     (N, 2) whole numbers: file and patch of each sample
    transforms: what may happen to a sample; None for nothing, as in validation
    seed:       of what happens
    distances:  whether the network learns distances
    cache_rate: share of the patches, 0 to 1, that is read once and kept in memory

    An item is asked for by its number, or by (epoch, place in the epoch, number): what is drawn
    for it depends on these, and not on who reads it.
    """

    def __init__(self, files, chosen, transforms=None, seed=0, distances=True, cache_rate=0.0):
        self.files, self.chosen = files, np.asarray(chosen).reshape(-1, 2)
        self.transforms, self.seed, self.distances = transforms, seed, distances
        self._kept = {}
        for number in range(round(cache_rate * len(self.chosen))):
            for kind in self._always_read():
                self._kept[kind, number] = self._read(kind, number)

    def __len__(self):
        return len(self.chosen)

    def name(self, number):
        """Where a sample comes from, for messages."""
        file, patch = self.chosen[number]
        corner = " ".join(f"{a}{int(c)}" for a, c in zip("zyx", self.files[file].corners[patch],
                                                         strict=True))  # fmt: skip
        return f"{self.files[file].name} at {corner}"

    def __getitem__(self, request):
        epoch, place, number = request if isinstance(request, tuple) else (0, 0, request)
        drawn = Draw()
        if self.transforms is not None:
            rng = np.random.default_rng((self.seed, AUGMENTATION, epoch, place))
            drawn = draw(self.transforms, rng)
        # Resampled samples get theirs from their labels: most of the bytes are never read.
        wanted = self.distances and not drawn.resampled
        return Sample(
            self.name(number),
            self._get("noisy" if drawn.noisy else "image", number)[None],
            self._get("labels", number),
            self._get("distances", number) if wanted else None,
            drawn,
        )

    def _always_read(self):
        t = self.transforms
        kinds = ["image", "labels"]
        if t is not None and t.use_noisy_input:
            kinds.append("noisy")
        if self.distances and not (t is not None and (t.zoom or t.rotate or t.elastic)):
            kinds.append("distances")
        return kinds

    def _get(self, kind, number):
        kept = self._kept.get((kind, number))
        return self._read(kind, number) if kept is None else kept

    def _read(self, kind, number):
        file, patch = self.chosen[number]
        return torch.from_numpy(getattr(self.files[file], kind)(int(patch)))


class EpochOrder(Sampler):
    """Batches of one process, in an order that is shuffled anew for each epoch.

    Each epoch is cut into batches of all processes together, of which every process takes its
    part. Where the number of patches is no multiple of that, the order begins again, so that
    every patch is used and every batch is full.

    patches:    how many there are
    batch_size: patches per batch of one process
    rank, processes: which of how many processes this is
    position:   function that returns how many batches have been trained with, over all epochs; a
                training that was interrupted goes on from there
    """

    def __init__(self, patches, batch_size, seed, rank=0, processes=1, position=lambda: 0):
        self.patches, self.batch_size, self.seed = patches, batch_size, seed
        self.rank, self.processes, self.position = rank, processes, position

    def __len__(self):
        return -(-self.patches // (self.batch_size * self.processes))

    def __iter__(self):
        epoch, first = divmod(self.position(), len(self))
        together = self.batch_size * self.processes
        shuffled = np.random.default_rng((self.seed, ORDER, epoch)).permutation(self.patches)
        for batch in range(first, len(self)):
            start = batch * together + self.rank * self.batch_size
            yield [
                (epoch, place, int(shuffled[place % self.patches]))
                for place in range(start, start + self.batch_size)
            ]


def training_loader(dataset, order, workers, **options):
    """Loader of training batches; order: EpochOrder, options: as for _loader."""
    return _loader(dataset, workers, batch_sampler=order, **options)


def validation_loader(dataset, batch_size, workers, rank=0, processes=1, **options):
    """Loader of this process's share of the validation patches, each of them once."""
    share = range(rank, len(dataset), processes)
    return _loader(dataset, workers, batch_size=batch_size, sampler=share, **options)


def _loader(dataset, workers, pin=False, augmentation=None, **which):
    """Loader of Batch objects, to pinned memory if asked for; with an Augmentation, of Augmented.

    Where a processor trains, its readers augment as well, each with one thread.
    """
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=AugmentedCollate(augmentation) if augmentation else collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers > 0 else None,
        worker_init_fn=_obey_the_trainer_alone,
        # So that the trainer is the parent of each, as _end_when_the_trainer_says takes it to be.
        multiprocessing_context=_Deaf() if workers > 0 else None,
        **which,
    )


class _DeafProcess(ForkProcess):
    """A process no thread of which takes the signals that tell to end.

    They are held back before there is one: libraries start threads as a process begins, which any
    signal that they take would end.
    """

    def start(self):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deaf(ForkContext):
    """How PyTorch's loader begins its readers: each a _DeafProcess."""

    Process = _DeafProcess


def _obey_the_trainer_alone(worker):
    """Let a reading process go on where all processes of a job are told to end, by Slurm say.

    The trainer needs it to come to the end of a step, and saves what was trained then. PyTorch's
    own answer to SIGTERM ends a reader at once, and with it the trainer, by a RuntimeError.
    """
    threading.Thread(target=_end_when_the_trainer_says, daemon=True).start()


def _end_when_the_trainer_says():
    while signal.sigwaitinfo(TO_END).si_pid != os.getppid():
        pass
    os._exit(0)
