"""Two processes under `MultiWorkerMirroredStrategy`, on loopback."""

import pytest
import replica_process
from helpers import free_ports
from tf2_code import needs_gathers

pytestmark = [pytest.mark.slow, pytest.mark.eager, needs_gathers]


def test_two_processes_hold_the_bits_of_one_and_end_together(start, tmp_path):
    ports = [str(port) for port in free_ports(2)]
    first, second = [
        start(replica_process.__file__, str(rank), *ports, str(tmp_path), apart=True)
        for rank in range(2)
    ]
    for process in (first, second):
        process.wait_for("all the same")
    second.kill()
    assert first.wait() == 1  # within a few seconds
    assert "Collective ops is aborted" in first.errors
