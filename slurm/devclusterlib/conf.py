"""The text of slurm.conf and its companions, as functions of the cluster. Comments say which trap a line avoids."""

from __future__ import annotations

import socket

from .plan import HEAD, Cluster, Node

SCHEDULER = ",".join(
    [
        "bf_interval=1",  # seconds; only backfill starts heterogeneous jobs
        "bf_hetjob_prio=min",
        "bf_hetjob_immediate",  # try a het job as soon as its components could all run
        "sched_interval=2",
        "batch_sched_delay=0",
    ]
)


def slurm_conf(cluster: Cluster) -> str:
    """slurm.conf; `--set` lines replace the ones of the same key."""
    lines = dict(general(cluster))
    lines |= dict(line.split("=", 1) for line in cluster.options.settings)
    text = [f"{key}={value}" for key, value in lines.items()]
    return (
        "\n".join([*text, *map(node_line, [cluster] * cluster.options.nodes, cluster.nodes()), *partitions(cluster)])
        + "\n"
    )


def general(cluster: Cluster) -> list[tuple[str, object]]:
    options, folder = cluster.options, cluster.folder
    return [
        ("ClusterName", "devcluster"),
        ("SlurmctldHost", f"{HEAD}({cluster.head_address})"),
        ("SlurmctldPort", cluster.port),
        ("SlurmUser", "root"),
        ("SlurmdUser", "root"),
        ("AuthType", "auth/munge"),
        # cred_expire is also how long a requeued job waits before it is eligible again (120 s by default).
        ("AuthInfo", f"socket={cluster.munge_socket},cred_expire={options.requeue_delay}"),
        ("StateSaveLocation", folder / "state"),
        ("SlurmdSpoolDir", folder / "spool" / "%n"),
        ("SlurmctldPidFile", folder / "state" / "slurmctld.pid"),
        ("SlurmdPidFile", folder / "spool" / "%n.pid"),
        ("MpiDefault", "none"),
        ("MailProg", "/bin/true"),
        ("SwitchType", "switch/none"),
        # Without cgroups: they are not the same everywhere, and a container has none to give.
        ("ProctrackType", "proctrack/linuxproc"),
        ("TaskPlugin", "task/none"),
        ("JobAcctGatherType", "jobacct_gather/linux"),
        ("JobAcctGatherFrequency", 10),
        ("GresTypes", "gpu"),
        ("SlurmdParameters", "config_overrides"),  # a node may have more CPUs than the machine
        ("SelectType", "select/cons_tres"),
        ("SelectTypeParameters", "CR_Core_Memory"),
        ("DefMemPerCPU", 200),
        ("SchedulerType", "sched/backfill"),
        ("SchedulerParameters", SCHEDULER),
        ("PreemptType", "preempt/partition_prio"),
        ("PreemptMode", "REQUEUE"),
        # Newer versions call it PreemptParameters=send_user_signal too; this name works in all.
        ("SlurmctldParameters", "preempt_send_user_signal"),
        ("JobRequeue", 1),
        ("EnforcePartLimits", "ALL"),
        ("SlurmdTimeout", options.node_timeout),
        ("ReturnToService", 2),  # a node that was down is used again as soon as it answers
        ("KillWait", 5),
        ("MinJobAge", 300),
        ("TreeWidth", 65533),  # messages go straight to each node: a node that is cut off delays no other
        *accounting(cluster),
    ]


def accounting(cluster: Cluster) -> list[tuple[str, object]]:
    if not cluster.options.accounting:
        return [("AccountingStorageType", "accounting_storage/none")]
    return [
        ("AccountingStorageType", "accounting_storage/slurmdbd"),
        ("AccountingStorageHost", cluster.head_address),
        ("AccountingStoragePort", cluster.dbd_port),
        ("AccountingStoragePass", cluster.munge_socket),  # means that: AuthInfo is not looked at for slurmdbd
        ("AccountingStorageTRES", "gres/gpu"),
        ("AccountingStorageEnforce", "associations,qos"),  # so that an unknown account is refused, as on a site
    ]


def node_line(cluster: Cluster, node: Node) -> str:
    kind, options = node.name.rstrip("0123456789"), cluster.options
    gres = f" Gres=gpu:{node.gpus}" if node.gpus else ""
    return (
        f"NodeName={node.name} NodeHostname={node.name} NodeAddr={node.address} Port={node.port} Feature={kind} "
        f"Sockets=1 CoresPerSocket={options.cpus_per_node} ThreadsPerCore=1 RealMemory={options.memory_per_node}{gres}"
    )


def partitions(cluster: Cluster) -> list[str]:
    """`cpu`, `gpu`, `all` (the default) of equal right, and `preempt`, whose jobs give way to theirs."""
    names = [node.name for node in cluster.nodes()]
    nodes = {kind: [name for name in names if name.startswith(kind)] for kind in ("cpu", "gpu")} | {"all": names}
    first = [
        f"PartitionName={name} Nodes={','.join(members)} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE "
        f"DefaultTime=60 Default={'YES' if name == 'all' else 'NO'} State=UP"
        for name, members in nodes.items()
        if members
    ]
    return [
        *first,
        f"PartitionName=preempt Nodes={','.join(names)} PriorityTier=1 PreemptMode=REQUEUE "
        f"GraceTime={cluster.options.grace} MaxTime=INFINITE DefaultTime=60 State=UP",
    ]


def gres_conf(cluster: Cluster) -> str:
    """GPUs that are files: Slurm counts them and sets CUDA_VISIBLE_DEVICES, and no program finds a GPU there."""
    lines = [
        f"NodeName={node.name} Name=gpu File={file}" for node in cluster.nodes() for file in gpu_files(cluster, node)
    ]
    return "\n".join(lines) + "\n"


def gpu_files(cluster: Cluster, node: Node) -> list[str]:
    return [str(cluster.folder / "dev" / f"gpu{i}") for i in range(node.gpus)]


def hosts(cluster: Cluster) -> str:
    """/etc/hosts inside every node: all nodes by name, and the machine itself under its own name."""
    own = [(node.address, node.name) for node in cluster.nodes()]
    lines = [("127.0.0.1", "localhost"), (cluster.head_address, f"{HEAD} {socket.gethostname()}"), *own]
    return "".join(f"{address}\t{names}\n" for address, names in lines)
