"""Samples to numbers, beside the same numbers of held-out text; docs/evaluation.md defines them."""

import dataclasses
import pathlib

from tqdm import tqdm

from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve
from elf_jax.data.corpora import VALIDATION
from elf_jax.data.manifest import on_this_machine, read_manifest
from elf_jax.data.tokenizer import decode, encode
from elf_jax.evaluation.metrics import references, text
from elf_jax.evaluation.scorer import Scorer, generative_perplexity, load_scorer
from elf_jax.methods.elf.decode import cut
from elf_jax.training.scorer import DIRECTORY as OWN_SCORER

METRICS = ("gen_ppl", "bleu", "rouge")
MAX_REAL_ROWS = 10_000  # that samples are compared with, of rows that are no whole texts


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The held-out pairs that samples of a conditional model are compared with.

    Attributes:
      sources, references: lists of N strings. statement: what was cut of them, for the user.
    """

    sources: list[str]
    references: list[str]
    statement: str


def resolve_metrics(asked, conditional):
    """Tuple of names from METRICS: what config.evaluate.metrics asks for.

    Raises:
      UserError: a name that is unknown, or needs references where there are none.
    """
    if asked == "auto":
        return METRICS[1:] if conditional else METRICS[:1]
    names = tuple(name.strip() for name in asked.split(",") if name.strip())
    known = METRICS if conditional else METRICS[:1]
    for name in names:
        if name not in known:
            raise UserError(
                f"config.evaluate.metrics has {name!r}; with this data it can have "
                f"{', '.join(known)}, with commas between, or be auto or empty"
            )
    return names


def find_scorer(settings, workdir, mesh, asked=None):
    """The scorer of Gen. PPL, or why there is none.

    Args:
      settings: config section `scorer`. workdir: may hold one in `scorer/`. mesh: for it.
      asked: directory or name that the user asked for, in place of all others.

    Returns:
      (`Scorer` or None, a line about what is missing and how to get it, or "").

    Raises:
      UserError: the one asked for is not to be had, or a directory holds none that works.
    """
    own, path = pathlib.Path(workdir) / OWN_SCORER, asked or settings.path
    is_local = bool(path) and pathlib.Path(path).is_dir()
    if processes.share(not asked and not is_local and own.is_dir()):
        path = str(own)
    if not path:
        return None, ""
    try:
        resolve(path, "scorer (--scorer)")
    except UserError as error:
        if asked:
            raise
        return None, (
            f"no Gen. PPL: {error}, as --scorer=DIRECTORY, or train one on this corpus: "
            f"python main.py --mode=train_scorer --workdir={workdir}"
        )
    settings = settings.copy_and_resolve_references()
    settings.path = str(path)
    return load_scorer(settings, mesh), ""


def held_out_pairs(trained, dataset, count):
    """The first `count` held-out `Pairs`, as the model's tokenizer can express them."""
    data, tokenizer = trained.config.data, trained.tokenizer
    examples = dataset.validation_examples[:count]
    sources, targets = ([getattr(e, side) for e in examples] for side in ("source", "text"))
    if data.prepared:
        counts = read_manifest(on_this_machine(data).prepared)["counts"][VALIDATION]
        total, cut_sources = counts["documents"], counts["sources_cut"]
        kept = f"{counts['targets_cut']} of {total} references cut to the row"
    else:
        # T5's tokenizer loses newlines, and a model cannot write what its tokenizer cannot.
        ids = encode(tokenizer, targets)
        targets, total = decode(tokenizer, ids), len(sources)
        cut_sources = sum(len(one) >= data.source_length for one in encode(tokenizer, sources))
        kept = "references whole"
    statement = (
        f"{kept}, {cut_sources} of {total} sources cut to {data.source_length} tokens; both have "
        "been through the model's tokenizer"
    )
    return Pairs(sources, targets, statement)


