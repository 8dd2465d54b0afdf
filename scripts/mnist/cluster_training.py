"""Training by several processes: parameter servers hold the variables, workers update them."""

import json
import time
import zlib
from typing import Any, Optional

import tensorflow.compat.v1 as tf
from absl import logging

from mnist import training
from mnist.checkpoints import find_newest
from mnist.cluster import Cluster, ServerWatch, answers
from mnist.config import InputError, Settings, one_line
from mnist.data import Digits
from mnist.experiment import train_and_report
from mnist.interrupts import Interrupted, Interrupts, StopHook
from mnist.model import Model, build_model

_POLL_SECS = 0.5
_LAST_STEPS_SECS = 20.0  # for the other workers, before the chief saves
_LATE_WORKER_MS = 30000  # for the other workers, before a server ends once the chief is done
_LINGER_SECS = 1.0  # for the other servers to hear of the end too, before they miss this one


def take_part(
    settings: Settings, digits: Optional[Digits], cluster: Cluster, interrupts: Interrupts
) -> None:
    """Runs this process as part of a cluster, until training is over.

    Raises `InputError` if the parameter servers hold another run, and whatever `train_and_report`
    raises.
    """
    watch = ServerWatch(cluster, interrupts.give_up)
    try:
        spec = tf.train.ClusterSpec({"ps": cluster.ps_hosts, "worker": cluster.worker_hosts})
        task, config = (cluster.job_name, cluster.task_index), _session_config(cluster)
        server = tf.train.Server(spec, *task, config=config)
        worker = Worker(cluster, spec, server.target, watch)
        if digits is None:
            _serve(cluster, server.target, watch)
        elif cluster.is_chief:
            train_and_report(settings, digits, interrupts, worker.train)
        else:
            worker.train(settings, digits, None, interrupts)
    except tf.errors.OpError as error:
        raise InputError(f"{cluster}: {one_line(error)}") from error
    if interrupts.signum is not None:
        raise Interrupted(f"{cluster}: interrupted; the same command lets it join again")


def _serve(cluster: Cluster, target: str, watch: ServerWatch) -> None:
    """Runs a parameter server until all workers are done, or half a minute after the chief is."""
    next_done = _done_queue(cluster, cluster.task_index).dequeue()
    missing, options = set(range(len(cluster.worker_hosts))), None
    with tf.Session(target, config=_session_config(cluster)) as session:
        logging.info("%s: serves on %s", cluster, cluster.address)
        while missing:
            try:
                worker = int(session.run(next_done, options=options))
            except tf.errors.DeadlineExceededError:
                break
            missing.discard(worker)
            if worker == 0:
                watch.stop()
                options = tf.RunOptions(timeout_in_ms=_LATE_WORKER_MS)
    time.sleep(_LINGER_SECS)
    logging.info("%s: training is over", cluster)


