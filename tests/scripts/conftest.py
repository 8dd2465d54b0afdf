"""Fixtures: a small data set, and runs of the training script on it."""

import os

import pytest
from idx_files import write_folder

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_program.py")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """40 images of 3 classes to train on, 6 to test on."""
    folder = str(tmp_path_factory.mktemp("data"))
    write_folder(folder)
    return folder


@pytest.fixture(scope="session")
def train(start):
    """Starts the training script: `train(*flags)`; it may have to pause: `pause_at="0,40"`."""
    return lambda *flags, pause_at=None: start(PROGRAM, str(pause_at), *flags, listens=True)


@pytest.fixture(scope="session")
def small(data_dir):
    """Flags of a run of seconds."""
    return [f"--data_dir={data_dir}", "--batch_size=8", "--embed_dims=3", "--eval_every=50"]
