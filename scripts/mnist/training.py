"""Training alone or in a cluster, whose parameter servers hold the variables."""

import contextlib
import json
import shutil
import threading
import time
import zlib
from typing import Any, Dict

import numpy as np
import tensorflow.compat.v1 as tf
from absl import logging
from tqdm import tqdm

from mnist.cluster import POLL_SECS, Cluster, is_server, wait_for_servers, watch_servers
from mnist.config import InputError, Settings, one_line
from mnist.data import Digits
from mnist.evaluation import evaluate, report
from mnist.interrupts import Interrupts
from mnist.model import Model

SAVE_EVERY = 200
_LAST_STEPS_SECS = 20  # for the other workers, before the chief saves
_LINGER_SECS = 1  # for a server, so that its answer reaches the chief
# What a lost server raises.
_LOST = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.UnavailableError)


class Trainer(tf.train.SessionCreator):
    """Trains a model, and opens a new session after a parameter server was lost.

    TensorFlow's own session creators let workers sleep 30 seconds between checks of the variables,
    and a restarted chief would restore an old checkpoint over what the others have trained since.
    """

    def __init__(
        self, settings: Settings, digits: Digits, interrupts: Interrupts, cluster: Cluster
    ) -> None:
        self._settings, self._interrupts, self._cluster = settings, interrupts, cluster
        self._server, self._is_ending = start_server(cluster), threading.Event()
        run_id = zlib.crc32(json.dumps(settings.identity(digits.crc32())).encode())
        local = dict(trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])  # not saved
        servers, own = range(len(cluster.ps_hosts)), f"/job:worker/task:{cluster.task_index}"
        with tf.device(tf.train.replica_device_setter(len(servers), worker_device=own)):
            self._model = Model(settings, digits, cluster.task_index, len(servers))
            self._is_over = tf.Variable(False, **local)  # by which the chief stops all workers
            self._stop = tf.assign(self._is_over, True).op
            # Set last, on each server: once all are, no variable is still to be restored.
            self._run_ids = []
            for server in servers:
                with tf.device(f"/job:ps/task:{server}"):
                    variable = tf.Variable(tf.constant(run_id, tf.int64), **local)
                    self._run_ids.append(tf.equal(variable, run_id))
            self._uninitialized = tf.size(tf.report_uninitialized_variables())
            self._initialize = tf.global_variables_initializer()
            self._initialize_local = tf.local_variables_initializer()
        self._tell_servers = [done_queue(server).enqueue(True) for server in servers]

    def train(self) -> None:
        """Trains until all workers together have made --train_steps, or a signal comes."""
        model, folder, hooks, self._made = self._model, self._settings.model_dir, [], 0
        watched = self._cluster, self._is_ending, self._interrupts.give_up
        threading.Thread(target=watch_servers, args=watched, daemon=True).start()
        if model.is_chief:
            hooks = [
                tf.train.CheckpointSaverHook(folder, save_steps=SAVE_EVERY, saver=model.saver),
                tf.train.SummarySaverHook(20, output_dir=folder, summary_op=model.summary),
            ]
        while True:
            with contextlib.suppress(*_LOST):
                with tf.train.MonitoredSession(self, hooks) as session:
                    self._make_steps(session)
                    others = self._cluster.worker_hosts[1:] if model.is_chief else []
                    if others:  # Their last steps are to be saved in full.
                        self._session.run(self._stop)
                    deadline = time.monotonic() + _LAST_STEPS_SECS
                    while time.monotonic() < deadline and any(map(is_server, others)):
                        time.sleep(POLL_SECS)
                break  # All is saved.
        self._is_ending.set()
        if self._cluster.ps_hosts:
            logging.info("%s: made %d steps of its own", self._cluster, self._made)
        for tell in self._tell_servers if model.is_chief else []:
            with contextlib.suppress(*_LOST):
                self._session.run(tell)

    def _make_steps(self, session: tf.train.MonitoredSession) -> None:
        model, settings = self._model, self._settings
        total, every = settings.train_steps, settings.eval_every if model.is_chief else 0
        # By the bare session: the hooks take any run of the other for a training step.
        step = self._session.run(model.global_step)
        size = dict(ncols=shutil.get_terminal_size().columns or 80, nrows=24)  # Some say 0.
        with tqdm(total=total, initial=step, unit="step", disable=None, **size) as progress:
            while step < total and self._interrupts.signum is None:
                before, fetches = step, (model.train, model.losses, self._is_over)
                try:
                    step, losses, is_over = session.run(fetches)
                except tf.errors.InvalidArgumentError as error:
                    # The digits are valid, so the embeddings are not finite.
                    raise diverged(settings, one_line(error)) from error
                if not np.isfinite(list(losses.values())).all():
                    raise diverged(settings, f"NaN or Inf at step {step}")
                self._made += 1
                progress.update(step - progress.n)
                if every and step // every > before // every and step < total:
                    report(settings, step, evaluate(self._session, model).scores(), losses)
                if is_over:
                    break

    def create_session(self) -> tf.Session:
        """A session on variables that are initialized, and are those of this run."""
        self._interrupts.give_up()
        wait_for_servers(self._cluster)
        self._session, how = tf.Session(**self._server), "attached to"
        self._session.close = lambda: None  # It would wait for lost servers.
        if self._model.is_chief and self._session.run(self._uninitialized):
            state, how = tf.train.get_checkpoint_state(self._settings.model_dir), "initialized"
            if state is None:
                self._session.run(self._initialize)
            else:
                self._model.saver.restore(self._session, state.model_checkpoint_path)
                self._model.saver.recover_last_checkpoints(state.all_model_checkpoint_paths)
            self._session.run(self._initialize_local)
        while self._session.run(self._uninitialized):
            message = "%s: waits for the chief to initialize"
            logging.log_every_n_seconds(logging.INFO, message, 60, self._cluster)
            time.sleep(POLL_SECS)
        step, are_same = self._session.run([self._model.global_step, self._run_ids])
        if not all(are_same):
            flag = f"flag --ps_hosts={','.join(self._cluster.ps_hosts)}"
            raise InputError(f"{flag}: expected a run of these flags, found another")
        self._interrupts.can_stop = True
        if are_same:
            logging.info("%s: %s the parameter servers at step %d", self._cluster, how, step)
        return self._session


