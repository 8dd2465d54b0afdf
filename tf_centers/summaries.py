"""Summaries of a set of centers for TensorBoard."""

from typing import List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.access import on_machine_of, outside_graphs, read_range
from tf_centers.arguments import as_written
from tf_centers.centers import EmbedCenters, Table
from tf_centers.distances import squared_distances
from tf_centers.sharding import read_table
from tf_centers.variables import CentersLike, find_table

# The most classes that a summary reads and compares, so that its cost does not grow with C.
# Distances among n classes take n * n * D multiplications.
_MOST_NORMS = 16384
_MOST_PAIRED = 2048


@as_written
def summarize_centers(centers: CentersLike = "embed", name: Optional[str] = None) -> tf.Tensor:
    """Creates summaries that show the state of a set of centers in TensorBoard.

    | tag, below the name of the scope | value |
    | --- | --- |
    | `share_of_classes_seen` | share of the C classes whose count is above 0 |
    | `mean_count`, `min_count`, `max_count` | rows that updated a class |
    | `norms`, a histogram, and `mean_norm` | Euclidean norms of the centers |
    | `inter_class_distance` | smallest Euclidean distance between the centers of two classes |

    The first two lines need counts. If there are counts, classes never seen are left out of the
    other two lines; centers that are not finite always are. A tag without a value, such as the
    distance between fewer than two classes, is left out of that summary.

    Norms cover up to 16,384 classes, and the distance covers all pairs of up to 2,048 classes. If C
    is larger, they cover that many classes, evenly spaced among the labels and always the same
    ones. No other center is read.

    Like every op of `tf.summary`, each summary is in the collection `tf.GraphKeys.SUMMARIES`, where
    `tf.summary.merge_all` and `MonitoredTrainingSession` find it. The merged summary that is
    returned is in no collection, so that nothing is shown twice. It may or may not include an
    update that runs in the same `Session.run`.

    Args:
      centers: as in `get_embed_centers`.
      name: name of the scope of the ops, which starts every tag. Give each set of centers in a
        graph its own.

    Returns:
      A scalar string tensor, all of these summaries in one, for `FileWriter.add_summary`.

    Raises:
      TypeError, ValueError: centers that are missing or invalid, as in `get_embed_centers`.
      RuntimeError: called eagerly or inside a `tf.function` of TF2 code, where graph summaries are
        never written.

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
    if outside_graphs():
        raise RuntimeError(
            f"{caller}: expected a graph of TensorFlow 1, such as after "
            "tf.disable_eager_execution(), got a call executed eagerly or inside a tf.function, "
            "where graph summaries are never written"
        )
    with tf.name_scope(name, caller):
        table = find_table(caller, centers)
        sample = _read_sample(table)
        norms = _norms(sample)
        distance, paired = _smallest_distance(sample)
        summaries = _summarize_counts(table) if table.has_counts else []
        some = tf.size(norms) > 0
        # Divided by 1 where there are none: a NaN would alarm a debugger, unseen as it stays.
        mean_norm = tf.reduce_sum(norms) / tf.cast(tf.maximum(tf.size(norms), 1), norms.dtype)
        summaries += [
            _where(some, tf.summary.histogram("norms", norms, collections=[])),
            _where(some, _scalar("mean_norm", mean_norm)),
            _where(paired, _scalar("inter_class_distance", distance)),
        ]
        for summary in summaries:
            tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)
        return tf.summary.merge(summaries)


def _scalar(tag: str, value: tf.Tensor) -> tf.Tensor:
    return tf.summary.scalar(tag, value, collections=[])


def _where(defined: tf.Tensor, summary: tf.Tensor) -> tf.Tensor:
    """The summary, or an empty one; no tf.cond, whose name would be in the tag."""
    return tf.where(defined, summary, tf.constant(b""))


def _summarize_counts(table: Table) -> List[tf.Tensor]:
    """Of all classes; four numbers cross the network for each shard."""
    seen, sums, least, most = [], [], [], []
    for shard in table.shards:
        with on_machine_of(shard.counts):
            counts = tf.identity(read_range(shard.counts, 0, shard.counts.shape.as_list()[0]))
            seen.append(tf.count_nonzero(counts > 0))
            sums.append(tf.reduce_sum(counts))
            least.append(tf.reduce_min(counts))
            most.append(tf.reduce_max(counts))
    num_classes = table.shape[0]
    return [
        _scalar("share_of_classes_seen", tf.add_n(seen) / num_classes),
        _scalar("mean_count", tf.add_n(sums) / num_classes),
        _scalar("min_count", tf.reduce_min(tf.stack(least))),
        _scalar("max_count", tf.reduce_max(tf.stack(most))),
    ]


def _read_sample(table: Table) -> EmbedCenters:
    """The centers, as tensors, of all classes or of those spaced evenly among too many."""
    num_classes, num_dims = table.shape
    labels = _spread(num_classes, _MOST_NORMS)
    shape = labels.shape.as_list() + [num_dims]
    ctrs = tf.reshape(read_table(table, labels), shape)
    if not table.has_counts:
        return EmbedCenters(ctrs)
    columns = table._replace(shards=tuple(EmbedCenters(shard.counts) for shard in table.shards))
    return EmbedCenters(ctrs, tf.reshape(read_table(columns, labels), shape[:1]))


def _spread(size: int, most: int) -> tf.Tensor:
    """Indices [0, size), or as many as allowed of them; made by ops, which a graph can hold."""
    count = min(size, most)
    return tf.range(count, dtype=tf.int64) * size // count


def _norms(sample: EmbedCenters) -> tf.Tensor:
    """Norms of the finite centers of classes seen: TensorFlow refuses a histogram of others."""
    norms = tf.sqrt(tf.reduce_sum(tf.square(tf.cast(sample.ctrs, tf.float64)), axis=1))
    kept = tf.is_finite(norms)
    if sample.counts is not None:
        kept = tf.logical_and(kept, sample.counts > 0)
    return tf.boolean_mask(norms, kept)


def _smallest_distance(sample: EmbedCenters) -> Tuple[tf.Tensor, tf.Tensor]:
    """Of two finite centers of classes seen, and whether there are two."""
    places = _spread(sample.ctrs.shape.as_list()[0], _MOST_PAIRED)
    count = places.shape.as_list()[0]
    ctrs = tf.cast(tf.gather(sample.ctrs, places), tf.float64)
    squares = squared_distances(ctrs, ctrs)
    kept = tf.is_finite(squares) & ~tf.eye(count, dtype=tf.bool)
    if sample.counts is not None:
        seen = tf.gather(sample.counts, places) > 0
        kept = kept & tf.expand_dims(seen, 0) & tf.expand_dims(seen, 1)
    far = tf.fill([count, count], tf.constant(tf.float64.max, tf.float64))
    # The product finds the pair; only the difference is exact if the two coincide.
    first = tf.argmin(tf.reshape(tf.where(kept, squares, far), [-1]))
    difference = ctrs[first // count] - ctrs[first % count]
    return tf.sqrt(tf.reduce_sum(tf.square(difference))), tf.reduce_any(kept)
