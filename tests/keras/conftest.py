"""What a test of Keras leaves as it was."""

import pytest
from keras_models import IN_KERAS3, IN_TF2
from tensorflow import keras


@pytest.fixture
def set_policy():
    """Sets the policy of dtypes for one test."""
    policies = keras.config if IN_KERAS3 else keras.mixed_precision
    name = "set_dtype_policy" if IN_KERAS3 else "set_global_policy"
    yield getattr(policies, name, None)
    if IN_TF2:
        getattr(policies, name)("float32")


@pytest.fixture(autouse=True)
def fresh_keras():
    yield
    if not IN_TF2:
        keras.backend.clear_session()
