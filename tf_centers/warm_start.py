"""Centers from a checkpoint: of other code, with fewer classes or another number of shards."""

import os
from typing import Any, Dict, List, Optional, Union

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import on_host, on_machine_of, write_first_rows
from tf_centers.typing import CentersLike, TensorLike
from tf_centers.variables import counts_name, find_table

_LISTED = 20  # tensors of a checkpoint, in a message


@arguments.no_autograph
def warm_start_embed_centers(
    checkpoint: Union[str, bytes, "os.PathLike[str]"],
    centers: CentersLike = "embed",
    ctrs_name: Optional[str] = None,
    counts: Optional[TensorLike] = None,
    name: Optional[str] = None,
) -> Optional[tf.Operation]:
    """Returns an op that reads the centers of a checkpoint into the first classes of the table.

    Run it once, after the initializers. The checkpoint may come from other code, have fewer classes
    or another floating dtype, and be saved whole or in any number of shards. Classes that are not
    in it keep their initial value. Shards are read one after the other, each on its own machine.
    What was read is in memory beside the table; if the checkpoint fills the whole table, do not run
    its initializer, and the table takes over that memory.

    Args:
      checkpoint: path of a TensorFlow checkpoint, or of a folder for the newest one in it.
      centers: as in `get_embed_centers`.
      ctrs_name: the name of the table in the checkpoint; None if it is the same as here.
      counts: how many rows each center of the checkpoint stands for, an integer that is at least 0
        or integers `[C_old]`. Only used if the checkpoint has no `<ctrs_name>_count`.
      name: name of the scope of the ops.

    Returns:
      A `tf.Operation`; None in eager execution, where it is already done.

    Raises:
      TypeError: a path or name that is not a string, counts that are not integers.
      ValueError: no checkpoint; no such table in it, or one with more classes, another D or no
        floating dtype; counts of another shape or below 0, or none for a table with counts here.
      tf.errors.OpError: at run time, for a checkpoint that cannot be read.

    Examples:
      >>> import tempfile
      >>> old = tf.get_variable("centers", initializer=[[1.0], [2.0]])
      >>> sess = tf.Session()
      >>> sess.run(old.initializer)
      >>> path = tf.train.Saver([old]).save(sess, tempfile.mkdtemp() + "/model")
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> warm_start = warm_start_embed_centers(path, centers, "centers", counts=100)
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(warm_start)
      >>> sess.run(centers.ctrs)[:, 0]
      array([1., 2., 0.], dtype=float32)
      >>> sess.run(centers.counts)
      array([100, 100,   0])
    """
    caller = "warm_start_embed_centers"
    with tf.name_scope(name, caller):
        table = find_table(caller, centers, counts="ignore")
        saved = _Checkpoint(caller, checkpoint)
        ctrs_name = table.name if ctrs_name is None else ctrs_name
        if not isinstance(ctrs_name, str):
            raise TypeError(f"{caller}: ctrs_name must be a string or None, got {ctrs_name!r}")
        shape, dtype = saved.shapes.get(ctrs_name, []), saved.dtypes.get(ctrs_name)
        fits = shape[1:] == table.shape[1:] and shape[:1] <= table.shape[:1]
        if dtype is None or not dtype.is_floating or not fits:
            form = f"of at most {table.shape} of a floating dtype"
            raise saved.error(f"a table {ctrs_name} {form} for {table.name}", ctrs_name)
        if dtype == tf.float16 and not saved.is_whole(ctrs_name):
            form = "that was saved whole, or in another dtype, since TensorFlow reads only that"
            raise saved.error(f"a float16 table {form}", ctrs_name)
        num_classes, names, given = shape[0], [ctrs_name], None
        if counts is not None:
            given = arguments.as_row_counts(caller, "counts", counts, num_classes)
        # Only now, so that an error above makes no counts.
        table = find_table(caller, centers, "existing" if counts is None else tf.int64)
        count_name = counts_name(ctrs_name)
        if table.has_counts and count_name in saved.shapes:
            fits = saved.dtypes[count_name].is_integer or (
                saved.dtypes[count_name] == table.shards[0].counts.dtype.base_dtype
            )
            if saved.shapes[count_name] != [num_classes] or not fits:
                form = f"of shape [{num_classes}] and an integer dtype"
                raise saved.error(f"counts {form}", count_name)
            names, given = [ctrs_name, count_name], None
        elif table.has_counts and given is None:
            raise ValueError(
                f"{caller}: {saved.path} has no {count_name}, and {table.name} has counts here; "
                "pass counts=, how many rows each of its centers stands for (with 1 or more, a "
                f"class counts as seen). {saved.contents()}"
            )
        writes: List[Any] = []
        for copy in table.copies:
            for shard, start, stop in zip(copy, table.starts, table.starts[1:]):
                stop = min(stop, num_classes)
                if start >= stop:
                    break
                with tf.control_dependencies(writes), on_machine_of(shard.ctrs):
                    values = saved.read(names, start, stop)
                    if given is not None:
                        part = given if given.ndim == 0 else given[start:stop]
                        values.append(tf.broadcast_to(tf.constant(part), [stop - start]))
                    # Both are read before either is written.
                    with tf.control_dependencies(values):
                        writes += [write_first_rows(v, rows) for v, rows in zip(shard, values)]
        return tf.group(*writes)


