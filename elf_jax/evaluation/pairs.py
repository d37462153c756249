"""The held-out pairs that the samples of a conditional model are compared with."""

import dataclasses

from elf_jax.data.tokenizer import decode, encode


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Attributes:
    sources, references: lists of N strings. statement: what was cut of them, for the user.
    """

    sources: list[str]
    references: list[str]
    statement: str


def held_out_pairs(trained, dataset, count):
    """The first `count` held-out `Pairs`, as the model's tokenizer can express them."""
    data, tokenizer = trained.config.data, trained.tokenizer
    examples = dataset.validation_examples[:count]
    sources, targets = ([getattr(e, side) for e in examples] for side in ("source", "text"))
    if data.prepared:
        counts, total = dataset.validation_cut, len(dataset.validation)
        cut_sources = counts["sources_cut"]
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
