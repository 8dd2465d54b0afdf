"""The version, in a module that needs no TensorFlow, so that `setup.py` can read it."""

__version__ = "0.3.0"
