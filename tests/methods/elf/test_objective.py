"""The objective compared with the reference's losses and gradients, the distributions of its random
values, and the mixing of both losses.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.session import goldens
from elf_jax.core import defaults, rng
from elf_jax.core.types import Batch, counted_positions
from elf_jax.methods.elf import objective, roles
from elf_jax.methods.elf.predictor import Predictor
from elf_jax.methods.elf.roles import Split
from elf_jax.networks.elf import ELF

FLOAT32 = goldens.Arithmetic(jnp.float32, None, "xla")


@pytest.mark.parametrize("name", goldens.LOSSES)
def test_loss_and_gradients_match_the_reference(name):
    found = goldens.loss(FLOAT32, name)
    assert found["loss"] < 1e-5
    assert found["gradient"] <= 2e-4


def tiny(vocab=16, width=16, latent=8):
    network = ELF(latent, vocab, depth=1, width=width, heads=2, bottleneck=8)
    predictor = Predictor(network)
    params = jax.jit(predictor.init, static_argnums=1)(jax.random.key(0), 6)
    # With the zero-initialised head, most gradients would be zero.
    head = jax.random.normal(jax.random.key(1), params["x_out"]["kernel"].shape)
    return predictor, {**params, "x_out": {**params["x_out"], "kernel": head}}


def rows_of_any_length(count, length=6):
    tokens = jax.random.randint(jax.random.key(2), (count, length), 3, 16)
    position = jnp.arange(length)[None]
    lengths = 2 + jnp.arange(count)[:, None] % (length - 1)
    return Batch(tokens, (position < 1) & (lengths > 3), position < lengths)


def mixed_gradient(predictor, params, parts, law, batch, x):
    """key -> gradient of the mixed loss over the batch, with roles and draws as in training on so
    many devices.
    """
    mask, rows = counted_positions(batch, False), len(batch.tokens)
    deck = rng.deck(rows, rows // parts)
    whole = roles.make_split(deck[0], law.decode_fraction, law.self_cond_fraction)
    split = roles.part_of(whole, deck[0] * parts // rows)

    def gradient(key):
        ids = jnp.arange(rows)
        keys = rng.per_example(key, ids)
        deal_keys = jax.vmap(lambda k: rng.stream(k, "deal"))(keys)
        cards = rng.cards(rng.stream(key, "deal"), deal_keys, ids, *deck)
        order = roles.deal(deal_keys, split, cards)
        dealt, latents, counted, keys, cards = jax.tree.map(
            lambda array: roles.permute(array, order), (batch, x, mask, keys, cards)
        )
        draws = objective.draw(keys, whole, *x.shape[1:], law, cards)

        def loss(params):
            sums = objective.mixed_loss(
                predictor, params, latents, dealt, counted, draws, split, law
            )
            return (sums.denoise + sums.decode) / jnp.sum(mask)

        return jax.grad(loss)(params)

    return gradient


def single_gradient(predictor, params, decode, law, batch, x):
    """key -> gradient of one loss over all rows, without random roles and without weights."""
    mask = counted_positions(batch, False)
    rows, length = batch.tokens.shape
    split = Split(rows, 0, 0, rows, 1.0, 0.5) if decode else Split(rows, rows, rows, 0, 0.0, 0.5)

    def gradient(key):
        keys = iter(jax.random.split(key, 6))
        draws = objective.Draws(
            is_decode=jnp.full(rows, decode),
            self_cond=jax.random.bernoulli(next(keys), 0.5, (rows,)) & (not decode),
            weight=jnp.ones(rows),
            t=jax.nn.sigmoid(-1.5 + 0.8 * jax.random.normal(next(keys), (rows,))),
            w=1.5 * 4 ** jax.random.uniform(next(keys), (rows,)) - 1,
            noise=jax.random.normal(next(keys), x.shape),
            decode_lambda=jax.nn.sigmoid(0.8 + 0.8 * jax.random.normal(next(keys), (rows, length))),
        )

        def loss(params):
            sums = objective.mixed_loss(predictor, params, x, batch, mask, draws, split, law)
            return (sums.denoise + sums.decode) / jnp.sum(mask)

        return jax.grad(loss)(params)

    return gradient


@pytest.mark.parametrize("rows, parts", [(1, 1), (5, 1), (16, 8), (6, 3)])
def test_mixing_is_unbiased(rows, parts):
    """The mean gradient over many draws is 0.8 x denoise + 0.2 x decode, within four standard
    errors.
    """
    predictor, params = tiny()
    law = defaults.get_config().objective
    batch = rows_of_any_length(rows)
    x = jax.random.normal(jax.random.key(3), (rows, 6, 8))
    count = min(8_000 // rows, 4_000)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    directions = np.asarray(jax.random.normal(jax.random.key(9), (8, size)))

    def mean_and_error(gradient):
        """(mean, standard error) of the gradient's components along eight fixed directions."""

        def project(key):
            leaves = jax.tree.leaves(gradient(key))
            return directions @ jnp.concatenate([leaf.ravel() for leaf in leaves])

        keys = jax.random.split(jax.random.key(rows), count)
        values = jax.jit(lambda: jax.lax.map(project, keys, batch_size=50))()
        return np.mean(values, 0), np.std(values, 0) / np.sqrt(count)

    args = law, batch, x
    mixed, mixed_error = mean_and_error(mixed_gradient(predictor, params, parts, *args))
    denoise, denoise_error = mean_and_error(single_gradient(predictor, params, False, *args))
    decode, decode_error = mean_and_error(single_gradient(predictor, params, True, *args))
    error = np.sqrt(mixed_error**2 + (0.8 * denoise_error) ** 2 + (0.2 * decode_error) ** 2)
    z = (mixed - (0.8 * denoise + 0.2 * decode)) / error
    assert np.all(np.abs(z) < 4), z
    # The check can fail: another mixture differs by more than five standard errors.
    other = (mixed - (0.5 * denoise + 0.5 * decode)) / error
    assert np.max(np.abs(other)) > 5, other


