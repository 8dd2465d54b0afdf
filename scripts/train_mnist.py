"""Trains a small network on handwritten digits with softmax plus center loss.

  python scripts/train_mnist.py [--flag=value ...]

Leaves checkpoints, metrics.json, embeddings.png and files for TensorBoard in --model_dir. Run again
on the same folder, it resumes from the last checkpoint.

On a cluster, run it once for each address in --ps_hosts and --worker_hosts, with the --job_name and
--task_index of that address and all other flags alike. The centers are split over the parameter
servers. Worker 0, the chief, initialises them, or attaches to them where they live, and alone uses
--model_dir. Parameter servers end with the last worker, or a minute after the chief.
"""

import shutil
import sys
import warnings
from typing import List

import mnist_console
from absl import app, flags
from mnist_cluster_flags import check_port, cluster_of
from mnist_data import Digits, load_digits
from mnist_flag_groups import GROUPS, default_steps
from mnist_flags import define_flags
from mnist_help import format_help
from mnist_run import InputError, Settings, check_model_dir
from mnist_signals import Interrupted


def parse_settings(argv: List[str]) -> Settings:
    """The settings in a command line; prints the help and exits where that is asked for.

    Raises:
      InputError: an unknown flag, a value out of its range, or an argument that is no flag.
    """
    values = define_flags(GROUPS)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise InputError(str(error)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"flag --flagfile: expected a text file, found: {error}") from error
    except ValueError as error:  # absl's own for a value after --noname.
        raise InputError(f"flag {error}") from error
    if values.help:
        print(format_help(__doc__, GROUPS, shutil.get_terminal_size().columns))
        sys.exit(0)
    if rest:
        raise InputError(f"expected flags only, found {rest[0]!r}")
    settings = Settings(**{name: values[name].value for name in Settings._fields})
    if settings.compare and values["updater"].present:
        raise InputError(
            f"flag --updater={settings.updater}: expected none beside --compare, which takes all"
        )
    if settings.compare and (settings.ps_hosts or settings.worker_hosts or settings.job_name):
        raise InputError("flag --compare=true: expected a single process, found flags of a cluster")
    if settings.train_steps is None:
        return settings._replace(train_steps=default_steps(settings.embed_dims))
    return settings


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
        if cluster is not None and not cluster.is_chief:
            import mnist_cluster

            mnist_cluster.train(settings, digits, cluster)
            return 0
        import mnist_experiments

        if settings.compare:
            mnist_experiments.compare(settings, digits)
        else:
            mnist_experiments.train_and_report(settings, digits, cluster)
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
