"""The processes of a cluster: their addresses, which one this is, and which servers are lost."""

import contextlib
import re
import socket
import threading
from typing import Callable, Dict, List, NamedTuple, Optional

from absl import logging

from mnist.config import InputError

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_CONNECT_SECS, _SILENCE_SECS, _POLL_SECS = 5, 20, 0.5
_PATIENCE = 6  # polls, for a server that is being started
# What a client of HTTP/2, such as gRPC, begins with, and the type of frame that a server answers.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\4"
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

    def __str__(self) -> str:
        return f"{self.job_name} {self.task_index}"

    def check(self) -> None:
        """Raises `InputError` for what TensorFlow would find out much later, in many lines."""
        every = self.ps_hosts + self.worker_hosts
        if not self.ps_hosts or not self.worker_hosts or len(set(every)) < len(every):
            found = f"--ps_hosts={','.join(self.ps_hosts)}"
            found = f"{found} --worker_hosts={','.join(self.worker_hosts)}"
            raise InputError(f"flags {found}: a host list is empty or an address repeats")
        flag, hosts = f"--{self.job_name}_hosts", getattr(self, f"{self.job_name}_hosts")
        if self.task_index >= len(hosts):
            found = f"flag --task_index={self.task_index}"
            raise InputError(f"{found}: expected at most {len(hosts) - 1}, the last of {flag}")
        address = hosts[self.task_index]
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", int(address.rpartition(":")[2])))
            except OSError as error:
                line = f"flag {flag}: expected a port to listen on in {address}"
                raise InputError(f"{line}, found: {error.strerror}") from error


def are_addresses(texts: List[str]) -> bool:
    """Whether all texts are host:port."""
    matches = [_ADDRESS.fullmatch(text) for text in texts]
    return all(match and 0 < int(match.group(1)) < 65536 for match in matches)


class ServerWatch:
    """Logs when a parameter server stops answering, and when it is back.

    Runs in its own thread, since TensorFlow silently waits for servers.
    """

    def __init__(self, cluster: Cluster, when_lost: Callable[[], None]) -> None:
        self._cluster, self._when_lost, self._stranger = cluster, when_lost, ""
        self._all_up, self._stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self) -> None:
        """Waits until all servers answer; raises `InputError` if something else does."""
        self._all_up.wait()
        if self._stranger:
            raise not_tensorflow(self._cluster, self._stranger)

    def stop(self) -> None:
        """Stops logging, since the servers are about to end."""
        self._stopped.set()

    def _watch(self) -> None:
        misses: Dict[str, int] = {}  # in a row; 0 once a server has answered
        while self._cluster.ps_hosts and not self._stopped.wait(_POLL_SECS if misses else 0):
            for address in self._cluster.ps_hosts:
                greeting = hear(address)
                if greeting is not None and greeting[3:] == _SETTINGS:
                    if misses.get(address, 0) >= _PATIENCE:
                        logging.info("%s: %s answers", self._cluster, address)
                    misses[address] = 0
                elif greeting or (greeting is not None and address not in misses):
                    self._stranger = address
                    return self._all_up.set()
                else:
                    misses[address] = misses.get(address, 0) + 1
                    if misses[address] == _PATIENCE:
                        logging.warning(_LOST, self._cluster, address)
                        self._when_lost()
            self._all_up.clear() if any(misses.values()) else self._all_up.set()
        self._all_up.set()


def hear(address: str) -> Optional[bytes]:
    """The first bytes of what listens on host:port, empty if it is silent; None if nothing does."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECS) as connection:
            connection.settimeout(_SILENCE_SECS)
            connection.sendall(_PREFACE)
            with contextlib.suppress(socket.timeout):
                return connection.recv(4) or None
            return b""
    return None


def not_tensorflow(cluster: Cluster, where: str) -> InputError:
    """The error for a parameter server that is none."""
    flag = f"flag --ps_hosts={','.join(cluster.ps_hosts)}"
    return InputError(f"{flag}: expected servers of TensorFlow, found something else at {where}")
