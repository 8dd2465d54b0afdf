"""The centers as a Keras layer. Importing it imports Keras, unlike `import tf_centers`."""

from typing import Any, Dict, Optional

import tensorflow.compat.v1 as tf
from tensorflow import Variable, keras

from tf_centers import arguments, keras_arguments, keras_replicas, replicas
from tf_centers.access import on_tf2_server
from tf_centers.batch import check_batch
from tf_centers.checks import Checks
from tf_centers.distances import center_loss
from tf_centers.keras_arguments import CALLER
from tf_centers.ops import counts_for, update_or_look_up
from tf_centers.row_weights import Updater
from tf_centers.tables import EmbedCenters
from tf_centers.typing import KerasLike, LossWeight
from tf_centers.updaters import as_updater
from tf_centers.variables import find_table, unwrap

__all__ = ["ComputeCenter"]


class ComputeCenter(keras.layers.Layer):  # type: ignore[misc]
    """Center loss as a layer: `ComputeCenter(num_classes)([labels, embeddings])`.

    Returns `0.5 * ||x - c||^2` for each row, and adds `weight` times their mean to the losses of
    the model: eq. (5) of Wen et al., "A Discriminative Feature Learning Approach for Deep Face
    Recognition", ECCV 2016, with the mean over the batch instead of the sum. In training it also
    updates the centers, and uses them as they were before, as in the paper. Otherwise, or if
    `trainable` is False, it only looks them up. No gradient reaches the centers.

    A functional model only contains what its outputs need, so make the distances an output, with
    `None` as its loss. `ctrs [C, D]` and `counts [C]`, the rows seen of each class, are saved as
    non-trainable weights; `set_weights([ctrs, counts])` starts from an existing table, and
    `EmbedCenters(layer.ctrs, layer.counts)` is the table for every other call. The centers are
    float64 with `dtype="float64"`, else float32, even under half or mixed precision.

    `sample_weight` and `class_weight` do not reach the loss that the layer adds. To weight rows,
    make the distances a loss of `compile` with `lambda y_true, y_pred: y_pred`, and `weight=0`.

    XLA would drop the checks, so Keras 3 runs a model with this layer without XLA, even with
    `jit_compile=True`. Create the layer in the constructor of a subclassed model: if Keras cannot
    see it there, or with `jit_compile=True` in Keras 2, XLA refuses it when the model first runs.

    Args:
      num_classes: Python integer C, at least 1.
      updater: as in `get_embed_centers`. With one of your own, or a tensor as `decay` or `alpha`,
        only the weights of the layer can be saved, not its configuration, which is logged.
      weight: Python float, finite and at least 0, or a scalar variable, such as that of a schedule,
        which is not saved. With 0 the centers are still updated. Cannot be assigned afterwards.
      initializer: Keras initializer of the centers: its name, an instance or a configuration.
      num_dims: Python integer D, or None. Builds the layer in its constructor, which a model whose
        `call` does not reach it needs to be restored.
      constraint: Keras constraint of each center, such as `keras.constraints.UnitNorm(axis=1)`.
      **layer_kwargs: arguments of every layer, such as `name` and `dtype`.

    Call arguments:
      inputs: labels in [0, C), integers or whole floats `[B]` or `[B, 1]`, or one-hot `[B, C]` if
        C is above 1; floating embeddings `[B, D]` with a static D; and, if wanted, a bool mask
        `[B]`. Sequences are labels and mask `[B, T]` with embeddings `[B, T, D]`. A row that is
        False in the mask, or in a mask that Keras passes with the embeddings, has a distance of 0,
        is not part of the mean and changes nothing.
      training: bool, scalar bool tensor, or None to let Keras decide.

    Returns:
      `[B]` or `[B, T]`, in the wider of the dtypes of embeddings and centers.

    Raises:
      TypeError: an argument or input of another type.
      ValueError: a size or weight out of range, an unknown initializer, inputs of other shapes, a
        floating dtype of labels that does not hold all below C exactly, a Keras backend other than
        TensorFlow; in `get_config`, an updater or weight that cannot be saved; on several replicas,
        a mask, a second call in a step, or a Keras 3 before 3.10.
      NotImplementedError: under `stateless_call`.
      tf.errors.InvalidArgumentError: at run time, for a label out of range or not whole, or a row
        that is not one-hot, and in training for a NaN or Inf. Nothing of that batch is written.

    Examples:
      >>> labels, embeds = keras.Input([1], dtype="int64"), keras.Input([2])
      >>> distances = ComputeCenter(10, CumulativeMean())([labels, embeds])
      >>> model = keras.Model([labels, embeds], distances)
      >>> model.compile("sgd")
      >>> batch = [np.array([[7], [7]]), np.array([[1.0, 2.0], [5.0, 2.0]])]
      >>> model.train_on_batch(batch)  # (1 + 4 + 25 + 4) / 4, before the centers move to (3, 2)
      8.5
      >>> model.predict(batch, verbose=0)
      array([2., 2.], dtype=float32)
    """

    def __init__(
        self,
        num_classes: int,
        updater: Optional[Updater] = None,
        weight: LossWeight = 1.0,
        initializer: KerasLike = "zeros",
        num_dims: Optional[int] = None,
        constraint: Optional[KerasLike] = None,
        **layer_kwargs: Any,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            backend = keras.backend.backend()
            raise ValueError(f"{CALLER}: Keras needs the TensorFlow backend, got {backend}")
        # Autocasting would round float labels to half precision.
        super().__init__(autocast=False, **layer_kwargs)
        self.num_classes = arguments.as_size(CALLER, "num_classes", num_classes)
        self.updater = as_updater(CALLER, updater)
        # Past Keras, which would train a variable that it finds among the attributes of a layer.
        object.__setattr__(self, "_weight", keras_arguments.as_loss_weight(weight))
        as_keras = keras_arguments.as_keras
        self.initializer = as_keras("initializer", initializer)
        self.constraint = None if constraint is None else as_keras("constraint", constraint)
        self.supports_jit, self.supports_masking = False, True
        self._turns = keras_replicas.Turns()
        # A layer of TensorFlow 1.15 would take its dtype from the labels.
        is_double = tf.as_dtype(self.dtype or keras.backend.floatx()) == tf.float64
        self._dtype_of_ctrs = "float64" if is_double else "float32"
        self.num_dims = num_dims
        if num_dims is not None:
            self.num_dims = arguments.as_size(CALLER, "num_dims", num_dims)
            self.build([(None,), (None, self.num_dims)])
        keras_arguments.warn_unless_savable(self)

    @property
    def weight(self) -> Any:
        """The weight of the loss, a Python float or a scalar variable."""
        return self._weight

    @weight.setter
    def weight(self, value: Any) -> None:
        raise AttributeError(
            f"{CALLER}: weight cannot be assigned; expected a scalar variable as the argument "
            f"`weight`, to which values are assigned later, got {value!r}"
        )

    def build(self, input_shape: Any) -> None:
        """Creates `ctrs [C, D]` with the initializer, and `counts [C]` with zeros."""
        num_dims = keras_arguments.check_shapes(input_shape, self.num_classes, self.num_dims)
        if hasattr(self, "ctrs"):
            return
        shape = [self.num_classes, num_dims]
        how: Dict[str, Any] = {"trainable": False}
        for parameter, autocast in (("autocast", "autocast"), ("kwargs", "experimental_autocast")):
            if keras_arguments.takes(self.add_weight, parameter):
                how[autocast] = False
        if len(how) == 1 and self.compute_dtype != self.variable_dtype:
            raise NotImplementedError(
                f"{CALLER}: Keras {keras_arguments.VERSION} casts centers to {self.compute_dtype}; "
                f"pass dtype={self.variable_dtype!r}, or use Keras 3.2 or later"
            )
        own = {"initializer": self.initializer, "constraint": self.constraint, **how}
        self.ctrs = self.add_weight(name="ctrs", shape=shape, dtype=self._dtype_of_ctrs, **own)
        dtype = "int64" if self.updater.count_decay is None else "float64"
        own = {"initializer": "zeros", **how}
        self.counts = self.add_weight(name="counts", shape=shape[:1], dtype=dtype, **own)
        super().build(input_shape)

    # Without annotations, which the SavedModel of TensorFlow 1.15 cannot hold.
    def call(self, inputs, training=None, mask=None):  # type: ignore[no-untyped-def]
        """Returns the distances `[B]`; see the class."""
        return self._measure(inputs, training, mask)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the distances, that of the embeddings."""
        return mask[1] if isinstance(mask, (list, tuple)) else mask

    def load_own_variables(self, store: Any) -> None:
        """Loads centers and counts, also into a layer that no call has built yet."""
        if not self.built and len(store):
            self.build([(None,), (None, int(store["0"].shape[1]))])
        super().load_own_variables(store)

    def get_config(self) -> Dict[str, Any]:
        """The arguments for `from_config`, as JSON data."""
        config: Dict[str, Any] = super().get_config()
        config["num_classes"] = self.num_classes
        config["updater"] = keras_arguments.updater_to_config(self.updater)
        config["weight"] = keras_arguments.weight_to_config(self.weight)
        config["initializer"] = keras.initializers.serialize(self.initializer)
        config["num_dims"] = self.num_dims
        config["constraint"] = keras.constraints.serialize(self.constraint)
        return config

    @classmethod
    def from_config(cls, config: Dict[str, Any]) -> "ComputeCenter":
        """Creates a layer from its `get_config`, with new centers."""
        updater = keras_arguments.updater_from_config(config["updater"])
        return super().from_config(dict(config, updater=updater))  # type: ignore[no-any-return]

    @arguments.no_autograph
    def _measure(self, inputs: Any, training: Any, mask: Any) -> tf.Tensor:
        shape = map(int, self.ctrs.shape)
        labels, embeds, mask = keras_arguments.as_batch(inputs, mask, *shape)
        if mask is not None:  # A masked row may hold anything, in its gradient too.
            embeds = tf.where_v2(mask[..., tf.newaxis], embeds, tf.zeros_like(embeds))
        if not _has_variables(self):
            return center_loss(embeds, tf.zeros_like(tf.cast(embeds, self._dtype_of_ctrs)))
        if training is None and hasattr(keras.backend, "learning_phase"):
            # In graphs of Keras 2: what tells `fit` from `evaluate`, a tensor or a number.
            training = keras.backend.learning_phase()
        training = self.trainable and training
        training = tf.cast(training, tf.bool) if tf.is_tensor(training) else bool(training)
        updates = training is not False
        if not updates:
            # XLA has no kernel for this op, so it refuses to compile, rather than drop the checks.
            found = tf.unique_with_counts(tf.reshape(labels, [-1]))
            labels = tf.reshape(tf.gather(found.y, found.idx), tf.shape(labels))
        checks = Checks(f"{CALLER}: inputs [labels, embeddings]")
        instead = "use get_embed_centers with use_locking=True"
        checks.lock_advice = f"call the layer once on the rows of all calls, or {instead}"
        centers = EmbedCenters(self.ctrs, self.counts)
        table = find_table(checks.caller, centers, counts_for(self.updater, updates))
        lock = on_tf2_server(table.shards[0].ctrs)  # which the functions of all workers update
        turns = updates and keras_replicas.takes_turns(checks, table, training)
        batch = check_batch(checks, table, embeds, labels, mask, updates and not turns)
        rows = update_or_look_up(
            checks, table, self.updater, batch, not turns and training, "before", lock
        )
        if turns:
            self._turns.update(checks, table, self.updater, batch)
        distances = center_loss(embeds, tf.stop_gradient(batch.restore(rows)))
        loss = keras_replicas.mean(distances, mask, checks.caller)
        loss *= tf.cast(unwrap(self.weight), loss.dtype)
        # Keras adds up the losses of a model, which must have one dtype.
        loss = tf.cast(loss, keras.backend.floatx())
        # Keras 2 asks whether a loss belongs to these inputs, or to the layer wherever it is used.
        takes_inputs = keras_arguments.takes(self.add_loss, "inputs")
        self.add_loss(loss, **({"inputs": True} if takes_inputs else {}))
        return distances


# Lets a model with this layer be loaded without `custom_objects`.
if hasattr(keras.utils, "register_keras_serializable"):
    keras.utils.register_keras_serializable(package="tf_centers")(ComputeCenter)
else:
    keras.utils.get_custom_objects()["ComputeCenter"] = ComputeCenter


def _has_variables(layer: ComputeCenter) -> bool:
    """Whether the weights of a layer hold variables; not while Keras only asks for shapes.

    Keras 3 may ask before there are variables, and shows a new tensor at each look at the weight;
    under `stateless_call` it shows the one that it was called with.
    """
    ctrs = replicas.copies(unwrap(layer.ctrs))[0]
    if isinstance(ctrs, Variable) or hasattr(ctrs, "variables"):  # as one split among servers has
        return True
    if layer.ctrs.value is layer.ctrs.value:
        raise NotImplementedError(f"{CALLER}: stateless_call is not supported")
    return False