class Worker(tf.train.SessionCreator):
    """Trains with the other workers, and opens a new session after a parameter server was lost.

    TensorFlow's session managers let workers sleep 30 seconds between checks of the variables, and
    a restarted chief would restore an old checkpoint over what the others have trained since.
    """

    def __init__(self, cluster: Cluster, spec: Any, target: str, watch: ServerWatch) -> None:
        self._cluster, self._spec, self._target, self._watch = cluster, spec, target, watch

    def train(
        self, settings: Settings, digits: Digits, _: Optional[Model], interrupts: Interrupts
    ) -> None:
        """Trains until all workers together have made --train_steps, in a graph of its own."""
        cluster = self._cluster
        own = f"/job:worker/task:{cluster.task_index}"
        device = tf.train.replica_device_setter(cluster=self._spec, worker_device=own)
        shape, num_shards = digits.train_images.shape[1:], len(cluster.ps_hosts)
        self._settings, self._interrupts = settings, interrupts
        self._run_id = zlib.crc32(json.dumps(settings.identity(digits.crc32())).encode())
        with tf.Graph().as_default(), tf.device(device):
            self._model = build_model(settings, shape, digits.num_classes, num_shards)
            args = settings, digits, self._model
            hooks = training.make_hooks(*args) if cluster.is_chief else []
            hooks.append(ClusterHook(cluster, self._watch, interrupts))
            # Set last, on each server: once all are, no variable is still to be restored.
            run_id = tf.constant(self._run_id, tf.int64)
            tasks = range(num_shards)
            self._run_ids = [_local_variable(f"run_id_{task}", run_id, task) for task in tasks]
            self._uninitialized = tf.identity(tf.report_uninitialized_variables())
            self._initialize = tf.global_variables_initializer()
            self._initialize_local = tf.local_variables_initializer()
            with tf.train.MonitoredSession(self, hooks) as session:
                made = training.make_steps(session, *args, worker=cluster.task_index)
                deadline = time.monotonic() + (_LAST_STEPS_SECS if cluster.is_chief else 0)
                # Wait until the other workers have ended, so that no step is saved in part.
                while time.monotonic() < deadline and any(map(answers, cluster.worker_hosts[1:])):
                    time.sleep(_POLL_SECS)
        logging.info("%s: made %d steps of its own", cluster, made)

    def create_session(self) -> tf.Session:
        """A session on variables that are initialized, and are those of this run."""
        self._interrupts.give_up()
        self._watch.all_up.wait()
        session = _OpenSession(self._target, config=_session_config(self._cluster))
        how = "attached to"
        if self._cluster.is_chief and len(session.run(self._uninitialized)):
            newest = find_newest(self._settings.model_dir)
            if newest is None:
                session.run(self._initialize)
            else:
                self._model.saver.restore(session, newest.path)
            session.run(self._initialize_local)
            how = "initialized"
        while len(session.run(self._uninitialized)):
            message = "%s: waits for the chief to initialize"
            logging.log_every_n_seconds(logging.INFO, message, 60, self._cluster)
            time.sleep(_POLL_SECS)
        step, *run_ids = session.run([self._model.global_step, *self._run_ids])
        if set(run_ids) != {self._run_id}:
            hosts = ",".join(self._cluster.ps_hosts)
            raise InputError(
                f"flag --ps_hosts={hosts}: expected a run of these flags, found another"
            )
        logging.info("%s: %s the parameter servers at step %d", self._cluster, how, step)
        return session


class _OpenSession(tf.Session):
    """A session that is never closed, since closing would wait for lost servers."""

    def close(self) -> None:
        pass

    def run(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().run(*args, **kwargs)
        except tf.errors.CancelledError as error:  # `MonitoredSession` does not recover from it.
            raise tf.errors.AbortedError(None, None, error.message) from error


class ClusterHook(StopHook):
    """Stops all workers with the chief; at the end, tells the servers that this one is done."""

    def __init__(self, cluster: Cluster, watch: ServerWatch, interrupts: Interrupts) -> None:
        super().__init__(interrupts)
        self._is_chief, self._watch = cluster.is_chief, watch
        self._stopping = _local_variable("stopping", tf.constant(False), task=0)
        self._stop = tf.assign(self._stopping, True)
        tasks = range(len(cluster.ps_hosts))
        self._done = tf.group(*[_done_queue(cluster, t).enqueue(cluster.task_index) for t in tasks])

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._stopping)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: Any) -> None:
        super().after_run(run_context, run_values)
        if self._is_chief and run_context.stop_requested:
            run_context.session.run(self._stop)
        elif run_values.results:
            run_context.request_stop()

    def end(self, session: tf.Session) -> None:
        session.run(self._done)
        self._watch.stop()
        super().end(session)


def _local_variable(name: str, initial: tf.Tensor, task: int) -> tf.Variable:
    """A variable on one parameter server that no checkpoint holds."""
    local = [tf.GraphKeys.LOCAL_VARIABLES]
    with tf.device(f"/job:ps/task:{task}"):
        return tf.get_variable(name, initializer=initial, trainable=False, collections=local)


def _done_queue(cluster: Cluster, task: int) -> tf.QueueBase:
    """The queue on one parameter server that takes the task index of each worker that is done."""
    workers = len(cluster.worker_hosts)
    with tf.device(f"/job:ps/task:{task}"):
        return tf.FIFOQueue(workers, [tf.int32], shapes=[[]], shared_name="workers_done")


def _session_config(cluster: Cluster) -> tf.ConfigProto:
    """Limits a session to its own process and the parameter servers, so it waits for no other."""
    own = f"/job:{cluster.job_name}/task:{cluster.task_index}"
    return tf.ConfigProto(device_filters=[own] if cluster.job_name == "ps" else ["/job:ps", own])
