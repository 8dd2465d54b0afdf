"""Two processes under `MultiWorkerMirroredStrategy`, on loopback."""

import numpy as np
import pytest
import replica_process
import tensorflow as tf
from helpers import free_ports
from tf2_code import needs_gathers

import tf_centers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.eager,
    needs_gathers,
]


def test_two_processes_hold_the_bits_of_one_and_end_together(start, tmp_path):
    ports = [str(port) for port in free_ports(2)]
    first, second = [
        start(replica_process.__file__, str(rank), *ports, str(tmp_path), apart=True)
        for rank in range(2)
    ]
    for process in (first, second):
        process.wait_for("(?m)^step$")

    single = tf_centers.create_embed_centers(6, 3)
    update, digests = tf.function(tf_centers.get_embed_centers), []
    for step in range(replica_process.STEPS + 1):
        parts = [replica_process.batch(step, rank) for rank in range(2)]
        embeds, labels = (np.concatenate(column) for column in zip(*parts))
        update(embeds, labels, tf_centers.CumulativeMean(), single)
        digests.append(replica_process.digest(single))
    expected = [
        f"trained {digests[-2]}",
        "refused True",
        "refused True",
        f"unchanged {digests[-2]}",
        f"went on {digests[-1]}",
    ]
    checkpoint = str(tmp_path / "centers")
    for process, more in ((first, [f"saved {checkpoint}"]), (second, [])):
        said = process.output.splitlines()
        assert said[: said.index("step")] == expected + more

    restored = tf_centers.create_embed_centers(6, 3)
    reader = tf.train.Checkpoint(ctrs=restored.ctrs, counts=restored.counts)
    reader.read(checkpoint).assert_consumed()
    assert replica_process.digest(restored) == digests[-1]

    second.kill()
    assert first.wait() == 1  # within a few seconds
    assert "Collective ops is aborted" in first.errors
