"""CDCD as a `Method`: diffusion of learned embeddings, trained by cross-entropy, with a learned law
of times.

The published code drops one row of every batch from the loss: it has the time time_min, and only
the time warping is fitted to it. Here all rows have a time of the law and count.

Source: CDCD, arXiv 2211.15089.
"""

import dataclasses

import jax
import jax.numpy as jnp

from elf_jax.core import rng, sharding
from elf_jax.methods.cdcd import objective, sampler, warping
from elf_jax.methods.cdcd.predictor import EmbeddingPredictor
from elf_jax.methods.network_settings import backbone_settings
from elf_jax.methods.tokens.method import Family, TokenMethod, training_rows
from elf_jax.methods.watching import View
from elf_jax.networks.embeddings import EmbeddingNetwork

RANGE = ("time_min", "time_max")


class CDCD(TokenMethod):
    """See `methods.method.Method` and `TokenMethod`. The parameters of the time warping are
    `warp/times` and `warp/heights`, beside those of the network.
    """

    name = "cdcd"
    title = "diffusion of learned embeddings with cross-entropy"
    paper = ("CDCD", "2211.15089")
    section = "cdcd"
    curves = {"cross_entropy": "cross-entropy (nats per token; held out: at fixed times)"}
    shown = {"cross_entropy": "cross-entropy"}
    sizes = (
        ("token_table", 1, "cdcd.embedding_width"),
        ("warp/times", 0, "cdcd.bins"),
        *TokenMethod.sizes,
    )

    @classmethod
    def create(cls, config, vocab_size, mesh):
        """See `TokenMethod.create`."""
        method = super().create(config, vocab_size, mesh)
        predictor = EmbeddingPredictor(method.predictor.network, sharding.row_shards(mesh))
        return dataclasses.replace(method, predictor=predictor)

    @classmethod
    def network(cls, config, law, vocab_size, mesh):
        """The network of the method."""
        return EmbeddingNetwork(
            vocab_size=vocab_size,
            extra_tokens=0,
            time_tokens=config.model.time_tokens,
            embedding_width=law.embedding_width,
            **backbone_settings(config, mesh),
        )

    @property
    def own_rates(self):
        """The time warping is fitted with a rate of its own."""
        return {"^warp/": self.law.warp_rate}

    def init(self, key, length):
        """See `Method.init`."""
        params = super().init(key, length)
        return {**params, "warp": warping.new_params(self.law.bins, self.vocab_size)}

    def warp(self, params):
        """The `Warp`, the law of times."""
        return warping.make(params["warp"], self.law.time_min, self.law.time_max)

    def loss(self, params, frozen, batch, counted, ids, context):
        """The cross-entropy of the counted positions, and the fit of the time warping to its mean
        in every row; see `Method.loss`. A row with twice the positions counts twice in both.
        """
        del frozen
        rows = training_rows(batch, ids, context, self.condition_dropout)
        t = self.times(params, rows, context)
        losses = jnp.where(counted, self._cross_entropy(params, rows, t, context), 0.0)
        positions = jnp.sum(counted, axis=1)
        measured = jnp.sum(losses, axis=1) / jnp.maximum(positions, 1)
        fit = jnp.sum(positions * warping.fit_loss(self.warp(params), t, measured))
        total = jnp.sum(losses)
        return total + fit, {"cross_entropy": total, "warp_loss": fit}

    def times(self, params, rows, context):
        """[B], the time of each row. In validation, log t is uniform: the law that is learned would
        hide what the network learns, because it always goes to times of middling cross-entropy.
        """
        start = jax.random.uniform(rng.stream(context.key, "time"))
        u = objective.quantiles(start, rows.ids, rows.strata)
        if context.is_training:
            return jax.lax.stop_gradient(warping.time_of(self.warp(params), u))
        return self.law.time_min * (self.law.time_max / self.law.time_min) ** u

    def _cross_entropy(self, params, rows, t, context):
        """[B, L], of the clean tokens."""
        table = objective.embeddings(params["token_table"])
        clean = table[rows.tokens]
        noise = rng.normal(jax.vmap(lambda k: rng.stream(k, "noise"))(rows.keys), clean.shape[1:])
        is_cond = rows.is_cond[..., None]
        x = jnp.where(is_cond, clean, objective.noisy(clean, noise, t))
        known = jnp.where(is_cond, clean, 0.0)
        estimate = self.estimate(params, rows, x, known, t, table)
        predict = self.training_predict(params, rows, context)
        return predict((x, estimate), t)(objective.cross_entropy, rows.tokens)

    def estimate(self, params, rows, x, known, t, table):
        """The second input of the network, [B, L, d]: mean embeddings by a first pass without
        gradient in the rows with self-conditioning, and `known` elsewhere.

        If the share of self-conditioning is a whole number of rows on every device, the first pass
        has only these rows; they are chosen by their places in the batch. If not, all rows go
        through it, and where the whole batch has no such share either, each row draws by itself.
        """
        fraction, parts = self.law.self_cond_fraction, self.predictor.parts
        if fraction == 0:
            return known
        whole = objective.chosen_places(rows.count, fraction)
        part = objective.chosen_places(len(x) // parts, fraction)
        if whole is None:
            is_chosen = rows.uniforms("self_cond") < fraction
        else:
            is_chosen = jnp.asarray(whole)[rows.ids]
        places = slice(None) if whole is None or part is None else part.nonzero()[0]
        first = x, known, t, rows.is_given, rows.is_dropped
        first_x, first_known, first_t, *masks = (
            objective.take(array, parts, places) for array in first
        )
        where = self.where(rows)
        if where["is_key"] is not None:
            where["is_key"] = objective.take(where["is_key"], parts, places)
        read = self.predictor.predict(params, *masks, **where)((first_x, first_known), first_t)
        mean = jax.lax.stop_gradient(read(lambda z: objective.mean_embedding(z, table)))
        is_new = is_chosen[:, None, None] & ~rows.is_cond[..., None]
        return jnp.where(is_new, objective.spread(mean, parts, places, x), known)

    def making(self, settings, length, watch=None):
        """See `TokenMethod.making`. The temperature is that of the mean embeddings. To rewrite, the
        law of times is entered at the quantile `strength`: at this share of the cross-entropy.
        """
        is_guided = settings.cfg_scale != 1
        shape = length, self.law.embedding_width

        def run(params, keys, given, scales, begin):
            table = objective.embeddings(params["token_table"])
            noise = rng.normal(jax.vmap(lambda k: rng.stream(k, "start"))(keys), shape)
            kept = given if begin is None else None
            first = 1.0 if begin is None else begin.strength
            times = warping.time_of(
                self.warp(params), first * jnp.linspace(1.0, 0.0, settings.steps)
            )
            x = self.law.time_max * noise
            if begin is not None:
                x = jnp.where(first < 1, objective.noisy(table[begin.tokens], noise, times[:1]), x)

            def hold(latents):
                if kept is None:
                    return latents
                return jnp.where(given.is_cond[..., None], table[given.tokens], latents)

            predict = self.sampling_predict(params, given, scales, is_guided)

            def without_estimate(inputs, t):
                """The prediction of a network that was trained without self-conditioning."""
                return predict((inputs[0], hold(jnp.zeros_like(inputs[1]))), t)

            view = View(watch, kept)
            made = sampler.probability_flow(
                predict if self.law.self_cond_fraction else without_estimate,
                x,
                times,
                lambda logits: objective.mean_embedding(logits, table),
                hold,
                view,
            )
            return view.keep_given(made)

        return run

    def constants(self):
        """The range of times, and whether there is self-conditioning."""
        return {name: self.law[name] for name in (*RANGE, "self_cond_fraction")}

    def meaning(self):
        """The range of times, which the law of times and the network were trained for."""
        return super().meaning() | {f"cdcd.{name}": self.law[name] for name in RANGE}


cdcd = Family(CDCD)
