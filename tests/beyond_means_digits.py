"""What the blocks of docs/beyond_means.md do to digits.

  python tests/beyond_means_digits.py

Prints the figures of that page and draws its pictures.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from documents import BEYOND, define, python_blocks  # noqa: E402
from mnist.data import load_digits  # noqa: E402

import tf_centers  # noqa: E402

FOUND = define(python_blocks(BEYOND.read_text(encoding="utf-8")))
DIGITS = load_digits("")
TRAIN = DIGITS.train_images.reshape(-1, 784) / 255.0
TEST = DIGITS.test_images.reshape(-1, 784) / 255.0
CODES, DIMS = 64, 16


def train_codebook(seed, restarts, steps=400):
    """Trains a small autoencoder with a codebook.

    Returns the share of codes used, the error as a share of the variance, and the codes as images.
    """
    random = np.random.RandomState(seed)
    with tf.Graph().as_default():
        tf.set_random_seed(seed)
        images, codes = tf.placeholder(tf.float32, [None, 784]), FOUND["create_codes"](CODES, DIMS)

        def two_layers(rows, sizes, scope):
            with tf.variable_scope(scope, reuse=tf.AUTO_REUSE):
                one = tf.get_variable("one", sizes[:2])
                return tf.matmul(
                    tf.nn.relu(tf.matmul(rows, one)), tf.get_variable("two", sizes[1:])
                )

        embeds = two_layers(images, [784, 128, DIMS], "encode")
        passed, off, labels = FOUND["quantize"](embeds, codes)
        decoded = tf.nn.sigmoid(two_layers(passed, [DIMS, 128, 784], "decode"))
        error = tf.reduce_mean(tf.reduce_sum(tf.squared_difference(images, decoded), axis=1))
        train = tf.train.AdamOptimizer(0.002).minimize(error + 0.5 * tf.reduce_mean(off))
        restart = FOUND["restart_unused"](embeds, codes)
        nearest = tf_centers.nearest_centers(embeds, codes).labels[:, 0]
        drawn = tf.nn.sigmoid(two_layers(codes.ctrs, [DIMS, 128, 784], "decode"))
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for step in range(steps):
                feed = {images: TRAIN[random.randint(0, len(TRAIN), 128)]}
                session.run(train, feed)
                if restarts and step % 20 == 19 and step < steps - 100:
                    session.run(restart, feed)
            own, pictures = session.run([nearest, drawn], {images: TEST})
    lost = ((TEST - pictures[own]) ** 2).sum() / ((TEST - TRAIN.mean(axis=0)) ** 2).sum()
    return len(set(own)) / CODES, lost, pictures.reshape(-1, 28, 28)


def project(num_dims):
    """The digits on their first principal axes, scaled to unit variance on the whole."""
    mean = TRAIN.mean(axis=0)
    axes = np.linalg.svd(TRAIN - mean, full_matrices=False)[2][:num_dims].T
    scale = np.sqrt(((TRAIN - mean).dot(axes) ** 2).mean())
    return [(part - mean).dot(axes) / scale for part in (TRAIN, TEST)]


def fit(rows, labels, tied):
    """Means and covariances of rows that come in batches, in float64 tables."""
    dims = rows.shape[1]
    means = tf_centers.create_embed_centers(10, dims, "means", tf.float64)
    second = tf_centers.create_embed_centers(1 if tied else 10, dims**2, "second", tf.float64)
    batch = tf.placeholder(tf.float64, [None, dims]), tf.placeholder(tf.int64, [None])
    mean = tf_centers.CumulativeMean()
    update = FOUND["update_covariances"](*batch, means, second, mean, tied)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    order = np.random.RandomState(0).permutation(len(rows))
    for part in np.array_split(order, 30):
        session.run(update, dict(zip(batch, (rows[part], labels[part]))))
    return session, means, second


def unknown_found(num_known=5, num_dims=20):
    """How often a digit of an unknown class is farther than one of a known class.

    By the Mahalanobis and by the Euclidean distance to the nearest known class.
    """
    train, test = project(num_dims)
    known = DIGITS.train_labels < num_known
    with tf.Graph().as_default():
        session, means, tied = fit(train[known], DIGITS.train_labels[known], True)
        rows = tf.constant(test)
        squares = FOUND["mahalanobis"](rows, means, tied, num_known)
        plain = tf_centers.center_distances(rows, means)[:, :num_known]
        scores = session.run([tf.reduce_min(squares, 1), tf.reduce_min(plain, 1)])
    new = DIGITS.test_labels >= num_known
    return [np.mean(score[new][:, None] > score[~new]) for score in scores]


def draw():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pictures = train_codebook(3, True)[2]
    grid = pictures.reshape(4, 16, 28, 28).transpose(0, 2, 1, 3).reshape(4 * 28, 16 * 28)
    figure = plt.figure(figsize=(6.4, 1.6))
    plt.axes([0, 0, 1, 1]).imshow(grid, cmap="gray_r")
    plt.axis("off")
    figure.savefig(str(ROOT / "docs" / "codebook.png"), dpi=70)

    train, _ = project(2)
    with tf.Graph().as_default():
        session, means, second = fit(train, DIGITS.train_labels, False)
        ctrs, covariances = session.run([means.ctrs, second.ctrs])
    figure, axes = plt.subplots(figsize=(5, 3.5))
    circle = np.stack([f(np.linspace(0, 2 * np.pi, 100)) for f in (np.cos, np.sin)])
    for label in (0, 1, 3, 4, 6):
        rows = train[DIGITS.train_labels == label][:120]
        color = plt.cm.tab10(label)
        axes.scatter(rows[:, 0], rows[:, 1], s=3, color=color, alpha=0.4)
        ellipse = np.linalg.cholesky(covariances[label].reshape(2, 2)).dot(circle)
        axes.plot(*(ctrs[label][:, None] + ellipse), color=color)
        axes.text(*ctrs[label], str(label), color=color, weight="bold", size=14, ha="center")
    axes.set_axis_off()
    figure.tight_layout()
    figure.savefig(str(ROOT / "docs" / "ellipses.png"), dpi=80)


def main():
    print("TensorFlow", tf.__version__)
    for restarts in (False, True):
        print("codebook, restarts:", restarts, [train_codebook(s, restarts)[:2] for s in range(4)])
    print("unknown:", unknown_found())
    draw()


if __name__ == "__main__":
    main()
