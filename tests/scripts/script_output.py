"""What the training script says, apart from what TensorFlow does."""

import re

# What TensorFlow 2 prints when it is imported.
NOTICES = re.compile(r"^(WARNING: All log messages before|[IWE]\d{4} .*\n?).*\n?", re.MULTILINE)


def told(output):
    """The lines of the script's own in its output."""
    lines = NOTICES.sub("", output).splitlines()
    return [line for line in lines if line.startswith("train_mnist.py: ")]
