#!/bin/bash
# Stops the test cluster, by the process numbers that it wrote down, and removes its folder.
set -u
LAB=${SLURM_TEST_DIR:?names the folder that the cluster lives in}
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$LAB/etc/slurm.conf

stop() { # name of the file with the number, what the process is
    local number
    number=$(cat "$LAB/pid/$1.pid" 2>/dev/null) || return 0
    grep -qa "$2" "/proc/$number/cmdline" 2>/dev/null || return 0
    kill "$number"
    for ((k = 0; k < 100; k++)); do
        kill -0 "$number" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$number"
}

if timeout 5 scontrol ping >/dev/null 2>&1; then
    timeout 10 squeue -h -o %A | sort -u | xargs -r timeout 10 scancel
    for ((k = 0; k < 60; k++)); do
        [ -z "$(timeout 5 squeue -h)" ] && break
        sleep 0.25
    done
fi
for file in "$LAB"/pid/slurmd-*.pid; do
    if [ -e "$file" ]; then stop "$(basename "$file" .pid)" slurmd; fi
done
for daemon in slurmctld slurmdbd mariadbd munged; do stop $daemon $daemon; done
# What still runs in the nodes' networks are jobs that outlived their node.
for name in $(ip netns list 2>/dev/null | awk '/^cryoseg-node/{print $1}'); do
    for number in $(ip netns pids "$name"); do kill -9 "$number" 2>/dev/null; done
    ip link del "cryoseg${name#cryoseg-node}" 2>/dev/null
    ip netns del "$name"
done
if [ -s "$LAB/pid/ip_forward" ]; then
    sysctl -qw net.ipv4.ip_forward="$(cat "$LAB/pid/ip_forward")"
fi
for file in slurm.conf gres.conf; do
    if [ "$(readlink /etc/slurm/$file)" = "$LAB/etc/$file" ]; then rm -f /etc/slurm/$file; fi
done
rm -rf "$LAB"
