"""Training by several processes: parameter servers hold the variables, workers move them."""

import time
import zlib
from typing import List

import mnist_model
import mnist_training
import tensorflow.compat.v1 as tf
from absl import logging
from mnist_checkpoints import SaveHook
from mnist_cluster_flags import Cluster, port_error
from mnist_cluster_sessions import (
    POLL_SECS,
    SERVER_LOST,
    AwaitWorkers,
    Report,
    SessionCreator,
    report_queue,
    session_config,
)
from mnist_data import Digits
from mnist_run import InputError, Settings, identity, one_line

# How long a parameter server serves workers that are late, once the chief is done.
_LATE_WORKER_SECS = 60.0
# Time for the last worker to close its session before the parameter servers end.
_LINGER_SECS = 2.0


def serve(cluster: Cluster) -> None:
    """Runs a parameter server until every worker has reported, or a minute after the chief has.

    Waits in short sleeps rather than in `Server.join`, which no Ctrl-C interrupts.

    Raises:
      InputError: its address cannot be listened on.
    """
    server = _start_server(cluster)
    reports = report_queue(cluster, cluster.task_index)
    size, take = reports.size(), reports.dequeue()
    missing = set(range(len(cluster.worker_hosts)))
    deadline = float("inf")
    with tf.Session(server.target, config=session_config(cluster)) as session:
        logging.info("%s: serves on %s", cluster, cluster.address)
        while missing and time.monotonic() < deadline:
            for _ in range(session.run(size)):
                worker = int(session.run(take))
                missing.discard(worker)
                if worker == 0:
                    deadline = time.monotonic() + _LATE_WORKER_SECS
            time.sleep(POLL_SECS)
        time.sleep(_LINGER_SECS)
    logging.info("%s: training is over", cluster)


def train(settings: Settings, digits: Digits, cluster: Cluster) -> None:
    """Trains as one of the workers, until all of them together have made --train_steps.

    The chief initialises the variables where they are not, from the newest checkpoint in
    --model_dir if there is one, and saves them there; no other worker touches --model_dir.

    Raises:
      InputError: training diverged, the parameter servers hold another run, the own address cannot
        be listened on, --model_dir cannot be written, or a parameter server was lost.
    """
    server = _start_server(cluster)
    placement = tf.train.replica_device_setter(
        cluster=_spec(cluster), worker_device=f"/job:worker/task:{cluster.task_index}"
    )
    with tf.Graph().as_default():
        with tf.device(placement):
            model = mnist_model.build_model(
                settings,
                digits.train_images.shape[1:],
                digits.num_classes,
                num_shards=len(cluster.ps_hosts),
            )
            scaffold = tf.train.Scaffold(saver=model.saver)
            creator = SessionCreator(
                cluster,
                server.target,
                scaffold,
                settings.model_dir,
                run_id=zlib.crc32(
                    repr(sorted(identity(settings, digits.crc32()).items())).encode()
                ),
                global_step=model.global_step,
            )
        hooks: List[tf.train.SessionRunHook] = [Report(cluster)]
        if cluster.is_chief:
            # When training ends, in this order: wait for the others, save, report.
            saves = SaveHook(settings.model_dir, model.saver, model.global_step)
            hooks = [AwaitWorkers(cluster), saves] + hooks
        try:
            with tf.train.MonitoredSession(creator, hooks) as session:
                made = mnist_training.train(settings, digits, model, session, cluster.task_index)
        except SERVER_LOST as error:
            raise InputError(
                f"flag --ps_hosts={settings.ps_hosts}: lost one of them: {error.message}"
            ) from error
        except tf.errors.OpError as error:
            raise InputError(f"flag --model_dir={settings.model_dir}: {one_line(error)}") from error
    logging.info("%s: made %d steps of its own", cluster, made)


def _start_server(cluster: Cluster) -> tf.train.Server:
    try:
        return tf.train.Server(
            _spec(cluster),
            job_name=cluster.job_name,
            task_index=cluster.task_index,
            config=session_config(cluster),
        )
    except tf.errors.OpError as error:
        raise port_error(cluster, error) from error


def _spec(cluster: Cluster) -> tf.train.ClusterSpec:
    return tf.train.ClusterSpec({"ps": cluster.ps_hosts, "worker": cluster.worker_hosts})