def sums_of(predictor, params, split, weight, first=0):
    """(`LossSums` of 12 rows with a token_weight, their `Draws`, the cross-entropies [12, 6] of all
    tokens as they were read). Two positions at the start never count.
    """
    law = defaults.get_config().objective
    law.token_weight = weight
    batch = rows_of_any_length(12)
    batch = batch.replace(is_cond=jnp.broadcast_to(jnp.arange(6) < 2, batch.is_cond.shape))
    x = jax.random.normal(jax.random.key(3), (12, 6, 8))
    keys = jax.random.split(jax.random.key(4), 12)
    draws = objective.draw(keys, split, 6, 8, law)
    mask = counted_positions(batch, False)

    @jax.jit
    def run(params):
        read = []

        def token_losses(*args):
            out = Predictor.token_losses(predictor, *args)
            read.append(out[0])
            return out

        seen = SimpleNamespace(
            denoise=predictor.denoise,
            hidden=predictor.hidden,
            x_head=predictor.x_head,
            token_losses=token_losses,
        )
        args = seen, params, x, batch, mask, draws, split, law
        return objective.mixed_loss(*args, first=first), read[0]

    sums, cross_entropy = run(params)
    return sums, draws, mask, cross_entropy


def test_a_token_weight_adds_the_cross_entropy_of_rows_that_denoise():
    predictor, params = tiny()
    split = roles.make_split(12, 0.2, 0.5)
    plain, *_ = sums_of(predictor, params, split, 0.0)
    sums, draws, mask, cross_entropy = sums_of(predictor, params, split, 0.7)
    assert plain.tokens == 0 and cross_entropy.shape == (12, 6)
    noisy = ~draws.is_decode[:, None] & mask
    expected = np.sum(cross_entropy * noisy * draws.weight[:, None])
    np.testing.assert_allclose(sums.tokens, expected, rtol=1e-6)
    assert sums.tokens > 10
    for name in ("denoise", "decode", "correct", "decoded"):
        np.testing.assert_allclose(getattr(sums, name), getattr(plain, name), rtol=1e-6)
    # Positions that never count may be left out.
    for weight, whole in ((0.0, plain), (0.7, sums)):
        part, *_, read = sums_of(predictor, params, split, weight, first=2)
        assert read.shape[1] == 4
        np.testing.assert_allclose(part, whole, rtol=1e-6)


def test_splits():
    """Numbers of rows for each role, for many sizes of a group. Every role has a row."""
    sizes = {}
    for rows in range(1, 40):
        split = roles.make_split(rows, 0.2, 0.5)
        if rows >= 3:
            assert split.denoise + split.decode == rows
            assert 0 < split.self_cond < split.denoise and split.decode > 0
            assert abs(split.decode - 0.2 * rows) <= 0.5 or split.decode == 1
        sizes[rows] = (split.decode, split.self_cond, split.denoise)
    assert sizes[1] == (1, 1, 1) and sizes[2] == (1, 1, 1)
    assert sizes[5] == (1, 2, 4) and sizes[16] == (3, 6, 13)
    assert roles.make_split(8, 0.0, 0.5).decode == 0
    assert roles.make_split(8, 1.0, 0.5) == Split(8, 0, 0, 8, 1.0, 0.5)
    assert roles.make_split(1, 0.0, 1.0) == Split(1, 1, 1, 0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [8, 16, 40, 128, 512])
