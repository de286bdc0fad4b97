"""Training on several GPUs or nodes: how many processes there are, and how they are started."""

import os
import socket
import subprocess
import sys
import time

import torch

from cryoseg.errors import InputError
from cryoseg.joblog import logger, not_to_outlive_this

# Seconds between two looks at the processes.
PATIENCE = 0.2


def devices_of(gpu_devices):
    """Turn a number of GPUs, a list of them, or the text of either ("2", "0,2", "2,") into one.

    Returns a number, or a list of GPU indices.
    """
    if isinstance(gpu_devices, str):
        parts = [part for part in gpu_devices.strip("[] ").split(",") if part.strip()]
        listed = "," in gpu_devices or "[" in gpu_devices
        return [int(part) for part in parts] if listed else int(parts[0])
    return gpu_devices


def check_devices(wanted, device, gpu_devices, nodes):
    """Decide which processors a training uses: (devices on each node, number of processes).

    wanted:      auto, cpu or cuda, as the training's file has it
    device:      torch.device, what that led to
    gpu_devices: as devices_of takes it. Where a CPU is asked for, as many processes train as GPUs
                 would, so that the batch is the same; where there merely is no GPU, one.
    Raises InputError where a node has fewer GPUs.
    """
    devices = devices_of(gpu_devices)
    if device.type != "cuda":
        count = len(devices) if isinstance(devices, list) else devices
        if wanted != "cpu" and count * int(nodes) > 1:
            logger.warning(
                "there is no GPU here, so one process trains on each node, and not %d; the batch "
                "of all together is smaller", count,
            )  # fmt: skip
        each = count if wanted == "cpu" else 1
        return each, each * int(nodes)
    here = torch.cuda.device_count()
    wanted = devices if isinstance(devices, list) else list(range(devices))
    missing = [index for index in wanted if index >= here]
    if missing or not wanted:
        raise InputError(
            f"parameters.gpu_devices is {gpu_devices}, and this machine offers {here} GPU(s); "
            "ask for fewer, or send the job where more are"
        )
    return devices, len(wanted) * int(nodes)


def start_processes(command, per_node, nodes, threads=None, with_gpu=False):
    """Run a command once per training process, and wait until all are done.

    command:  list of text
    per_node: processes on each node; nodes: how many; more than one needs Slurm, whose srun
              starts them
    threads, with_gpu: processors of each process, and whether each has a GPU; srun must be told
    Raises RuntimeError where one fails; the others are then ended too.
    """
    if nodes > 1:
        if "SLURM_JOB_ID" not in os.environ:
            raise InputError(
                f"parameters.nodes is {nodes}, and this is no job of Slurm; set it to 1, or use "
                "profiles/slurm"
            )
        tasks = [f"--nodes={nodes}", f"--ntasks={per_node * nodes}",
                 f"--ntasks-per-node={per_node}", f"--cpus-per-task={threads or 1}",
                 "--cpu-bind=none", "--kill-on-bad-exit=1"]  # fmt: skip
        tasks += [f"--gres=gpu:{per_node}"] if with_gpu else []
        _wait([subprocess.Popen(["srun", *tasks, *command])])
        return
    port = _free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0",
              "WORLD_SIZE": str(per_node)}  # fmt: skip
    # Without Slurm's variables, or Lightning would look for tasks of srun.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    inherited |= not_to_outlive_this()
    _wait(
        [
            subprocess.Popen(command, env=inherited | shared | {"LOCAL_RANK": str(rank)})
            for rank in range(per_node)
        ]
    )


def _wait(running):
    """Wait for all; end the others where one fails, and all where this process is ended."""
    try:
        while True:
            codes = [process.poll() for process in running]
            if any(codes):
                failed = next(code for code in codes if code)
                raise RuntimeError(f"a training process ended with status {failed}")
            if all(code == 0 for code in codes):
                return
            time.sleep(PATIENCE)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            process.wait()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_command(script, arguments):
    """Command that runs a script of ours in a process of its own."""
    logger.info("starting training processes with %s", arguments)
    return [sys.executable, str(script), str(arguments)]
