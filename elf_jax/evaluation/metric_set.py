"""Computes the metrics of samples and of held-out text. docs/evaluation.md defines them."""

from itertools import filterfalse

import jax
from tqdm import tqdm

from elf_jax.data.tokenizer import decode, encode
from elf_jax.evaluation.metrics import infill, references, text
from elf_jax.evaluation.metrics.bootstrap import STATEMENT, is_bound
from elf_jax.evaluation.pairs import Pairs
from elf_jax.evaluation.scorer import Scorer, generative_perplexity
from elf_jax.generation.generate import cut

MAX_REAL_ROWS = 10_000  # for the entropy of a stream or of packed documents


class MetricSet:
    """The metrics of one evaluation, of samples and of held-out text.

    Args:
      trained: a `TrainedModel`. dataset: its `Dataset`.
      metrics: names, from `checks.resolve_metrics`.
      scorer: a `Scorer` or None. pairs: the `Pairs` of a conditional model, or None.
    """

    def __init__(self, trained, dataset, metrics, scorer: Scorer | None, pairs: Pairs | None):
        self.tokenizer, self.dataset = trained.tokenizer, dataset
        self.length = trained.config.data.length
        self.scorer, self.pairs = scorer, pairs
        self.names = [name for name in metrics if name != "gen_ppl" or scorer is not None]

    def provenance(self):
        """What the numbers depend on, apart from samples and data."""
        about = {"metrics": list(self.names)}
        if self.pairs is not None:
            about["references"] = self.pairs.statement
            about["interval"] = STATEMENT
        elif self.dataset.whole and self.dataset.train_examples is None:
            about["training_text"] = "not read"
        return about if self.scorer is None else about | self.scorer.provenance()

    def identity(self):
        """`provenance` without the scorer's name, which changes when a workdir is moved."""
        return {name: value for name, value in self.provenance().items() if name != "scorer"}

    def scorer_identity(self):
        """`identity` of Gen. PPL alone."""
        about = self.scorer.provenance() if "gen_ppl" in self.names else {}
        return {name: value for name, value in about.items() if name != "scorer"}

    def of_samples(self, samples):
        """(numbers, signatures) of a `Samples`: dicts by the name of the metric."""
        texts, numbers, signatures = samples.texts, {}, {}
        if self.pairs is not None:
            numbers, signatures = self._compared(samples)
        elif self.dataset.whole and self.dataset.train_examples:
            numbers = text.membership(texts, *self._whole_texts())
        numbers["distinct"] = text.distinct(texts)
        numbers["entropy"] = text.unigram_entropy(samples.tokens)
        numbers["empty"] = sum(not one.strip() for one in texts)
        return numbers | self._scored(texts, "scoring samples"), signatures

    def _whole_texts(self):
        sides = self.dataset.train_examples, self.dataset.validation_examples
        return ([example.text for example in examples] for examples in sides)

    def _compared(self, samples):
        """(numbers, signatures) of the metrics that compare each sample with its reference."""
        texts, real, signatures = samples.texts, self.pairs.references, {}
        numbers = {"exact_match": text.exact_match(texts, real)}
        both = samples.tokens, encode(self.tokenizer, real)
        lengths = [sum(map(len, rows)) for rows in both]
        numbers["length_ratio"] = lengths[0] / max(lengths[1], 1)
        # BLEU does not see it: words that stand twice even make short texts longer.
        numbers["repeated"], numbers["repeated_reference"] = map(text.repeated, both)
        for name, metric in (("bleu", references.bleu), ("rouge", references.rouge)):
            if name not in self.names:
                continue
            found = metric(texts, real)
            values = {key: value for key, value in found.items() if not isinstance(value, str)}
            for key in filterfalse(is_bound, values):
                signatures[key] = found.get(f"{key}_signature") or found[f"{name}_signature"]
            numbers.update(values)
        return numbers, signatures

    def _scored(self, texts, label):
        """Gen. PPL and the diversity of the scorer's tokens; empty without a scorer."""
        if "gen_ppl" not in self.names:
            return {}
        hidden = jax.process_index() != 0
        with tqdm(
            total=len(texts), desc=label, unit="text", dynamic_ncols=True, disable=hidden
        ) as bar:
            numbers = generative_perplexity(self.scorer, texts, bar.update)
        return {
            name if name.startswith("gen_") else f"gen_{name}": value
            for name, value in numbers.items()
        }

    def of_filled(self, hidden, samples):
        """(numbers, signatures) of the `Samples` that fill in a `Hidden`."""
        numbers = infill.exact(hidden.rows(samples.tokens), hidden.tokens, hidden.is_hidden)
        gaps = samples.tokens, hidden.gaps(hidden.tokens)
        texts = (decode(self.tokenizer, side) for side in gaps)
        numbers["rouge_l"], signature = infill.rouge_l(*texts)
        numbers |= self._gen_ppl(samples.texts, "scoring filled text")
        name = hidden.metric("rouge_l")
        return _named(hidden, numbers), {} if signature is None else {name: signature}

    def of_hidden(self, hidden):
        """The numbers of a `Hidden` itself: see `infill.most_frequent`, and Gen. PPL of the true
        texts.
        """
        numbers = {"most_frequent": infill.most_frequent(hidden.tokens, hidden.is_hidden)}
        texts = hidden.whole_texts(self.tokenizer, hidden.tokens)
        return _named(hidden, numbers | self._gen_ppl(texts, "scoring real text"))

    def _gen_ppl(self, texts, label):
        """Gen. PPL alone; empty without a scorer."""
        return {k: v for k, v in self._scored(texts, label).items() if k == "gen_ppl"}

    def of_real_text(self, count):
        """The numbers of held-out text.

        The scorer reads `count` texts, as many as there are samples, because distinct-n depends on
        the amount of text.

        Returns:
          (numbers, how many texts there were).
        """
        numbers = {"entropy": text.unigram_entropy(self._real_tokens(count))}
        rows = self.dataset.validation.subset(count).take(slice(None))
        # As with samples: cut at the first EOS, and decoded by the same tokenizer.
        tokens = cut(rows["tokens"], self.tokenizer.eos_token_id, rows["is_cond"])
        return numbers | self._scored(decode(self.tokenizer, tokens), "scoring real text"), len(
            tokens
        )

    def _real_tokens(self, count):
        """Token rows of held-out text, each of at most the model's length."""
        dataset = self.dataset
        if not dataset.whole:
            # Rows of a stream or of packed documents are as long as samples.
            rows = dataset.validation.subset(MAX_REAL_ROWS)
            return [row[:n] for row, n in zip(rows.tokens, rows.valid_length, strict=True)]
        examples = dataset.validation_examples
        if dataset.conditional or not isinstance(examples, list):
            examples = examples[:count]  # with prepared data, each of them is decoded now
        tokens = encode(self.tokenizer, [example.text for example in examples])
        return [row[: self.length] for row in tokens]


def _named(hidden, numbers):
    return {hidden.metric(name): value for name, value in numbers.items()}