class _Checkpoint:
    """The names, shapes and dtypes of the tensors in a checkpoint, and how to read them."""

    def __init__(self, caller: str, path: Any) -> None:
        self._caller = caller
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise TypeError(f"{caller}: checkpoint must be a path, got {path!r}")
        path = os.fsdecode(path)
        self.path = (tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path) or path
        try:
            self._reader = reader = tf.train.load_checkpoint(self.path)
        except (ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"{caller}: checkpoint must be the path of a TensorFlow checkpoint, or of a folder "
                f"that holds one, got {path}: {str(error).splitlines()[0]}"
            ) from error
        self.shapes: Dict[str, List[int]] = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        self.dtypes = {name: tf.as_dtype(dtypes[name]) for name in self.shapes}
        self._forms = {n: f"{n} {s} {self.dtypes[n].name}" for n, s in self.shapes.items()}

    def error(self, expected: str, name: str) -> ValueError:
        """What to raise if the tensor of this name is not as expected, or missing."""
        found = f"{self._forms.get(name, 'none')} in {self.path}"
        return ValueError(f"{self._caller}: expected {expected}, found {found}. {self.contents()}")

    def is_whole(self, name: str) -> bool:
        """Whether a float16 tensor was saved in one piece."""
        try:
            return self._reader.get_tensor(name) is not None
        except (ValueError, tf.errors.OpError):
            return False

    def contents(self) -> str:
        """A sentence for messages; what might be a table comes first."""
        names = sorted(self.shapes, key=lambda name: (len(self.shapes[name]) != 2, name))
        listed = ", ".join(self._forms[name] for name in names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"It holds {listed or 'nothing'}{more}"

    def read(self, names: List[str], start: int, stop: int) -> List[tf.Tensor]:
        """Reads rows [start, stop) of tensors."""
        slices, dtypes = [], [self.dtypes[name] for name in names]
        for name, dtype in zip(names, dtypes):
            shape = self.shapes[name]
            part = " ".join(map(str, shape)) + f" {start},{stop - start}" + ":-" * len(shape[1:])
            # An empty part is all, read without a copy. TensorFlow cannot read a part of a float16.
            slices.append("" if dtype == tf.float16 or shape[0] == stop - start else part)
        with on_host():
            values: List[tf.Tensor] = tf.raw_ops.RestoreV2(
                prefix=self.path, tensor_names=names, shape_and_slices=slices, dtypes=dtypes
            )
        values = [v[start:stop] if v.dtype == tf.float16 else v for v in values]
        for name, value in zip(names, values):
            value.set_shape([stop - start] + self.shapes[name][1:])
        return values
