"""How far models are apart on the same pairs: the paired bootstrap, see `metrics.bootstrap`."""

import numpy as np

from elf_jax.evaluation.comparison_table import SCORES, markdown
from elf_jax.evaluation.metrics.bootstrap import STATEMENT, interval
from elf_jax.evaluation.metrics.references import resampled

NOTE = (
    "Each model with its best number of steps. In brackets: {how}, the same pairs for both models. "
    "If 0 lies outside, other pairs of the same kind would hardly change the order. Another "
    "training might."
)


def score_best(run, points, protocols, seeds):
    """The best point of a model by BLEU, or by ROUGE-L without it: {score: {mean, and its scores on
    pairs that are drawn anew, averaged over seeds}}; None if the data are no pairs.

    Args:
      run: an `Evaluation`. points, protocols: what `compare.score_point` gave for each protocol.
      seeds: of the samples.
    """
    pairs = run.metrics.pairs
    wanted = [name for name in ("bleu", "rouge_l") if name in points[0]["scores"]]
    if pairs is None or not wanted:
        return None
    means = [point["scores"][wanted[0]]["mean"] for point in points]
    best = int(np.argmax(means))
    texts = [run.score(protocols[best], seed)[2].texts for seed in seeds]
    drawn = [resampled(one, pairs.references, wanted) for one in texts]
    return {
        name: {
            "mean": points[best]["scores"][name]["mean"],
            "resampled": np.mean([each[name] for each in drawn], axis=0),
        }
        for name in wanted
    }


def differences(best):
    """How far all models are behind the one with the largest first score.

    Args:
      best: {model: what `score_best` returns}.

    Returns:
      Dict of best, the name of that model, and behind: {model: {score: {difference, and its
      bounds}}}; None without pairs, or with one model.
    """
    if len(best) < 2 or any(scores is None for scores in best.values()):
        return None
    first = max(best, key=lambda name: next(iter(best[name].values()))["mean"])
    behind = {
        name: {
            score: {
                "difference": best[first][score]["mean"] - one["mean"],
                **interval("difference", best[first][score]["resampled"] - one["resampled"]),
            }
            for score, one in scores.items()
        }
        for name, scores in best.items()
        if name != first
    }
    return {"best": first, "behind": behind}


def text(found):
    """The table of `differences` in Markdown, with a note."""
    scores = next(iter(found["behind"].values()))
    head = ["model", *(f"{SCORES[name]} behind {found['best']}" for name in scores)]
    lines = [[name, *map(_cell, one.values())] for name, one in found["behind"].items()]
    return f"{markdown(head, lines, words=1)}\n\n{NOTE.format(how=STATEMENT)}"


def _cell(one):
    return "{difference:.2f} ({difference_low:.2f} to {difference_high:.2f})".format(**one)
