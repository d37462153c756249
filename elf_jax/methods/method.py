"""The interface of a method, a way of modelling text.

Trainer, sampler, evaluation, weights and compile report use a model only through `Method`. A new
method is a new class with these members, and one line in `registry.py`.
"""

from typing import Protocol

import flax.struct
import jax


@flax.struct.dataclass
class Context:
    """Further inputs of a loss, besides the parameters and the rows.

    Attributes:
      key: JAX key of this step.
      step: int32 scalar, finished steps.
      ema: the averaged parameters, or None if there is no average.
      rows: number of rows of the whole batch, of all micro-batches. None: there is only one.
      is_training: whether the loss is for a training step. Only there is dropout, also of
        conditions, and a curriculum.
      real: int32 scalar, so many rows at the start are real. The others only fill up the batch, and
        nothing of them counts. None: all are real.
    """

    key: jax.Array
    step: jax.Array
    ema: dict | None = None
    rows: int | None = flax.struct.field(pytree_node=False, default=None)
    is_training: bool = flax.struct.field(pytree_node=False, default=False)
    real: jax.Array | None = None


@flax.struct.dataclass
class Seen:
    """A state of sampling: what the text would be if sampling stopped here.

    B batch, L length.

    Attributes:
      step: int32 scalar, from 0.
      time: float32 scalar, the method's own time after the step; where nothing is stepped but only
        read, the time of reading.
      tokens: [B, L] int32, the text; -1 where `is_open`. Given tokens are there from the first
        state on.
      is_open: [B, L] bool, positions that have no token yet: masks, those to come, and noise that
        must not be written there (`Batch.never`).
      entropy: [B, L] float32, in nats, of the distribution that the token was read from. Of given
        tokens it is 0, and of those that no noise has replaced in a rewriting. Of masks it is that
        of the prediction, and of positions to come it is 0.
    """

    step: jax.Array
    time: jax.Array
    tokens: jax.Array
    is_open: jax.Array
    entropy: jax.Array


class Method(Protocol):
    """A way of modelling text: a frozen dataclass without arrays.

    B batch, L length. `params` are the trained parameters. `frozen` has the arrays that are not
    trained (an encoder, a teacher), as a dict of trees. It is passed to every call, so that
    `jax.jit` takes it as an argument.

    Attributes:
      name: as in config.method. tags: of a model card.
      vocab_size: V. dtype: of the computation; parameters are float32.
      curves: {metric of training: its title with units}, the panels of the loss curve.
      shown: {metric of training: short name}, the metrics in the progress bar.
      settings: {key of config.sample that the sampler reads: short name}. A sweep varies the last
        key fastest. So the keys that need a new compilation for a new value come first.
      traced: the keys of `settings` that are arguments of the compiled sampler. New values of
        them need no new compilation, except where `compiled_for` differs.
      scales: {key of `settings`: its title}, guidance scales and temperature. Along a line of a
        frontier, only the last of them changes.
      fills_anywhere: whether a sample depends on given tokens at any place. If not, each token
        depends only on those before it.
      has_exact_likelihood: whether the metric "nll_bound" is the negative log-likelihood itself.
      own_rates: {regex: learning rate}. Parameters whose path matches have this constant rate.
      sizes: ((path of a parameter, axis, config key), ...). Each config key sets the size of that
        axis.
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
    fills_anywhere: bool
    has_exact_likelihood: bool
    own_rates: dict[str, float]
    sizes: tuple[tuple[str, int, str], ...]

    def init(self, key, length):
        """New float32 parameters from a JAX key, for rows of `length` positions."""

    def loss(self, params, frozen, batch, counted, ids, context):
        """The loss of a batch, summed over its rows.

        Args:
          params, frozen: see the class.
          batch: a `Batch`. counted: [B, L] bool, the positions that count.
          ids: [B] integers that name the rows, for their random draws: their places in the whole
            batch. context: a `Context`.

        Returns:
          (sum over the counted positions, {name: sum}). All of them can be added over micro-batches
          and devices.
        """

    def metrics(self, loss, sums, positions):
        """{metric: value} of training: "loss" and its parts.

        Args:
          loss: mean over the counted positions. sums: the dict from the method `loss`.
          positions: number of counted positions.
        """

    def sampler(self, settings, length, watch=None):
        """The function (params, frozen, ids [B], given, key, scales) -> tokens [B, L] int32.

        Args:
          settings: config section `sample`. length: L.
          watch: function from a `Seen` to arrays. With it, the sampler returns (tokens, what
            `watch` returned of all S states, with a new first axis [S, ...]). The tokens of the
            last state are the samples. `watch` is called when the sampler is traced. None: nobody
            watches, and the compiled program has nothing of it.

        `ids` name the samples. A sample depends only on the key and on its id. `given` is a `Batch`
        whose `is_cond` marks tokens that are kept, or None; what its `never` forbids is not
        written. `scales` is {key: scalar} of the settings in `traced`.
        """

    def rewriter(self, settings, length, watch=None):
        """The function (params, frozen, ids [B], batch, key, scales, strength) -> tokens [B, L]: a
        text with noise, and the noise taken away by the sampler.

        Args:
          settings, length, watch, and the arguments of the function: as for `sampler`.

        `batch` is a `Batch` with the texts. Nothing of it is kept on purpose, whatever `is_cond`
        says. `strength` is a scalar from 0 to 1, the share of the noise: 0 gives the text itself,
        in all states, and 1 the sample of the same id, key and settings with nothing given.

        Raises:
          UserError: the method cannot rewrite.
        """

    def effective(self, settings):
        """{key: value} of the settings that change the samples. A key may be left out if its value
        changes nothing.
        """

    def draws(self, settings):
        """Whether samples depend on the key with these settings. If not, all of one condition are
        equal.
        """

    def compiled_for(self, settings):
        """Tuple of all settings that need a new compilation. Equal tuples share a sampler."""

    def evaluations(self, settings, length):
        """How often the network runs for one batch of samples with these settings, an integer."""

    def costs(self, settings, length):
        """[S] integers, one for each state of a watched sampler or rewriter: how often the network
        runs in a run that stops there and reads its text. The last one is `evaluations`.
        """

    def constants(self):
        """{name: value} of the constants of training that samples also depend on."""

    def loss_settings(self):
        """{name: value} of the settings that the loss depends on."""

    def meaning(self):
        """{config key: value} of settings of training that must stay the same for these parameters,
        but that the shapes of the parameters do not show.
        """

    def save_frozen(self, frozen, directory):
        """Writes the frozen parts that were made from the training data into `directory`. Files
        that exist already are not changed.
        """

    def export_frozen(self, frozen, config, directory):
        """Like `save_frozen`, and also copies pretrained models that are local directories.

        Returns:
          The config. Paths of copied models are relative to `directory`.
        """

    def from_published(self, flat):
        """Parameters from the parameters of the published implementation, {"a/b/c": array}.

        Raises:
          KeyError: a name that the published network does not have.
        """

    def described(self, config):
        """{name: text} for the model card: the rows of its table, and "summary"."""
