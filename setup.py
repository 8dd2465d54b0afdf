"""Packaging of tf_centers."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).resolve().parent

_VERSION = {}
exec((_HERE / "tf_centers" / "version.py").read_text(encoding="utf-8"), _VERSION)

# A package index shows the README alone, so links to other files become plain text.
_README = re.sub(
    r"\[([^\]]+)\]\((?!https?://)[^)]+\)",
    r"\1",
    (_HERE / "README.md").read_text(encoding="utf-8"),
)

# Newer TensorFlow comes without TensorBoard.
_TRAIN = ["absl-py", "filelock", "matplotlib", "mlxtend", "tensorboard", "tqdm"]

setuptools.setup(
    name="tf_centers",
    version=_VERSION["__version__"],
    description="Running averages of labeled embeddings as TensorFlow graph ops",
    long_description=_README,
    long_description_content_type="text/markdown",
    author="The tf_centers authors",
    license="Apache-2.0",
    keywords="tensorflow, center loss, embeddings, running average, metric learning",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=["tf_centers"],
    package_data={"tf_centers": ["py.typed"]},
    python_requires=">=3.7",
    # Not TensorFlow: it goes by several names, and pip would install one build over another.
    install_requires=["numpy"],
    extras_require={
        "tensorflow": ["tensorflow>=1.15"],
        "cpu": ["tensorflow-cpu>=1.15"],
        "train": _TRAIN,
        "tutorial": _TRAIN + ["notebook"],
        "test": _TRAIN + ["hypothesis", "pytest", "pytest-xdist"],
        "docs": [
            "linkchecker==10.6.0",
            "mkdocs==1.6.1",
            "mkdocs-jupyter==0.26.3",
            "mkdocs-material==9.8.2",
            "mkdocstrings-python==2.0.11",
            "ruff==0.17.6",  # formats signatures
        ],
        "lint": ["mypy==2.4.1", "pre-commit==4.7.0", "ruff==0.17.6"],
    },
    zip_safe=False,
)
