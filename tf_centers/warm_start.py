"""Centers from a checkpoint: of other code, with fewer classes or another number of shards."""

import os
from typing import Any, List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import on_machine_of, write_first_rows
from tf_centers.arguments import as_written
from tf_centers.centers import Table, counts_name
from tf_centers.checks import on_host
from tf_centers.variables import CentersLike, find_table, note_counts

# Tensors of a checkpoint that a message lists.
_LISTED = 20


@as_written
def warm_start_embed_centers(
    checkpoint: Any,
    centers: CentersLike = "embed",
    ctrs_name: Optional[str] = None,
    counts: Any = None,
    name: Optional[str] = None,
) -> Any:
    """Returns an op that reads the centers of a checkpoint into the first classes of the table.

    Run it once, after the initializers. The checkpoint may come from other code, have fewer classes
    or another floating dtype, and be saved whole or in any number of shards. Classes that are not
    in it keep their initial value. Nothing is written to a shard before all of its rows have been
    read.

    Shards are read one after the other, each on the machine that holds it. TensorFlow reads a
    tensor as it was saved, whole or one shard at a time, and keeps it in memory beside the table
    until it is written. If memory is short and the checkpoint fills the whole table, do not run the
    initializer of the table: it then takes over the memory that was read.

    Args:
      checkpoint: the path of a TensorFlow checkpoint, as `tf.train.Saver.save` returns it, or of a
        folder, which stands for the newest checkpoint in it.
      centers: as in `get_embed_centers`.
      ctrs_name: the name of the table in the checkpoint; None if it is the same as here.
      counts: how many rows each center of the checkpoint stands for, an integer that is at least 0
        or integers `[C_old]`. Only used if the checkpoint has no `<ctrs_name>_count`.
      name: name of the scope of the ops.

    Returns:
      A `tf.Operation`; None in eager execution, where the centers have already been read.

    Raises:
      TypeError: a path or name that is not a string, counts that are not integers.
      ValueError: a missing checkpoint, or no such table in it; a table with more classes, another
        D, a rank other than 2 or a dtype that is not floating; counts of another shape or below 0;
        no counts for a table that has some here. The message lists what the checkpoint holds.
      tf.errors.OpError: at run time, for a checkpoint that cannot be read.

    Examples:
      >>> import os, tempfile
      >>> old = tf.get_variable("centers", initializer=[[1.0, 2.0], [3.0, 4.0]])
      >>> sess = tf.Session()
      >>> sess.run(old.initializer)
      >>> path = tf.train.Saver([old]).save(sess, os.path.join(tempfile.mkdtemp(), "model"))
      >>> centers = create_embed_centers(num_classes=3, num_dims=2)
      >>> warm_start = warm_start_embed_centers(path, centers, "centers", counts=100)
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(warm_start)
      >>> sess.run(centers.ctrs)
      array([[1., 2.],
             [3., 4.],
             [0., 0.]], dtype=float32)
      >>> sess.run(centers.counts)
      array([100, 100,   0])
    """
    caller = "warm_start_embed_centers"
    with tf.name_scope(name, caller):
        table = find_table(caller, centers)
        saved = _Saved(caller, checkpoint)
        ctrs_name = table.name if ctrs_name is None else ctrs_name
        num_classes, ctrs_dtype = saved.check_ctrs(ctrs_name, table)
        tensors = [(ctrs_name, [num_classes, table.shape[1]], ctrs_dtype)]
        given = None
        if counts is not None:
            given = arguments.as_row_counts(caller, "counts", counts, num_classes)
            table = find_table(caller, centers, needs_counts=True)
        note_counts(caller, table)
        if table.has_counts:
            counts_dtype = saved.check_counts(counts_name(ctrs_name), num_classes)
            if counts_dtype is not None:
                tensors.append((counts_name(ctrs_name), [num_classes], counts_dtype))
                given = None
            elif given is None:
                raise ValueError(
                    f"{caller}: {saved.path} has no {counts_name(ctrs_name)}, and {table.name} has "
                    "counts here; pass counts=, how many rows each of its centers stands for (with "
                    f"1 or more, a class counts as seen). {saved.contents()}"
                )
        writes: List[Any] = []
        shards = [
            (shard, start, min(stop, num_classes))
            for copy in table.copies
            for shard, start, stop in zip(copy, table.starts, table.starts[1:])
            if start < num_classes
        ]
        for shard, start, stop in shards:
            with tf.control_dependencies(writes):
                with on_machine_of(shard.ctrs):
                    values = _restore(saved.path, tensors, start, stop)
                    if given is not None:
                        part = given if given.ndim == 0 else given[start:stop]
                        values.append(tf.broadcast_to(tf.constant(part), [stop - start]))
                # Both are read before either is written.
                with tf.control_dependencies(values):
                    writes += [write_first_rows(v, rows) for v, rows in zip(shard, values)]
        return tf.group(*writes)


