"""With --netns: a bridge on this machine, and a cable from it to every node, which can be pulled."""

from __future__ import annotations

import json
from pathlib import Path

from .namespaces import NET, held_by, run
from .plan import Cluster, Node, folder_hash


def build(cluster: Cluster) -> None:
    ip("link", "add", cluster.bridge, "type", "bridge")
    ip("addr", "add", f"{cluster.head_address}/24", "dev", cluster.bridge)
    ip("link", "set", cluster.bridge, "up")


def connect(cluster: Cluster, node: Node, holder: Path) -> None:
    namespace = held_by(holder, NET)
    ip("link", "add", cable(cluster, node), "type", "veth", "peer", "name", "eth0", "netns", str(namespace))
    ip("link", "set", cable(cluster, node), "master", cluster.bridge, "up")
    for words in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{node.address}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
    ):
        run("nsenter", f"--net={namespace}", "ip", *words)


def switch(cluster: Cluster, node: Node, up: bool) -> None:
    """Pulls the node's cable, or puts it back."""
    ip("link", "set", cable(cluster, node), "up" if up else "down")


def demolish(cluster: Cluster) -> None:
    """Removes the bridge and its cables; a network that is gone is fine."""
    links = [link["ifname"] for link in json.loads(ip("-json", "link", "show")) if mine(cluster, link)]
    for name in links:
        ip("link", "del", name)


def mine(cluster: Cluster, link: dict[str, str]) -> bool:
    return link["ifname"] == cluster.bridge or link.get("master") == cluster.bridge


def cable(cluster: Cluster, node: Node) -> str:
    return f"dc{folder_hash(cluster.folder)}{node.name}"[:15]


def ip(*words: str) -> str:
    return run("ip", *words)
