"""A batch in parts, one after the other, so that memory and caches are used again."""

import contextlib
from typing import Any, Callable, List, Sequence

import tensorflow.compat.v1 as tf

from tf_centers.checks import on_host
from tf_centers.grouping import not_folded

# Elements of a part of the batch: of float32, malloc takes 96 kB from memory that it has already.
_PART_SIZE = 24 * 1024
_MOST_PARTS = 64


def count_parts(embeds: tf.Tensor, usual_rows: int) -> int:
    """How many parts embeddings `[B, D]` are worth; B is `usual_rows` where it is not known yet."""
    rows, dims = embeds.shape.as_list()
    elements = (usual_rows if rows is None else rows) * dims
    return int(min(max(1, elements // _PART_SIZE), _MOST_PARTS))


def share(size: tf.Tensor, parts: int) -> tf.Tensor:
    """The sizes of so many parts of `size` rows, as even as they can be; `[parts]`."""
    sizes = size // parts + tf.cast(tf.range(parts, dtype=size.dtype) < size % parts, size.dtype)
    return not_folded(sizes)


def split_rows(tensor: tf.Tensor, sizes: Any, parts: int) -> List[tf.Tensor]:
    """Splits the rows of a tensor into so many parts; where aligned, they share its memory."""
    with on_host() if tensor.dtype.is_integer else contextlib.nullcontext():
        return list(tf.split(tensor, sizes, num=parts))


def write_in_turns(ready: Any, writers: Sequence[Callable[[], Any]]) -> List[Any]:
    """Has each of the writers make its write, all of them to run after `ready`."""
    writes = [ready, ready]
    for write in writers:
        # Two at a time: what one leaves in the cache and in the allocator serves another.
        with tf.control_dependencies([writes[-2]]):
            writes.append(write())
    return writes[2:]
