#!/bin/bash
# Starts a real Slurm cluster on this machine alone, for tests: each node has a network, an address
# and a hostname of its own (network and UTS namespaces), two pretended GPUs, and accounting.
#
# Needs root and: slurm-wlm slurmdbd mariadb-server munge (Debian's names), iproute2, util-linux.
# Everything lies in SLURM_TEST_DIR, except two links in /etc/slurm, which the second script removes
# again: Snakemake's job step drops SLURM_CONF from the environment of the step that it starts.
set -euo pipefail
LAB=${SLURM_TEST_DIR:?names the folder that the cluster lives in}
NODES=${SLURM_TEST_NODES:-3}
CPUS=${SLURM_TEST_CPUS:-4}             # pretended, per node
MEMORY=${SLURM_TEST_MEMORY:-8000}      # pretended, MB per node
GPUS=${SLURM_TEST_GPUS:-2}             # pretended, per node
NODE_TIMEOUT=${SLURM_TEST_NODE_TIMEOUT:-15} # seconds until a silent node counts as lost
NET=10.78                              # node i has $NET.i.2, the controller $NET.1.1
DATABASE_PORT=33316 CONTROLLER_PORT=16827 ACCOUNTING_PORT=16829 NODE_PORT=17010
PATH=$PATH:/usr/sbin:/sbin
HOST=$(hostname -s)

die() { echo "start-cluster: $*" >&2; exit 1; }
wait_for() { # seconds, what, command...
    local seconds=$1 what=$2 end; shift 2; end=$((SECONDS + seconds))
    while [ $SECONDS -lt $end ]; do
        if timeout 10 "$@" </dev/null >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    die "$what did not come up in $seconds s; see $LAB/log"
}

