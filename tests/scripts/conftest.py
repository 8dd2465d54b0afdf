"""Fixtures: a small data set, and runs of the training script on it."""

import pytest
from idx_files import write_folder
from script_runs import Starter


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """40 images of 3 classes to train on, 6 to test on."""
    folder = str(tmp_path_factory.mktemp("data"))
    write_folder(folder)
    return folder


@pytest.fixture(scope="session")
def starter(tmp_path_factory):
    starter = Starter(tmp_path_factory.mktemp("runs"))
    yield starter
    starter.close()


@pytest.fixture
def small(data_dir):
    """Flags of a run of seconds."""
    return [f"--data_dir={data_dir}", "--batch_size=8", "--embed_dims=3", "--eval_every=50"]