class _Saved:
    """What a checkpoint holds, without its values."""

    def __init__(self, caller: str, path: Any) -> None:
        self.caller = caller
        try:
            path = os.fsdecode(path)
        except TypeError as error:
            raise TypeError(f"{caller}: checkpoint must be a path, got {path!r}") from error
        self.path = (tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path) or path
        try:
            reader = tf.train.load_checkpoint(self.path)
        except (ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"{caller}: checkpoint must be the path of a TensorFlow checkpoint, or of a folder "
                f"that holds one, got {path}: {str(error).splitlines()[0]}"
            ) from error
        self._shapes = reader.get_variable_to_shape_map()
        self._dtypes = reader.get_variable_to_dtype_map()

    def check_ctrs(self, name: Any, table: Table) -> Tuple[int, tf.DType]:
        """Checks the table of this name; returns its number of classes and its dtype."""
        if not isinstance(name, str):
            raise TypeError(f"{self.caller}: ctrs_name must be a string or None, got {name!r}")
        num_classes, num_dims = table.shape
        wanted = f"at most [{num_classes}, {num_dims}] of a floating dtype for {table.name}"
        if name not in self._shapes:
            raise ValueError(
                f"{self.caller}: expected a table {name} of {wanted}, found none of this name in "
                f"{self.path}. {self.contents()}"
            )
        shape, dtype = self._shapes[name], tf.as_dtype(self._dtypes[name])
        fits = len(shape) == 2 and shape[0] <= num_classes and shape[1] == num_dims
        if not fits or not dtype.is_floating:
            raise ValueError(
                f"{self.caller}: expected a table of {wanted}, found {self._describe(name)} in "
                f"{self.path}. {self.contents()}"
            )
        return shape[0], dtype

    def check_counts(self, name: str, num_classes: int) -> Optional[tf.DType]:
        """Checks the counts of this name; returns their dtype, or None where there are none."""
        if name not in self._shapes:
            return None
        dtype = tf.as_dtype(self._dtypes[name])
        if self._shapes[name] != [num_classes] or not dtype.is_integer:
            raise ValueError(
                f"{self.caller}: expected counts of shape [{num_classes}] and an integer dtype, "
                f"found {self._describe(name)} in {self.path}. {self.contents()}"
            )
        return dtype

    def contents(self) -> str:
        """A sentence for messages; what might be a table comes first."""
        names = sorted(self._shapes, key=lambda name: (len(self._shapes[name]) != 2, name))
        listed = ", ".join(self._describe(name) for name in names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"It holds {listed or 'nothing'}{more}"

    def _describe(self, name: str) -> str:
        return f"{name} {self._shapes[name]} {tf.as_dtype(self._dtypes[name]).name}"


def _restore(
    path: str, tensors: List[Tuple[str, List[int], tf.DType]], start: int, stop: int
) -> List[tf.Tensor]:
    """Reads rows [start, stop) of tensors of a checkpoint."""
    slices = []
    for _, shape, dtype in tensors:
        # TensorFlow cannot read a part of a float16 tensor.
        if stop - start == shape[0] or dtype == tf.float16:
            slices.append("")  # All of it, in TensorFlow's notation: read without a copy.
        else:
            sizes = " ".join(str(size) for size in shape)
            slices.append(f"{sizes} {start},{stop - start}" + ":-" * (len(shape) - 1))
    with on_host():
        values: List[tf.Tensor] = tf.raw_ops.RestoreV2(
            prefix=path,
            tensor_names=[name for name, _, _ in tensors],
            shape_and_slices=slices,
            dtypes=[dtype for _, _, dtype in tensors],
        )
    rows = []
    for value, (_, shape, dtype) in zip(values, tensors):
        value = value[start:stop] if dtype == tf.float16 else value
        if not tf.executing_eagerly():
            value.set_shape([stop - start] + shape[1:])
        rows.append(value)
    return rows
