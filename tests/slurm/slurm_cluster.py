"""A real Slurm cluster on this machine, and a lab that runs its snakemake there."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from conftest import REPOSITORY
from test_workflow import Lab

HERE = Path(__file__).parent
COMMANDS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sacct", "ip", "nsenter")
PACKAGES = "slurm-wlm slurmdbd mariadb-server munge iproute2"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
LINK = Path("/etc/slurm/slurm.conf")
OWNER = "owner"  # file in a cluster's folder: number and start of the process that runs the tests


def reason_against():
    """Why no cluster can be started here, or None."""
    if missing := [name for name in COMMANDS if not shutil.which(name, path=PATH)]:
        return f"no Slurm here ({', '.join(missing)} missing): apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "a Slurm cluster of several nodes on one machine needs root"
    if LINK.exists():
        return (
            f"this machine belongs to a Slurm cluster ({LINK.resolve()}), or other tests run their "
            "own; none is started beside it"
        )
    return None


def left_by_a_killed_run(link):
    """Folder of a test cluster that ``link`` leads into and whose tests are gone, or None."""
    if not link.is_symlink():
        return None
    folder = link.readlink().parents[1]
    try:
        number, started = (folder / OWNER).read_text().split()
    except (FileNotFoundError, ValueError):  # no test cluster
        return None
    try:
        # A clock that is set moves the time that a process is said to have started at.
        lives = abs(psutil.Process(int(number)).create_time() - float(started)) < 60
    except psutil.NoSuchProcess:
        lives = False
    return None if lives else folder


@dataclass(frozen=True)
class SlurmJob:
    """A job by the accounting records; times in seconds since 1970, end None while it runs."""

    number: str
    state: str
    node: str
    partition: str
    gpus: int
    memory: str
    minutes: str
    start: float | None
    end: float | None
    comment: str

    @property
    def rule(self):
        """The rule's name, or its group's name and its own."""
        return self.comment.removeprefix("rule_").partition("_wildcards_")[0]


class SlurmCluster:
    """A cluster of nodes node1, node2 ... with partitions cpu and gpu."""

    def __init__(self, folder, nodes=3, cpus=4, gpus=2):
        self.folder, self.nodes, self.gpus = folder, nodes, gpus
        self.environment = os.environ | {
            "SLURM_TEST_DIR": str(folder),
            "SLURM_TEST_NODES": str(nodes),
            "SLURM_TEST_CPUS": str(cpus),
            "SLURM_TEST_GPUS": str(gpus),
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
            "PATH": PATH,
            "OMP_NUM_THREADS": "1",
        }

    def start(self):
        started = psutil.Process().create_time()
        (self.folder / OWNER).write_text(f"{os.getpid()} {started!r}")
        # Polite to what else runs on this machine; jobs inherit it.
        done = self.call("nice", "-n", "19", HERE / "start-cluster.sh", check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self):
        self.call(HERE / "stop-cluster.sh", check=False)

    def call(self, *command, check=True):
        return subprocess.run(
            list(map(str, command)),
            check=check,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def jobs(self, since=0.0):
        """All jobs submitted since a time, in the order of their numbers."""
        names = "JobIDRaw,State,NodeList,Partition,AllocTRES,ReqMem,Timelimit,Start,End,Comment"
        day = datetime.fromtimestamp(int(since)).isoformat()
        said = self.call("sacct", "-X", "-n", "-P", "-a", "-S", day, "-o", names).stdout
        found = []
        for line in said.splitlines():
            number, state, node, partition, given, memory, limit, start, end, *comment = line.split(
                "|"
            )
            gpus = sum(int(each[9:]) for each in given.split(",") if each.startswith("gres/gpu="))
            found.append(
                SlurmJob(
                    *(number, state.partition(" ")[0], node, partition, gpus, memory, limit),
                    *(seconds(start), seconds(end), "|".join(comment)),
                )
            )
        # `sacct -S` shows what ran at that time or later; jobs that ended before are not of it.
        return [job for job in found if job.start is None or job.start >= int(since)]

    def running(self):
        """Numbers of the jobs that wait or run."""
        return self.call("squeue", "-h", "-o", "%A").stdout.split()

    def wait_for_job(self, part, state="RUNNING", seconds=90):
        """(number, node) of the first job in a state whose comment holds ``part``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said = self.call("squeue", "-h", "-t", state, "-o", "%A %N %k").stdout
            for line in said.splitlines():
                number, node, comment = line.split(" ", 2)
                if part in comment:
                    return number, node
            time.sleep(0.5)
        raise AssertionError(f"no job {part} was {state} within {seconds} s")

    def processes(self, node):
        """All processes in the network of a node: slurmd, and its jobs with all they started."""
        said = self.call("ip", "netns", "pids", f"cryoseg-{node}").stdout
        return [int(number) for number in said.split()]

    def kill_node(self, node):
        """What a power cut does."""
        for number in self.processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def kill_daemon(self, node):
        """Kill slurmd alone; what it had started runs on."""
        number = int((self.folder / "pid" / f"slurmd-{node}.pid").read_text())
        os.kill(number, signal.SIGKILL)

    def restart_node(self, node):
        """Start a dead node again and wait until it takes jobs."""
        self.kill_node(node)
        self.call("nice", "-n", "19", HERE / "start-node.sh", node.removeprefix("node"))
        deadline = time.monotonic() + 60
        while self.call("sinfo", "-h", "-n", node, "-t", "idle,mix", "-o", "%N").stdout == "":
            assert time.monotonic() < deadline, self.call("sinfo", "-N", "-l").stdout
            self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            time.sleep(1)


def seconds(text):
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def most_gpus_at_once(jobs):
    """The largest number of GPUs that were given out at any time."""
    with_gpu = [job for job in jobs if job.gpus and job.start]
    # Slurm notes whole seconds: a job that ended in the second another began made way for it.
    return max(
        sum(other.gpus for other in with_gpu if other.start <= job.start < (other.end or 2**40))
        for job in with_gpu
    )


class ClusterLab(Lab):
    """A lab whose snakemake runs its jobs on the cluster."""

    # Two tomograms to a job, so that few make several; a look at the jobs every few seconds.
    SETTINGS = (
        *("--group-components", "cpu=2", "gpu=2"),
        *("--slurm-init-seconds-before-status-checks", "3"),
        *("--seconds-between-status-checks", "3"),
        *("--max-threads", "1"),
    )

    def __init__(self, folder, cluster):
        super().__init__(folder)
        self.cluster = cluster

    def command(self, *arguments):
        options = [] if "--group-components" in arguments else [*self.SETTINGS[:3]]
        return [
            *(sys.executable, "-m", "snakemake"),
            *("--profile", str(REPOSITORY / "profiles/slurm")),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)),
            *(*options, *self.SETTINGS[3:], *arguments),
        ]

    def plan(self, *arguments):
        return Lab(self.folder).plan(*arguments)

    def start(self, *arguments):
        """Start snakemake; returns its process, whose output goes into self.printed."""
        self.printed = self.folder / "printed.txt"
        with open(self.printed, "w") as file:
            return subprocess.Popen(
                self.command(*arguments),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.cluster.environment,
                cwd=self.folder,
                # Signals to it are the test's own.
                start_new_session=True,
            )

    def run(self, *arguments, fails=False):
        process = self.start(*arguments)
        try:
            returned = process.wait(timeout=900)
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
        shown = self.printed.read_text()
        assert (returned != 0) == fails, shown
        return shown
