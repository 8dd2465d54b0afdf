"""Packaging of tf_centers."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).resolve().parent

_VERSION = {}
exec((_HERE / "tf_centers" / "version.py").read_text(encoding="utf-8"), _VERSION)

# Newer TensorFlow comes without TensorBoard.
_TRAIN = ["filelock", "matplotlib", "mlxtend", "tensorboard", "tqdm"]

setuptools.setup(
    name="tf_centers",
    version=_VERSION["__version__"],
    description="Running averages of labeled embeddings as TensorFlow graph ops",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=["tf_centers"],
    package_data={"tf_centers": ["py.typed"]},
    python_requires=">=3.7",
    install_requires=["tensorflow>=1.15", "numpy", "absl-py"],
    extras_require={"train": _TRAIN, "test": _TRAIN + ["hypothesis", "pytest", "pytest-xdist"]},
    zip_safe=False,
)
