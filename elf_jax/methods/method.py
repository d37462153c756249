"""What a way of modelling text offers to everything else.

Trainer, sampler, evaluation, weights and compile report know a model only through `Method`. A new
way of modelling text is a new class with these members, and one line in `registry.py`.
"""

from typing import Protocol

import flax.struct
import jax


@flax.struct.dataclass
class Context:
    """What a loss may depend on besides the parameters and the rows.

    Attributes:
      key: JAX key of this step.
      step: int32 scalar, finished steps.
      ema: the averaged parameters, or None where there is no average.
    """

    key: jax.Array
    step: jax.Array
    ema: dict | None = None


class Method(Protocol):
    """A way of modelling text: a frozen dataclass without arrays.

    B batch, L length. `params` are trained. `frozen` is what is not trained (an encoder, a
    teacher): a dict of trees of arrays, which every call gets again, so that `jax.jit` takes it as
    an argument.

    Attributes:
      name: as in config.method. tags: of a model card.
      vocab_size: V. dtype: of the computation; parameters are float32.
      curves: {metric of training: its title with units}, what the picture of the losses shows.
      shown: {metric of training: short name}, what the progress bar shows.
      settings: {key of config.sample that the sampler reads: short name}. The keys stand in the
        order in which a sweep goes through them: of those at the front another value is compiled
        anew.
      traced: those of `settings` that are arguments of the sampler: other values compile nothing.
      scales: {key of `settings`: its title}, the guidance scales. Along a line of a frontier the
        last of them changes.
      sizes: ((path of a parameter, axis, config key), ...): parameters whose size one key sets.
    """

    name: str
    tags: tuple[str, ...]
    vocab_size: int
    dtype: jax.typing.DTypeLike
    curves: dict[str, str]
    shown: dict[str, str]
    settings: dict[str, str]
    traced: tuple[str, ...]
    scales: dict[str, str]
    sizes: tuple[tuple[str, int, str], ...]

    def init(self, key, length):
        """Fresh float32 parameters from a JAX key, for rows of `length` positions."""

    def loss(self, params, frozen, batch, counted, ids, context):
        """The loss of the rows of a batch, summed.

        Args:
          batch: a `Batch`. counted: [B, L] bool, the positions that count.
          ids: [B] integers that name the rows, for their random draws. context: a `Context`.

        Returns:
          (sum over the counted positions, {name: sum}): all add up over micro-batches and devices.
        """

    def metrics(self, loss, sums, positions):
        """{metric: value} of training: "loss", and what it is made of.

        Args:
          loss: mean over the positions. sums: those of `loss`. positions: how many counted.
        """

    def sampler(self, settings, length):
        """The function (params, frozen, ids [B], given, key, scales) -> tokens [B, L] int32.

        Args:
          settings: config section `sample`. length: L.

        `ids` name the samples: sample i depends on the key and on its id alone. `given` is a
        `Batch` whose `is_cond` marks tokens that stay as they are, or None. `scales` is
        {key: scalar} of the settings in `traced`.
        """

    def effective(self, settings):
        """{key: value} of the settings that make a difference to the samples."""

    def compiled_for(self, settings):
        """Tuple of what one compiled sampler depends on: equal tuples share it."""

    def constants(self):
        """{name: value} of the constants of training that samples depend on too."""

    def loss_settings(self):
        """{name: value} of the settings that the loss depends on."""

    def meaning(self):
        """{config key: value} of what the parameters were trained with and no shape shows."""

    def save_frozen(self, frozen, directory):
        """Keeps in `directory` what was made from the training data; what is there stays."""

    def export_frozen(self, frozen, config, directory):
        """Like `save_frozen`, and with copies of pretrained models that lie on this disk.

        Returns:
          The config, with paths relative to `directory` where something was copied there.
        """

    def from_published(self, flat):
        """Parameters from those of the published implementation, {"a/b/c": array}.

        Raises:
          KeyError: a name that the published network does not have.
        """

    def described(self, config):
        """{name: text} of what a model card says of a model: its rows, and "summary"."""