def start_server(cluster: Cluster) -> Dict[str, Any]:
    """Starts the server of this process, if there is a cluster; returns arguments for sessions.

    Raises `InputError` if its port is in use.
    """
    if not cluster.job_name:
        return {}
    # A session only waits for the processes that pass its filters.
    own = f"/job:{cluster.job_name}/task:{cluster.task_index}"
    filters = [own] if cluster.job_name == "ps" else ["/job:ps", own]
    config = tf.ConfigProto(device_filters=filters)
    spec = {"ps": cluster.ps_hosts, "worker": cluster.worker_hosts}
    try:
        server = tf.train.Server(spec, cluster.job_name, cluster.task_index, config=config)
    except tf.errors.OpError as error:
        line = f"flag --{cluster.job_name}_hosts: expected a port to listen on for {cluster}"
        raise InputError(f"{line}, found: {one_line(error)}") from error
    return dict(target=server.target, config=config)


def serve(cluster: Cluster) -> None:
    """Runs a parameter server until the chief says that training is over."""
    with tf.Session(**start_server(cluster)) as session:
        logging.info("%s: serves on %s", cluster, cluster.ps_hosts[cluster.task_index])
        session.run(done_queue(cluster.task_index).dequeue())
    time.sleep(_LINGER_SECS)
    logging.info("%s: training is over", cluster)


def done_queue(task: int) -> tf.QueueBase:
    """The queue on one parameter server by which the chief tells it that training is over."""
    with tf.device(f"/job:ps/task:{task}"):
        return tf.FIFOQueue(1, [tf.bool], shapes=[[]], shared_name="training_is_over")


def diverged(settings: Settings, found: str) -> InputError:
    """The error for losses or embeddings that are no longer finite."""
    flag = f"flag --learning_rate={settings.learning_rate}"
    return InputError(f"{flag}: expected finite losses and embeddings, found {found}")
