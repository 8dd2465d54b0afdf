"""How a worker of a cluster comes to its session, and what it does before it leaves."""

import socket
import time
from typing import Iterable, List

import tensorflow.compat.v1 as tf
from absl import logging
from mnist_cluster_flags import Cluster
from mnist_run import InputError

POLL_SECS = 0.2

# What a call on a server that has ended, or was started anew, fails with.
SERVER_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)

_CONNECT_SECS = 2.0
# How long the chief waits for the last steps of the others before it saves.
_LAST_STEPS_SECS = 60.0


class SessionCreator(tf.train.SessionCreator):
    """Makes a worker's session, at the start and again whenever a parameter server was lost.

    Stock session managers let workers sleep 30 seconds between looks at the variables, and let a
    restarted chief restore an old checkpoint over variables that the others have trained on.
    """

    def __init__(
        self,
        cluster: Cluster,
        target: str,
        scaffold: tf.train.Scaffold,
        model_dir: str,
        run_id: int,
        global_step: tf.Variable,
    ) -> None:
        """Takes a number that all workers of a run share; the graph must be complete."""
        self._cluster, self._target = cluster, target
        self._scaffold, self._model_dir = scaffold, model_dir
        self._own_run_id = run_id
        self._global_step = global_step
        # Local, so that no checkpoint holds it.
        self._run_id = tf.get_variable(
            "run_id",
            initializer=tf.constant(run_id, tf.int64),
            trainable=False,
            collections=[tf.GraphKeys.LOCAL_VARIABLES],
        )
        # Through an op of its own: TensorFlow grumbles when that of the report is never run, as
        # after a Ctrl-C while no parameter server answers.
        self._uninitialized = tf.identity(tf.report_uninitialized_variables())

    def create_session(self) -> tf.Session:
        """A session on variables that are initialised, and are those of this run."""
        self._scaffold.finalize()
        _await_servers(self._cluster)
        session = tf.Session(self._target, config=session_config(self._cluster))
        if self._cluster.is_chief and len(session.run(self._uninitialized)):
            self._initialize(session)
            how = "initialised"
        else:
            self._await_chief(session)
            how = "attached to"
        run_id, step = session.run((self._run_id, self._global_step))
        if run_id != self._own_run_id:
            raise InputError(
                f"flag --ps_hosts={','.join(self._cluster.ps_hosts)}: expected a run with the "
                "flags and data of this process, found another one; pass the same to all"
            )
        logging.info("%s: %s the parameter servers at step %d", self._cluster, how, step)
        return session

    def _initialize(self, session: tf.Session) -> None:
        checkpoint = tf.train.latest_checkpoint(self._model_dir)
        if checkpoint:
            self._scaffold.saver.restore(session, checkpoint)
        else:
            session.run(self._scaffold.init_op)
        # Last, since the other workers begin once every variable has a value.
        session.run(self._run_id.initializer)

    def _await_chief(self, session: tf.Session) -> None:
        told = False
        while len(session.run(self._uninitialized)):
            if not told:
                logging.info("%s: waits for the chief to initialise", self._cluster)
                told = True
            time.sleep(POLL_SECS)


class AwaitWorkers(tf.train.SessionRunHook):
    """At the end, waits until no other worker is at work, so that no step is saved by half."""

    def __init__(self, cluster: Cluster) -> None:
        """Takes the cluster."""
        self._cluster = cluster

    def end(self, session: tf.Session) -> None:
        """A worker has ended, or is lost, when its server does not answer."""
        deadline = time.monotonic() + _LAST_STEPS_SECS
        at_work = _answering(self._cluster.worker_hosts[1:])
        if at_work:
            logging.info("%s: waits for the last step of %s", self._cluster, ", ".join(at_work))
        while at_work and time.monotonic() < deadline:
            time.sleep(POLL_SECS)
            at_work = _answering(at_work)
        if at_work:
            logging.warning("%s: saves, though %s still works", self._cluster, ", ".join(at_work))


class Report(tf.train.SessionRunHook):
    """At the end, tells every parameter server that this worker is done."""

    def __init__(self, cluster: Cluster) -> None:
        """Takes the cluster."""
        self._cluster = cluster

    def begin(self) -> None:
        """Completes the graph."""
        tasks = range(len(self._cluster.ps_hosts))
        self._report = tf.group(
            *[report_queue(self._cluster, t).enqueue(self._cluster.task_index) for t in tasks]
        )

    def end(self, session: tf.Session) -> None:
        """A parameter server that is gone need not be told."""
        try:
            session.run(self._report)
        except SERVER_LOST:
            logging.warning("%s: a parameter server has ended early", self._cluster)


def report_queue(cluster: Cluster, task: int) -> tf.QueueBase:
    """The queue on parameter server `task` that takes the task index of a worker that is done.

    A queue, other than a variable, needs nobody to initialise it. The server takes out what comes
    in, so that it never fills up.
    """
    with tf.device(f"/job:ps/task:{task}"):
        return tf.FIFOQueue(
            len(cluster.worker_hosts), [tf.int32], shapes=[[]], shared_name="workers_done"
        )


def session_config(cluster: Cluster) -> tf.ConfigProto:
    """Lets a session reach its own process and the parameter servers: it waits for nobody else."""
    own = f"/job:{cluster.job_name}/task:{cluster.task_index}"
    return tf.ConfigProto(device_filters=[own] if cluster.is_ps else ["/job:ps", own])


def _await_servers(cluster: Cluster) -> None:
    # TensorFlow itself would wait in a call that no Ctrl-C interrupts.
    told = False
    while True:
        up = _answering(cluster.ps_hosts)
        silent = [address for address in cluster.ps_hosts if address not in up]
        if not silent:
            return
        if not told:
            logging.info("%s: waits for a parameter server at %s", cluster, ", ".join(silent))
            told = True
        time.sleep(POLL_SECS)


def _answering(addresses: Iterable[str]) -> List[str]:
    return [address for address in addresses if _answers(address)]


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECS).close()
    except OSError:
        return False
    return True
