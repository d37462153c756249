"""Held-out pairs: the sources and references for the samples of a conditional model."""

import dataclasses

from elf_jax.data.tokenizer import decode, encode


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N held-out pairs.

    Attributes:
      sources, references: lists of N strings.
      statement: a line for the user about how many were cut.
    """

    sources: list[str]
    references: list[str]
    statement: str


def held_out_pairs(trained, dataset, count):
    """The first `count` held-out pairs as `Pairs`, in the text that the tokenizer can express."""
    data, tokenizer = trained.config.data, trained.tokenizer
    examples = dataset.validation_examples[:count]
    sources, targets = ([getattr(e, side) for e in examples] for side in ("source", "text"))
    if data.prepared:
        counts, total = dataset.validation_cut, len(dataset.validation)
        cut_sources = counts["sources_cut"]
        kept = f"{counts['targets_cut']} of {total} references cut to the row"
    else:
        # T5's tokenizer removes newlines, so a model with this tokenizer cannot write them.
        ids = encode(tokenizer, targets)
        targets, total = decode(tokenizer, ids), len(sources)
        cut_sources = sum(len(one) >= data.source_length for one in encode(tokenizer, sources))
        kept = "references whole"
    statement = (
        f"{kept}, {cut_sources} of {total} sources cut to {data.source_length} tokens; both have "
        "been through the model's tokenizer"
    )
    return Pairs(sources, targets, statement)