mkdir -p "$LAB"/{etc,munge,log,pid,spool,state,gpu,db}
chmod 755 "$LAB" "$LAB"/*
chmod 700 "$LAB/state"
export SLURM_CONF=$LAB/etc/slurm.conf

# ---- configuration
{
    cat <<C
ClusterName=test
SlurmctldHost=$HOST($NET.1.1)
SlurmctldPort=$CONTROLLER_PORT
SlurmUser=root
AuthType=auth/munge
# A job that is sent again waits cred_expire; Slurm's own default is 120.
AuthInfo=socket=$LAB/munge/munge.socket,cred_expire=30
CredType=cred/munge
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/pid/slurmctld.pid
SlurmdPidFile=$LAB/pid/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without it, a job takes all of a node's memory.
DefMemPerCPU=500
# CPUs and memory are those of this file, not of the machine.
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
ReturnToService=2
SlurmdTimeout=$NODE_TIMEOUT
SlurmctldTimeout=30
KillWait=5
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=5
PriorityType=priority/basic
# Jobs that take more memory than they asked for are killed, as control groups would do it.
JobAcctGatherType=jobacct_gather/linux
# Every second: a group of two quick jobs takes three.
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
MailProg=/bin/true
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$ACCOUNTING_PORT
AccountingStoragePass=$LAB/munge/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
C
    for ((i = 1; i <= NODES; i++)); do
        echo "NodeName=node$i NodeHostname=node$i NodeAddr=$NET.$i.2 Port=$NODE_PORT Sockets=1" \
            "CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEMORY Gres=gpu:pretended:$GPUS"
    done
    echo "PartitionName=cpu Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=60 State=UP"
    echo "PartitionName=gpu Nodes=ALL MaxTime=1-00:00:00 DefaultTime=60 State=UP"
} >"$SLURM_CONF"
# A second /dev/null: with a file that is no device, Slurm would not set CUDA_VISIBLE_DEVICES.
for ((g = 0; g < GPUS; g++)); do
    [ -c "$LAB/gpu/gpu$g" ] || mknod -m 666 "$LAB/gpu/gpu$g" c 1 3
done
echo "NodeName=node[1-$NODES] Name=gpu Type=pretended File=$LAB/gpu/gpu[0-$((GPUS - 1))]" \
    >"$LAB/etc/gres.conf"
cat >"$LAB/etc/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$ACCOUNTING_PORT
SlurmUser=root
PidFile=$LAB/pid/slurmdbd.pid
LogFile=$LAB/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DATABASE_PORT
StorageLoc=slurm_acct_db
StorageUser=slurm
StoragePass=test
C
chmod 600 "$LAB/etc/slurmdbd.conf"
mkdir -p /etc/slurm
for file in slurm.conf gres.conf; do
    [ ! -e /etc/slurm/$file ] || die "/etc/slurm/$file is somebody's; this machine has a Slurm"
    ln -sfn "$LAB/etc/$file" /etc/slurm/$file
done

# ---- munge, with a key and a socket of its own
dd if=/dev/urandom of="$LAB/munge/munge.key" bs=1 count=1024 status=none
chmod 400 "$LAB/munge/munge.key"
munged --key-file="$LAB/munge/munge.key" --socket="$LAB/munge/munge.socket" \
    --pid-file="$LAB/pid/munged.pid" --log-file="$LAB/log/munged.log" \
    --seed-file="$LAB/munge/munged.seed"
wait_for 20 munged test -S "$LAB/munge/munge.socket"

# ---- accounting
chown mysql:mysql "$LAB/db"
mariadb-install-db --no-defaults --datadir="$LAB/db" --user=mysql --skip-test-db \
    --auth-root-authentication-method=normal >"$LAB/log/mariadb-install.log" 2>&1
setsid mariadbd --no-defaults --datadir="$LAB/db" --user=mysql --socket="$LAB/db/mysql.sock" \
    --bind-address=127.0.0.1 --port=$DATABASE_PORT --innodb-buffer-pool-size=64M \
    --innodb-lock-wait-timeout=900 >"$LAB/log/mariadbd.log" 2>&1 </dev/null &
echo $! >"$LAB/pid/mariadbd.pid"
sql() { mariadb --no-defaults --socket="$LAB/db/mysql.sock" -uroot -e "$1"; }
wait_for 90 mariadbd mariadb --no-defaults --socket="$LAB/db/mysql.sock" -uroot -e "select 1"
sql "create database slurm_acct_db"
for host in 127.0.0.1 localhost; do
    sql "create user slurm@$host identified by 'test'; grant all on slurm_acct_db.* to slurm@$host"
done
(cd "$LAB/etc" && slurmdbd)
wait_for 90 slurmdbd sacctmgr -n show cluster
sacctmgr -i add cluster test >/dev/null
sacctmgr -i add account lab Cluster=test Description=lab Organization=lab >/dev/null
sacctmgr -i add user root Account=lab DefaultAccount=lab >/dev/null

# ---- networks, before the controller, whose address is on one of them
sysctl -n net.ipv4.ip_forward >"$LAB/pid/ip_forward" # the other script puts it back
sysctl -qw net.ipv4.ip_forward=1
for ((i = 1; i <= NODES; i++)); do
    name=cryoseg-node$i
    ip netns add $name
    ip link add cryoseg$i type veth peer name eth0 netns $name
    ip addr add $NET.$i.1/24 dev cryoseg$i
    ip link set cryoseg$i up
    ip -n $name link set lo up
    ip -n $name addr add $NET.$i.2/24 dev eth0
    ip -n $name link set eth0 up
    ip -n $name route add default via $NET.$i.1
done
slurmctld -f "$SLURM_CONF"
wait_for 60 slurmctld scontrol ping

# ---- nodes
{
    cat /etc/hosts
    echo "$NET.1.1 $HOST"
    for ((i = 1; i <= NODES; i++)); do echo "$NET.$i.2 node$i"; done
} >"$LAB/etc/hosts"
for ((i = 1; i <= NODES; i++)); do "$(dirname "$0")/start-node.sh" "$i"; done
up() { [ "$(sinfo -h -N -p cpu -t idle -o %N | wc -l)" -eq "$NODES" ]; }
for ((k = 0; k < 300; k++)); do
    if up; then exit 0; fi
    sleep 0.2
done
sinfo -N -l
die "not all nodes are up; see $LAB/log"
