"""The flags of a cluster: where its processes listen, and which of them this one is."""

import re
import socket
from typing import List, NamedTuple, Optional, Tuple

from mnist_flags import Choice, Flag, Number, Text
from mnist_run import InputError, Settings

_JOBS = ("ps", "worker")
_HOSTS = Text("HOST:PORT,...", "host:port, several with commas between them")

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_LAST_PORT = 65535

# What `cluster_of` reads.
CLUSTER_FLAGS = (
    Flag("ps_hosts", "", _HOSTS, "Parameter servers. Empty: this process trains alone."),
    Flag("worker_hosts", "", _HOSTS, "Workers. The first one is the chief."),
    Flag(
        "job_name",
        None,
        Choice("NAME", *_JOBS),
        "What this process of a cluster is: a parameter server, or a worker.",
    ),
    Flag(
        "task_index",
        0,
        Number("INDEX", int, 0, 10**6),
        "Which host of its job this process is, from 0.",
    ),
)


class Cluster(NamedTuple):
    """The processes that train one model together, and this process among them."""

    ps_hosts: Tuple[str, ...]  # host:port of each parameter server, by its task index
    worker_hosts: Tuple[str, ...]  # host:port of each worker, by its task index
    job_name: str  # ps or worker
    task_index: int  # place in the hosts of that job

    @property
    def is_ps(self) -> bool:
        """Whether this process is a parameter server."""
        return self.job_name == "ps"

    @property
    def is_chief(self) -> bool:
        """Whether this process is the worker that initialises, saves and reports."""
        return not self.is_ps and self.task_index == 0

    @property
    def address(self) -> str:
        """Where this process listens: host:port."""
        return (self.ps_hosts if self.is_ps else self.worker_hosts)[self.task_index]

    def __str__(self) -> str:
        """What a log line calls this process."""
        return f"{self.job_name} {self.task_index}"


def cluster_of(settings: Settings) -> Optional[Cluster]:
    """The cluster that the flags describe; None for a process that trains alone.

    Raises:
      InputError: some of the flags are missing, or do not fit together.
    """
    named = {"ps": settings.ps_hosts, "worker": settings.worker_hosts}
    if not settings.job_name:
        for job, hosts in named.items():
            if hosts:
                raise InputError(
                    f"flag --job_name=: expected {' or '.join(_JOBS)} beside --{job}_hosts, "
                    "found nothing"
                )
        if settings.task_index:
            raise InputError(
                f"flag --task_index={settings.task_index}: expected --job_name beside it, "
                "found none"
            )
        return None
    found = {job: _addresses(f"{job}_hosts", hosts) for job, hosts in named.items()}
    for address in found["worker"]:
        if address in found["ps"]:
            raise InputError(
                f"flag --worker_hosts={settings.worker_hosts}: expected other addresses than in "
                f"--ps_hosts, found {address} in both"
            )
    tasks = len(found[settings.job_name])
    if settings.task_index >= tasks:
        raise InputError(
            f"flag --task_index={settings.task_index}: expected an integer in [0, {tasks - 1}], "
            f"since --{settings.job_name}_hosts has {tasks}"
        )
    return Cluster(found["ps"], found["worker"], settings.job_name, settings.task_index)


def check_port(cluster: Cluster) -> None:
    """Raises `InputError` unless this process can listen on its port.

    TensorFlow would find out much later, and tell it in several lines of gRPC.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", int(cluster.address.rpartition(":")[2])))
        except OSError as error:
            raise port_error(cluster, error) from error


def port_error(cluster: Cluster, found: Exception) -> InputError:
    """What to raise where this process cannot listen on its port."""
    hosts = cluster.ps_hosts if cluster.is_ps else cluster.worker_hosts
    return InputError(
        f"flag --{cluster.job_name}_hosts={','.join(hosts)}: expected a port to listen on in "
        f"{cluster.address}, found: {found}"
    )


def _addresses(flag: str, text: str) -> Tuple[str, ...]:
    addresses: List[str] = []
    for address in text.split(",") if text else ():
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match.group(1)) <= _LAST_PORT:
            raise InputError(
                f"flag --{flag}={text}: expected {_HOSTS.syntactic_help}, found {address!r}"
            )
        if address in addresses:
            raise InputError(f"flag --{flag}={text}: expected each once, found {address} twice")
        addresses.append(address)
    if not addresses:
        raise InputError(f"flag --{flag}=: expected host:port of at least one, found nothing")
    return tuple(addresses)
