"""Summaries of a set of centers for TensorBoard."""

from typing import Any, List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.access import in_tf2_code, on_machine_of, read_range
from tf_centers.arguments import no_autograph
from tf_centers.checks import Checks
from tf_centers.sharding import read_table
from tf_centers.tables import Table
from tf_centers.typing import CentersLike
from tf_centers.variables import find_table

# The most classes that a summary reads, and compares by n * n * D multiplications.
_MOST_NORMS, _MOST_PAIRED = 16384, 2048


@no_autograph
def summarize_centers(centers: CentersLike = "embed", name: Optional[str] = None) -> tf.Tensor:
    """Creates summaries that show the state of a set of centers in TensorBoard.

    | tag, below the name of the scope | value |
    | --- | --- |
    | `share_of_classes_seen` | share of the C classes whose count is above 0 |
    | `mean_count`, `min_count`, `max_count` | rows that updated a class |
    | `norms`, a histogram, and `mean_norm` | Euclidean norms of the centers |
    | `inter_class_distance` | smallest Euclidean distance between the centers of two classes |

    The first two lines need counts; with counts, the others leave out classes never seen, and
    always centers that are not finite. A tag without a value is left out of that summary. Norms
    cover up to 16,384 classes, and the distance all pairs of up to 2,048, evenly spaced among the
    labels and always the same ones.

    Args:
      centers: as in `get_embed_centers`.
      name: name of the scope of the ops, which starts every tag; each set of centers needs its own.

    Returns:
      A scalar string tensor, all summaries in one, for `FileWriter.add_summary`. It may or may not
      include an update of the same `Session.run`. The single ones are in `tf.GraphKeys.SUMMARIES`,
      for `tf.summary.merge_all` and `MonitoredTrainingSession`.

    Raises:
      TypeError, ValueError: centers that are missing or invalid, as in `get_embed_centers`.
      RuntimeError: called eagerly or inside a `tf.function` of TF2 code.

    Examples:
      >>> ctrs = tf.get_variable("ctrs", initializer=[[3.0, 4.0], [3.0, 2.0], [0.0, 0.0]])
      >>> summary = summarize_centers(ctrs, name="centers")
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> shown = tf.Summary.FromString(sess.run(summary))
      >>> [value.tag for value in shown.value]
      ['centers/norms', 'centers/mean_norm', 'centers/inter_class_distance']
      >>> shown.value[2].simple_value
      2.0
    """
    caller = "summarize_centers"
    if in_tf2_code():
        raise RuntimeError(
            f"{caller}: expected a graph of TensorFlow 1 (tf.disable_eager_execution()), got a "
            "call executed eagerly or inside a tf.function, where graph summaries are never written"
        )
    with tf.name_scope(name, caller):
        table = find_table(caller, centers)
        labels = _spread(table.shape[0], _MOST_NORMS)
        size, unchecked = labels.shape.as_list(), Checks(caller, validate=False)
        ctrs = tf.reshape(read_table(unchecked, table, labels), size + table.shape[1:])
        ctrs, seen = tf.cast(ctrs, tf.float64), tf.fill(size, True)
        if table.has_counts:
            seen = tf.reshape(read_table(unchecked, table, labels, "counts"), size) > 0
        norms = tf.sqrt(tf.reduce_sum(tf.square(ctrs), axis=1))
        # TensorFlow refuses a histogram of what is not finite.
        norms = tf.boolean_mask(norms, seen & tf.is_finite(norms))
        # Not the mean, which is NaN for none: that would alarm a debugger, unseen as it stays.
        mean_norm = tf.div_no_nan(tf.reduce_sum(norms), tf.cast(tf.size(norms), norms.dtype))
        some = tf.size(norms) > 0
        distance, paired = _smallest_distance(ctrs, seen)
        summaries = _summarize_counts(table) if table.has_counts else []
        summaries += [
            tf.where(some, tf.summary.histogram("norms", norms, collections=[]), tf.constant(b"")),
            _scalar("mean_norm", mean_norm, some),
            _scalar("inter_class_distance", distance, paired),
        ]
        for summary in summaries:
            tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)
        return tf.summary.merge(summaries)


def _scalar(tag: str, value: tf.Tensor, defined: Any = True) -> tf.Tensor:
    """A summary, empty unless defined; no tf.cond, whose name would be in the tag."""
    return tf.where(defined, tf.summary.scalar(tag, value, collections=[]), tf.constant(b""))


def _summarize_counts(table: Table) -> List[tf.Tensor]:
    """Of all classes; four numbers cross the network for each shard."""
    parts = []
    for shard in table.shards:
        with on_machine_of(shard.counts):
            counts = read_range(shard.counts, 0, shard.counts.shape.as_list()[0])
            of_all = [reduce(counts) for reduce in (tf.reduce_sum, tf.reduce_min, tf.reduce_max)]
            parts.append([tf.count_nonzero(counts > 0)] + of_all)
    seen, total, least, most = (tf.stack(column) for column in zip(*parts))
    return [
        _scalar("share_of_classes_seen", tf.reduce_sum(seen) / table.shape[0]),
        _scalar("mean_count", tf.reduce_sum(total) / table.shape[0]),
        _scalar("min_count", tf.reduce_min(least)),
        _scalar("max_count", tf.reduce_max(most)),
    ]


def _spread(size: int, most: int) -> tf.Tensor:
    """Indices [0, size), or as many as allowed of them; made by ops, which a graph can hold."""
    count = min(size, most)
    return tf.range(count, dtype=tf.int64) * size // count


def _smallest_distance(ctrs: tf.Tensor, seen: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Of two finite centers of classes seen, and whether there are two."""
    places = _spread(ctrs.shape.as_list()[0], _MOST_PAIRED)
    ctrs, seen, count = tf.gather(ctrs, places), tf.gather(seen, places), places.shape.as_list()[0]
    products = tf.matmul(ctrs, ctrs, transpose_b=True)
    squared_norms = tf.diag_part(products)
    squares = squared_norms[:, tf.newaxis] + squared_norms - 2.0 * products
    kept = tf.is_finite(squares) & ~tf.eye(count, dtype=tf.bool) & seen[:, tf.newaxis] & seen
    far = tf.fill([count, count], tf.constant(tf.float64.max, tf.float64))
    # The product finds the pair; only the difference is exact if the two coincide.
    first = tf.argmin(tf.reshape(tf.where(kept, squares, far), [-1]))
    difference = ctrs[first // count] - ctrs[first % count]
    return tf.sqrt(tf.reduce_sum(tf.square(difference))), tf.reduce_any(kept)
