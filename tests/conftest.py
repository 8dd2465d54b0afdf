"""Fixtures: both kinds of variables, a fresh graph for every test."""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from programs import Run  # noqa: E402

tf.logging.set_verbosity(tf.logging.ERROR)


@pytest.fixture(params=["ref", "resource"])
def use_resource(request):
    """Runs a test once for each kind of variable."""
    return request.param == "resource"


@pytest.fixture(params=["control flow v1", "control flow v2"])
def control_flow(request):
    """Runs a test under the control flow of `disable_v2_behavior()` and under that of TF2."""
    was_v2 = tf.control_flow_v2_enabled()
    (tf.enable_control_flow_v2 if request.param.endswith("v2") else tf.disable_control_flow_v2)()
    yield request.param
    (tf.enable_control_flow_v2 if was_v2 else tf.disable_control_flow_v2)()


@pytest.fixture
def enterable(use_resource, control_flow):
    """The kind of variable, where it may enter the control flow at all."""
    if not use_resource and control_flow.endswith("v2"):
        pytest.skip("TensorFlow refuses ref variables in its new control flow")
    return use_resource


@pytest.fixture(autouse=True)
def graph(request):
    """A graph of its own for every test, but for those marked `eager`."""
    if request.node.get_closest_marker("eager"):
        yield None
        return
    with tf.Graph().as_default() as graph:
        yield graph


class Session(tf.Session):
    """A session that initializes every variable, and finalizes its graph, before its first step."""

    is_new = True

    def run(self, *args, **kwargs):
        if self.is_new:
            self.is_new = False
            with self.graph.as_default():
                super().run(tf.global_variables_initializer())
            self.graph.finalize()
        return super().run(*args, **kwargs)


@pytest.fixture
def session(graph):
    """Runs the graph of the test, once it is built."""
    with Session() as session:
        yield session


@pytest.fixture(scope="session")
def start():
    """Starts a program, and returns its `Run`: `start(script, *arguments)`."""
    runs = []

    def start_run(*command, **how):
        runs.append(Run(*command, **how))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()


@pytest.fixture
def warnings():
    """What TensorFlow's logger is given, as texts."""
    texts = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield texts
    logger.setLevel(level)
    logger.removeHandler(handler)
