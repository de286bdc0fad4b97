#!/bin/bash
# Starts node NUMBER of the test cluster: start-node.sh NUMBER
set -euo pipefail
LAB=${SLURM_TEST_DIR:?names the folder that the cluster lives in}
PATH=$PATH:/usr/sbin:/sbin
name=node$1
mkdir -p "$LAB/spool/$name"
# nsenter, not `ip netns exec`: that one mounts /sys anew, and slurmd then misses the control groups.
nsenter --net=/run/netns/cryoseg-$name unshare --uts --mount sh -c "
    hostname $name
    mount --bind '$LAB/etc/hosts' /etc/hosts
    exec slurmd -N $name -f '$LAB/etc/slurm.conf'"
