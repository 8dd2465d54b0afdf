"""The processes of a cluster: their addresses, which one this is, and which servers answer."""

import collections
import contextlib
import re
import socket
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional

from absl import logging

from mnist.config import InputError

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
POLL_SECS, SILENCE_SECS, _CONNECT_SECS = 0.5, 20, 5
_PATIENCE = 6  # polls, for a server that is being started
# What a client of HTTP/2, such as gRPC, begins with, and the type of frame that a server answers.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\4"
_LOST = "%s: the parameter server at %s does not answer; start it again, or end this with Ctrl-C"


class Cluster(NamedTuple):
    """The processes that train one model together, and this process among them."""

    ps_hosts: List[str]  # host:port of each parameter server, by its task index
    worker_hosts: List[str]  # host:port of each worker; the first is the chief
    job_name: str  # ps or worker
    task_index: int

    def __str__(self) -> str:
        return f"{self.job_name} {self.task_index}"

    def is_complete(self) -> bool:
        """Whether this is no cluster, or one that this process has an address of its own in."""
        if not self.job_name:
            return not any(self)
        own = self.ps_hosts if self.job_name == "ps" else self.worker_hosts
        every = self.ps_hosts + self.worker_hosts
        is_apart = len(set(every)) == len(every)
        return bool(self.ps_hosts and self.worker_hosts) and is_apart and self.task_index < len(own)


def are_addresses(texts: List[str]) -> bool:
    """Whether all texts are host:port."""
    matches = [_ADDRESS.fullmatch(text) for text in texts]
    return all(match and 0 < int(match.group(1)) < 65536 for match in matches)


def watch_servers(cluster: Cluster, is_over: threading.Event, then: Callable[[], None]) -> None:
    """Says when a parameter server stops answering, since TensorFlow may wait for it silently."""
    misses: Dict[str, int] = collections.Counter()  # in a row
    while not is_over.wait(POLL_SECS):
        for address in cluster.ps_hosts:
            misses[address] = 0 if is_server(address) else misses[address] + 1
            if misses[address] == _PATIENCE:
                logging.warning(_LOST, cluster, address)
                then()


def wait_for_servers(cluster: Cluster) -> None:
    """Waits until all parameter servers answer.

    Raises `InputError` if something else answers, or listens silently.
    """
    flag = f"flag --ps_hosts={','.join(cluster.ps_hosts)}: expected servers of TensorFlow"
    found: Dict[str, Optional[bool]] = dict.fromkeys(cluster.ps_hosts)
    while not all(found.values()):
        found = {address: is_server(address) for address in cluster.ps_hosts}
        for address in found:
            if found[address] is False:
                raise InputError(f"{flag}, found something else at {address}")
        time.sleep(0 if all(found.values()) else POLL_SECS)


def is_server(address: str) -> Optional[bool]:
    """Whether it is TensorFlow that listens on host:port; None if nothing does."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECS) as connection:
            connection.settimeout(SILENCE_SECS)
            connection.sendall(_PREFACE)
            with contextlib.suppress(socket.timeout):
                greeting = connection.recv(4)
                return greeting[3:] == _SETTINGS if greeting else None
            return False
    return None