def test_a_part_has_room_for_the_rows_of_each_role(rows):
    whole = roles.make_split(rows, 0.2, 0.5)
    for parts in (1, 2, 4, 8):
        split, ids = roles.part_of(whole, parts), jnp.arange(rows)
        deck = rng.deck(rows, split.rows)
        cards = jax.jit(lambda key: rng.cards(key, rng.per_example(key, ids), ids, *deck))  # noqa: B023
        for seed in range(8):
            dealt = np.sort(np.asarray(cards(jax.random.key(seed))).reshape(parts, -1), axis=1)
            assert np.all(np.sum(dealt < whole.self_cond, axis=1) <= split.self_cond)
            assert np.all(np.sum(dealt < whole.denoise, axis=1) <= split.denoise)
            assert np.all(np.sum(dealt >= whole.denoise, axis=1) <= split.decode)
        assert split.decode * parts < whole.decode + parts


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16, 24, 48])
def test_the_weights_of_each_role_add_up_to_its_probability(groups):
    """In a batch of 48 rows, with a deck for each of any number of groups: exactly where all roles
    are dealt, on the average where the role of a lone row is drawn. So a training may go on on
    other devices.
    """
    split = roles.make_split(48 // groups, 0.2, 0.5)
    keys = rng.per_example(jax.random.key(0), jnp.arange(48 * 400))
    is_decode, self_cond, weight = roles.draw_roles(keys, split)
    shares = [
        float(jnp.mean(weight * role)) for role in (is_decode, self_cond, ~is_decode & ~self_cond)
    ]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.4], atol=1e-6 if split.rows > 2 else 0.015)


def test_draws_follow_their_laws():
    law = defaults.get_config().objective
    keys = rng.per_example(jax.random.key(0), jnp.arange(20_000))
    split = roles.make_split(20, 0.2, 0.5)
    draws = jax.jit(lambda: objective.draw(keys, split, 3, 2, law))()

    def p_value(values, distribution):
        return stats.kstest(np.asarray(values).ravel(), distribution).pvalue

    logit = np.log(draws.t / (1 - draws.t))
    assert p_value(logit, stats.norm(-1.5, 0.8).cdf) > 1e-3
    assert p_value(logit, stats.norm(-1.45, 0.8).cdf) < 1e-3
    log_w = np.log((1 + draws.w) / 1.5) / np.log(6 / 1.5)
    assert p_value(log_w, stats.uniform.cdf) > 1e-3
    assert np.min(draws.w) >= 0.5 and np.max(draws.w) <= 5
    logit = np.log(draws.decode_lambda / (1 - draws.decode_lambda))
    assert p_value(logit, stats.norm(0.8, 0.8).cdf) > 1e-3
    assert p_value(draws.noise, stats.norm.cdf) > 1e-3
    # The values of the tokens in a row are independent.
    assert abs(np.corrcoef(logit[:, 0], logit[:, 1])[0, 1]) < 0.03
    assert np.sum(draws.is_decode) == 4000 and np.sum(draws.self_cond) == 8000


def test_roles_of_a_lone_row_follow_their_probabilities():
    keys = rng.per_example(jax.random.key(0), jnp.arange(20_000))
    is_decode, self_cond, weight = roles.draw_roles(keys, roles.make_split(1, 0.2, 0.5))
    assert abs(np.mean(is_decode) - 0.2) < 0.01 and abs(np.mean(self_cond) - 0.4) < 0.015
    assert not np.any(is_decode & self_cond) and np.all(weight == 1)


def test_dealing_is_a_permutation_within_groups_and_follows_the_rows():
    split = roles.make_split(5, 0.2, 0.5)
    keys = rng.per_example(jax.random.key(0), jnp.arange(4000))
    order = roles.deal(keys, split)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(5), (800, 1)))
    dealt = roles.permute(jnp.arange(4000), order).reshape(-1, 5)
    np.testing.assert_array_equal(dealt // 5, np.tile(np.arange(800)[:, None], (1, 5)))
    counts = np.bincount(np.asarray(order[:, 0]), minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_random_streams_do_not_depend_on_each_other_or_on_position():
    key = jax.random.key(0)
    one = rng.normal(rng.per_example(key, jnp.arange(8)), (3,))
    np.testing.assert_array_equal(
        one[3:5], rng.normal(rng.per_example(key, jnp.array([3, 4])), (3,))
    )
    names = [jax.random.key_data(rng.stream(key, name, 1)) for name in ("a", "b")]
    steps = [jax.random.key_data(rng.stream(key, "a", step)) for step in (1, 2)]
    assert np.any(names[0] != names[1]) and np.any(steps[0] != steps[1])