class Judge:
    """Computes the numbers of samples, and those of held-out text.

    Args:
      trained: a `Trained` model. dataset: its `Dataset`. metrics: of `resolve_metrics`.
      scorer: a `Scorer` or None. pairs: `Pairs`, of a conditional model.
    """

    def __init__(self, trained, dataset, metrics, scorer: Scorer | None, pairs: Pairs | None):
        self.tokenizer, self.dataset = trained.tokenizer, dataset
        self.length = trained.config.data.length
        self.scorer, self.pairs = scorer, pairs
        self.metrics = [name for name in metrics if name != "gen_ppl" or scorer is not None]

    def provenance(self):
        """What the numbers depend on besides samples and data."""
        about = {"metrics": list(self.metrics)}
        if self.pairs is not None:
            about["references"] = self.pairs.statement
        return about if self.scorer is None else about | self.scorer.provenance()

    def identity(self):
        """`provenance` without names: a workdir may move, its scorer keeps its revision."""
        return {name: value for name, value in self.provenance().items() if name != "scorer"}

    def samples(self, samples):
        """(numbers, signatures) of a `Samples`: dicts by the name of the metric."""
        texts, numbers, signatures = samples.texts, {}, {}
        if self.pairs is not None:
            numbers, signatures = self._agreement(samples)
        elif self.dataset.whole and self.dataset.train_examples:
            numbers = text.membership(texts, *self._whole_texts())
        numbers["distinct"] = text.distinct(texts)
        numbers["entropy"] = text.unigram_entropy(samples.tokens)
        numbers["empty"] = sum(not one.strip() for one in texts)
        return numbers | self._scored(texts, "scoring samples"), signatures

    def _whole_texts(self):
        sides = self.dataset.train_examples, self.dataset.validation_examples
        return ([example.text for example in examples] for examples in sides)

    def _agreement(self, samples):
        """Numbers that need a reference for each sample."""
        texts, real, signatures = samples.texts, self.pairs.references, {}
        numbers = {"exact_match": text.exact_match(texts, real)}
        lengths = [sum(map(len, rows)) for rows in (samples.tokens, encode(self.tokenizer, real))]
        numbers["length_ratio"] = lengths[0] / max(lengths[1], 1)
        for name, metric in (("bleu", references.bleu), ("rouge", references.rouge)):
            if name not in self.metrics:
                continue
            found = metric(texts, real)
            values = {key: value for key, value in found.items() if not isinstance(value, str)}
            for key in values:
                signatures[key] = found.get(f"{key}_signature") or found[f"{name}_signature"]
            numbers.update(values)
        return numbers, signatures

    def _scored(self, texts, label):
        """Gen. PPL and the diversity of the scorer's tokens; nothing without a scorer."""
        if "gen_ppl" not in self.metrics:
            return {}
        with tqdm(total=len(texts), desc=label, unit="text", dynamic_ncols=True) as bar:
            numbers = generative_perplexity(self.scorer, texts, bar.update)
        return {
            name if name.startswith("gen_") else f"gen_{name}": value
            for name, value in numbers.items()
        }

    def real(self, count):
        """Numbers of held-out text: of `count` pieces of it under the scorer, since distinct-n
        depends on how much there is.

        Returns:
          (numbers, how many pieces there were).
        """
        numbers = {"entropy": text.unigram_entropy(self._real_tokens(count))}
        rows = self.dataset.validation.sample(count).take(slice(None))
        # As samples are: up to the first EOS, and through the same tokenizer.
        tokens = cut(rows["tokens"], self.tokenizer.eos_token_id, rows["is_cond"])
        return numbers | self._scored(decode(self.tokenizer, tokens), "scoring real text"), len(
            tokens
        )

    def _real_tokens(self, count):
        """Token rows of held-out text, each of at most the model's length."""
        dataset = self.dataset
        if not dataset.whole:
            # Of a stream or of packed documents the rows are compared: they are as long as samples.
            rows = dataset.validation.sample(MAX_REAL_ROWS)
            return [row[:n] for row, n in zip(rows.tokens, rows.valid_length, strict=True)]
        examples = dataset.validation_examples
        if dataset.conditional or not dataset.train_examples:
            examples = examples[:count]  # of prepared data each is decoded for this
        tokens = encode(self.tokenizer, [example.text for example in examples])
        return [row[: self.length] for row in tokens]
