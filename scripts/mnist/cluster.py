"""The processes of a cluster: their addresses, which one this is, and which are lost."""

import re
import socket
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Set

from absl import logging

from mnist.config import InputError

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_LAST_PORT = 65535
_CONNECT_SECS = 5.0
_POLL_SECS = 0.5
_PATIENCE_SECS = 3.0  # for servers that are being started
_LOST = (
    "%s: the parameter server at %s does not answer; start it with its usual command, and training "
    "goes on from the newest checkpoint; Ctrl-C or SIGTERM ends this process"
)


class Cluster(NamedTuple):
    """The processes that train one model together, and this process among them."""

    ps_hosts: List[str]  # host:port of each parameter server, by its task index
    worker_hosts: List[str]  # host:port of each worker; the first is the chief
    job_name: str  # ps or worker
    task_index: int

    @property
    def is_chief(self) -> bool:
        return self.job_name == "worker" and self.task_index == 0

    @property
    def address(self) -> str:
        return (self.ps_hosts if self.job_name == "ps" else self.worker_hosts)[self.task_index]

    def __str__(self) -> str:
        return f"{self.job_name} {self.task_index}"


def are_addresses(texts: List[str]) -> bool:
    """Whether all texts are host:port."""
    matches = [_ADDRESS.fullmatch(text) for text in texts]
    return all(match and 0 < int(match.group(1)) <= _LAST_PORT for match in matches)


def find_cluster(
    ps_hosts: List[str], worker_hosts: List[str], job_name: Optional[str], task_index: int
) -> Optional[Cluster]:
    """The cluster that the flags describe; None for a process that trains alone."""
    if not job_name:
        if ps_hosts or worker_hosts or task_index:
            raise InputError(
                "flag --job_name=: expected ps or worker, for a cluster, found nothing"
            )
        return None
    every = ps_hosts + worker_hosts
    if not ps_hosts or not worker_hosts or len(set(every)) < len(every):
        raise InputError(
            f"flags --ps_hosts={','.join(ps_hosts)} --worker_hosts={','.join(worker_hosts)}: "
            "expected at least one address in each, found none, or one twice"
        )
    tasks = len(ps_hosts if job_name == "ps" else worker_hosts)
    if task_index >= tasks:
        flag = f"flag --task_index={task_index}"
        raise InputError(f"{flag}: expected at most {tasks - 1}, the last of --{job_name}_hosts")
    cluster = Cluster(ps_hosts, worker_hosts, job_name, task_index)
    # TensorFlow would find out much later, in several lines from gRPC.
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", int(cluster.address.rpartition(":")[2])))
        except OSError as error:
            flag = f"flag --{job_name}_hosts: expected a port to listen on"
            raise InputError(f"{flag} in {cluster.address}, found: {error.strerror}") from error
    return cluster


class ServerWatch:
    """Logs when a parameter server stops answering, and when it is back.

    Runs in its own thread, since TensorFlow silently waits for servers. `all_up` is set while all
    of them answer.
    """

    def __init__(self, cluster: Cluster, when_lost: Callable[[], None]) -> None:
        self.all_up = threading.Event()
        self._cluster, self._when_lost = cluster, when_lost
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Stops logging, since the servers are about to end."""
        self._stopped.set()

    def _watch(self) -> None:
        silent_since: Dict[str, float] = {}
        lost: Set[str] = set()
        while not self._stopped.wait(_POLL_SECS if self.all_up.is_set() or silent_since else 0):
            for address in self._cluster.ps_hosts:
                if answers(address):
                    silent_since.pop(address, None)
                    if address in lost:
                        logging.info("%s: %s answers", self._cluster, address)
                        lost.remove(address)
                    continue
                since = silent_since.setdefault(address, time.monotonic())
                if address not in lost and time.monotonic() - since > _PATIENCE_SECS:
                    logging.warning(_LOST, self._cluster, address)
                    lost.add(address)
                    self._when_lost()
            self.all_up.clear() if silent_since else self.all_up.set()


def answers(address: str) -> bool:
    """Whether a process listens on host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECS).close()
    except OSError:
        return False
    return True
