"""What a run on a cluster costs beside its work: jobs, seconds for each tomogram, the scheduler.

python tests/benchmarks/cluster.py [tomograms] [--group-components cpu=8 gpu=4] starts a real Slurm
of three nodes on this machine (as root), sends that many tiny tomograms (60) through scaling and
both stages with profiles/slurm as it is, and prints: jobs, how fast they were submitted, and what
they took of snakemake's and the controller's processors; for each step, what a tomogram costs in
its job beside the step itself, that is the start of the job, of two snakemakes and what is between
two steps; and how long the step's own interpreter takes to start and to import what it needs.
Tiny tomograms are scored in a second or two, so nearly all seconds here are costs.
"""

import csv
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "slurm"), str(TESTS.parent / "scripts")]

from slurm_cluster import ClusterLab, SlurmCluster, reason_against  # noqa: E402
from test_cluster import prepare  # noqa: E402

ONE_MINUTE = 60.0


def measure(cluster, folder, number, options):
    """Run the workflow and print what it cost."""
    lab = prepare(ClusterLab(folder, cluster), [f"TS_{n:03}" for n in range(number)])
    lab.SETTINGS = ("--group-components", "cpu=8", "gpu=4", "--max-threads", "1")
    controller = psutil.Process(int((cluster.folder / "pid" / "slurmctld.pid").read_text()))
    busy, asked = cpu_seconds(controller), remote_calls(cluster)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    lab.run(*options)
    wall = time.time() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    jobs = cluster.jobs(started)
    submitted = submission_times(cluster, started)
    print(f"{number} tomograms: {len(jobs)} jobs, {wall:.0f} s")
    span = submitted[-1] - submitted[0]
    print(f"  submitted over {span:.0f} s, {len(submitted) / max(span, 1):.2f} jobs a second, "
          f"at most {most_in(submitted, 10)} within 10 s")  # fmt: skip
    print(f"  snakemake and its commands on the login node: {own:.0f} s of a processor")
    print(f"  slurmctld: {cpu_seconds(controller) - busy:.1f} s of a processor, "
          f"{remote_calls(cluster) - asked} remote calls")  # fmt: skip
    report_steps(lab.folder, jobs)


def report_steps(folder, jobs):
    """Print, for each step, what a tomogram costs beside the step."""
    within = seconds_of_steps(folder)
    of_jobs, members = defaultdict(float), defaultdict(int)
    for job in jobs:
        step = next((name for name in within if job.rule.endswith(name)), None)
        if step:
            of_jobs[step] += (job.end or job.start) - job.start
            members[step] += 1
    total = 0.0
    for step, seconds in within.items():
        beside = (of_jobs[step] - sum(seconds)) / len(seconds)
        total += beside
        starts = start_seconds(re.sub(r"^(raw|scaled|lamella|semantic)_", "", step))
        print(f"  {step}: {len(seconds)} in {members[step]} jobs, each {beside:.2f} s beside the "
              f"step, {100 * beside / (beside + ONE_MINUTE):.1f} % where the step takes a minute; "
              f"start and imports of the step {starts:.2f} s")  # fmt: skip
    print(f"  a tomogram: {total:.1f} s of jobs beside its {len(within)} steps")


def seconds_of_steps(folder):
    """{step: seconds of each tomogram} by Snakemake's benchmarks."""
    found = {}
    for path in sorted((folder / "benchmarks").glob("*/*")):
        if path.is_dir():
            seconds = []
            for table in path.glob("*.tsv"):
                with open(table, newline="") as file:
                    seconds += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            found[f"{path.parent.name}_{path.name}"] = seconds
    return found


def start_seconds(step, repeats=3):
    """Seconds until a step's script has imported all it needs, least of a few."""
    name = "admit_tomogram" if step.startswith("admit") else step
    script = TESTS.parent / "scripts" / f"{name}.py"
    code = f"import sys, runpy; sys.path.append({str(script.parent)!r}); "
    code += f"runpy.run_path({str(script)!r}, run_name='imported')"
    taken = []
    for _ in range(repeats):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        taken.append(time.monotonic() - started)
    return min(taken)


def submission_times(cluster, since):
    day = datetime.fromtimestamp(int(since)).isoformat()
    said = cluster.call("sacct", "-X", "-n", "-P", "-a", "-S", day, "-o", "Submit").stdout
    return sorted(datetime.fromisoformat(line).timestamp() for line in said.split())


def most_in(times, seconds):
    """The largest number of times within so many seconds."""
    return max(sum(first <= other < first + seconds for other in times) for first in times)


def cpu_seconds(process):
    used = process.cpu_times()
    return used.user + used.system


def remote_calls(cluster):
    """Remote calls that the controller has answered, of all kinds."""
    said = cluster.call("sdiag").stdout
    return sum(map(int, re.findall(r"^\s+REQUEST_\w+\s+\(.*?\)\s+count:(\d+)", said, re.MULTILINE)))


if __name__ == "__main__":
    if reason := reason_against():
        sys.exit(reason)
    given = sys.argv[1:]
    tomograms = int(given.pop(0)) if given and given[0].isdigit() else 60
    # Not in a folder that nobody else may enter: munge and the database would not.
    slurm = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        slurm.start()
        with tempfile.TemporaryDirectory() as temporary:
            measure(slurm, Path(temporary), tomograms, given)
    finally:
        slurm.stop()
