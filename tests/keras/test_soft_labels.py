"""The Keras layer takes one-hot labels, and nothing that looks like them."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import C, D
from tensorflow import keras

from tf_centers.keras import ComputeCenter

pytestmark = pytest.mark.eager
HOT = np.eye(C)[[1, 3]]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(
    "row",
    [
        [0.1, 0.9, 0, 0, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 2, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, -1],
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["train", "test"])
def test_soft_labels(how, row, dtype):
    row = np.array(row)
    if dtype == "int64" and (row % 1).any():
        pytest.skip("not whole")
    labels, embeds = keras.Input([C], dtype=dtype), keras.Input([D])
    layer = ComputeCenter(C)
    model = keras.Model([labels, embeds], layer([labels, embeds]))
    model.compile("sgd")
    call = model.train_on_batch if how == "train" else model.test_on_batch
    before = [value.tobytes() for value in layer.get_weights()]
    batch = np.stack([HOT[0], row]).astype(dtype), np.ones([2, D], np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one-hot"):
        call(list(batch))
    assert [value.tobytes() for value in layer.get_weights()] == before
    call([HOT.astype(dtype), batch[1]])
