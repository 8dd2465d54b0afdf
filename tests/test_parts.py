"""A batch in parts."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from tf_centers import parts


@pytest.mark.parametrize("size, number", [(0, 1), (0, 3), (1, 3), (7, 3), (9, 3), (64, 64), (5, 1)])
def test_parts_share_all_rows_evenly(size, number):
    sizes = parts.share(tf.constant(size), number)
    assert sizes.shape.as_list() == [number]
    rows = tf.constant(np.arange(2.0 * size).reshape(size, 2))
    split = parts.split_rows(rows, sizes, number)
    with tf.Session() as session:
        sizes, split, rows = session.run([sizes, split, rows])
    assert sizes.sum() == size
    assert sizes.max() - sizes.min() <= 1
    assert [len(part) for part in split] == sizes.tolist()
    np.testing.assert_array_equal(np.concatenate(split), rows)


@pytest.mark.parametrize(
    "rows, dims, number",
    [(256, 128, 1), (1024, 128, 5), (None, 128, 2), (4096, 512, 64), (0, 512, 1), (1, 10**6, 40)],
)
def test_the_larger_a_batch_the_more_parts(rows, dims, number):
    embeds = tf.placeholder(tf.float32, [rows, dims])
    assert parts.count_parts(embeds, usual_rows=400) == number
    if rows is None:
        assert parts.count_parts(embeds, usual_rows=0) == 1


def test_a_part_waits_for_the_one_before_the_last():
    ready = tf.no_op("ready")
    writes = parts.write_in_turns(ready, [lambda: tf.constant(1.0).op] * 4)
    waits = [write.control_inputs for write in writes]
    assert waits == [[ready], [ready], [writes[0]], [writes[1]]]
