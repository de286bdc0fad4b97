"""How long jobs take together that wait for each other and share processors, GPUs and memory."""

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """What matters of a job for when it runs.

    seconds:          from its start to the start of what waits for it
    cores, gpus:      that it takes; where there are fewer, it takes all
    memory_mb:        that it books
    after:            places, in the list of jobs, of those that it waits for
    """

    seconds: float
    cores: int = 1
    gpus: int = 0
    memory_mb: int = 0
    after: tuple[int, ...] = ()


def wall_seconds(jobs, cores, gpus, memory_mb=math.inf):
    """Seconds until all jobs are done, if each starts as soon as there is room for it.

    jobs: list of Job, each after those that it waits for; of those that could start, the first do
    """
    limits = cores, gpus, math.inf if memory_mb == math.inf else max(1, int(memory_mb / 1000))
    free, now = list(limits), 0.0
    needs = [
        tuple(map(min, (job.cores, job.gpus, math.ceil(job.memory_mb / 1000)), limits))
        for job in jobs
    ]
    unmet = [len(job.after) for job in jobs]
    followers = defaultdict(list)
    for place, job in enumerate(jobs):
        for before in job.after:
            followers[before].append(place)
    # Those that could start, by what they need: if the first has no room, none of its kind has.
    ready, running = defaultdict(list), []
    for place, count in enumerate(unmet):
        if not count:
            heapq.heappush(ready[needs[place]], place)
    while True:
        _start(jobs, ready, running, free, now)
        if not running:
            return now
        now, place = heapq.heappop(running)
        for kind, need in enumerate(needs[place]):
            free[kind] += need
        for follower in followers[place]:
            unmet[follower] -= 1
            if not unmet[follower]:
                heapq.heappush(ready[needs[follower]], follower)


def _start(jobs, ready, running, free, now):
    """Move jobs for which there is room from ``ready`` to ``running``, by their end."""
    while True:
        fitting = [
            (waiting[0], need)
            for need, waiting in ready.items()
            if waiting and all(amount <= left for amount, left in zip(need, free, strict=True))
        ]
        if not fitting:
            return
        place, need = min(fitting)
        heapq.heappop(ready[need])
        for kind, amount in enumerate(need):
            free[kind] -= amount
        heapq.heappush(running, (now + jobs[place].seconds, place))
