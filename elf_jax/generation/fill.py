"""Fills the gaps of templates (`--mode=fill`); `templates.py` says what a template is.

A template stands at the beginning of a row. Its text is given, and the sampler draws the gaps and
what comes after the template:

    rows        text, EOS, and padding that the model writes; so the text ends with the template
    documents   text, EOS, and other documents
    stream      text, and how it goes on, which is not shown

A gap of unknown length takes `fill.gap` positions, or fewer if the row has no room. A model that
was trained with `data.given` knows the padding at the end of such a gap, which is dropped, and the
mark after it (see `training/given.py`). For other models all positions are text. Only a gap that
ends the template may have an EOS, and ends there.
"""

import dataclasses
import itertools

import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.core.types import Never
from elf_jax.data.packing import resolve_packing
from elf_jax.generation.generate import jit_sampler
from elf_jax.generation.lines import Job, made
from elf_jax.generation.templates import Pieces, fit, parse, without_space

WITH_SLACK = ("suffix", "ends", "spans")  # shares in data.given whose gaps have padding


@dataclasses.dataclass
class Counts:
    """The number of templates, of those with a gap of unknown length that does not end them, and of
    those with words that the tokenizer does not know.
    """

    templates: int = 0
    open: int = 0
    unknown: int = 0


def fill(trained, templates, seed, counts, samples=1, run=None):
    """Yields filled templates, as soon as their batch is made.

    Args:
      trained: a `TrainedModel`; its config's section `fill` counts.
      templates: iterable of (where it is from, text).
      seed: of all randomness. counts: `Counts`, to which the templates are added.
      samples: how many for each template.
      run: a `jit_sampler`, so that several calls compile once; None: a new one.

    Yields:
      Lists of {"template": text, "text": whole text, "gaps": [texts], "sample": number}. They are
      in order, those of a template are next to each other.

    Raises:
      UserError: the model takes no templates, a template is too long for it, or has text after its
        first gap that the model would not see.
    """
    filler = Filler.of(trained, counts)
    jobs = (
        job
        for place, (where, text) in enumerate(templates)
        for job in filler.jobs(place, where, text, samples)
    )
    yield from made(trained, jobs, seed, jit_sampler(trained) if run is None else run)


def learns_padding(config):
    """Whether a model of this config has learned the padding at the end of a gap."""
    given = config.data.given
    return given.slack > 0 and any(given[name] for name in WITH_SLACK)


def describe(counts, config):
    """One line about what a user may not expect of the templates; "" if there is nothing."""
    notes = []
    if counts.open and not learns_padding(config):
        notes.append(
            f"each ___ that does not end a template has {config.fill.gap} tokens, or as many as "
            "there is room for, since the model was trained without gaps (config.data.given)"
        )
    if counts.unknown:
        notes.append(
            f"{counts.unknown} of {counts.templates} templates have words that the model does not "
            "know (it sees that there is a word)"
        )
    return f"note: {'; '.join(notes)}" if notes else ""


@dataclasses.dataclass(frozen=True)
class Filler:
    """What the layout of a template depends on.

    Attributes:
      counts: see `fill`. pieces: the tokenizer.
      method: name of the method. fills_anywhere: see `Method`.
      length: L, of a row. packing: as in `packing.PACKERS`.
      gap: positions of a gap of unknown length. learned: see `learns_padding`.
      pad, eos, unknown: ids of special tokens; unknown: None if there is none.
      glued: see `templates.without_space`. Where the template has a space before a gap, the text of
        the gap does not begin with one of these: it would go on with the word before the space.
    """

    counts: Counts
    pieces: Pieces
    method: str
    fills_anywhere: bool
    length: int
    packing: str
    gap: int
    learned: bool
    pad: int
    eos: int
    unknown: int | None
    glued: tuple[int, ...] | None

    @classmethod
    def of(cls, trained, counts):
        """The `Filler` of a `TrainedModel`."""
        config, tokenizer = trained.config, trained.tokenizer
        pieces, pad, eos = Pieces(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id
        special = {pad, eos, tokenizer.unk_token_id}
        return cls(
            counts=counts,
            pieces=pieces,
            method=trained.method.name,
            fills_anywhere=trained.method.fills_anywhere,
            length=config.data.length,
            packing=resolve_packing(config.data),
            gap=config.fill.gap,
            learned=learns_padding(config),
            pad=pad,
            eos=eos,
            unknown=tokenizer.unk_token_id,
            glued=without_space(tokenizer, pieces, special),
        )

    @property
    def special(self):
        """Ids of the tokens that are forbidden in gaps, each once."""
        ids = (self.pad, self.eos, self.unknown)
        return tuple(sorted({one for one in ids if one is not None}))

    def jobs(self, place, where, text, samples):
        """The `Job`s of a template, see `fill`. Raises UserError."""
        try:
            template = parse(text)
            fields, gaps = self.layout(template) if template.gaps else (None, [])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        self.counts.templates += 1
        self.counts.open += None in (template.gaps if template.literals[-1] else template.gaps[:-1])
        if fields is not None:
            given = fields["tokens"][fields["is_cond"]]
            self.counts.unknown += self.unknown != self.eos and self.unknown in given

        def job(number):
            def record(tokens):
                texts = self.texts(template, [tokens[one] for one in gaps])
                whole = template.filled(texts)
                return {"template": text, "text": whole, "gaps": texts, "sample": number}

            return Job(place, number, fields, record)

        return [job(number) for number in range(samples)]

    def layout(self, template):
        """(fields of a `Batch` with one row, slices of the gaps).

        Raises:
          UserError: see `fill`.
        """
        last = len(template.gaps)
        texts = [
            self.pieces.encode(literal, index == 0, index == last)
            for index, literal in enumerate(template.literals)
        ]
        if not self.fills_anywhere and any(len(text) for text in texts[1:]):
            raise UserError(
                f"there is text after the first gap, but config.method is {self.method}, which "
                "only continues a text: end with the gap, or use a model of another method"
            )
        sizes = self._sizes(sum(map(len, texts)), template)
        tokens, is_given = np.full(self.length, self.pad, np.int32), np.zeros(self.length, bool)
        count = len(self.special)
        never = np.zeros((self.length, count + (self.glued is not None)), bool)
        gaps, end = [], 0
        for text, size, known in itertools.zip_longest(texts, sizes, template.gaps):
            tokens[end : end + len(text)] = text
            is_given[end : end + len(text)] = True
            end += len(text)
            if size is not None:
                gaps.append(slice(end, end + size))
                is_end = len(gaps) == last and not template.literals[-1]
                never[gaps[-1], :count] = self._forbidden(known is not None, is_end)
                if self.glued is not None and len(text):
                    never[end, count] = template.literals[len(gaps) - 1].endswith(" ")
                end += size
                if known is None and self._is_marked(is_end):
                    is_given[end] = True  # the mark, a token of padding
                    end += 1
        if self.packing != "stream" and self.fills_anywhere and end < self.length:
            tokens[end], is_given[end] = self.eos, True
        fields = {"tokens": tokens, "is_cond": is_given, "is_valid": is_given}
        return fields | {"never": Never(never, self.special, self.glued)}, gaps

    def _sizes(self, text, template):
        """The positions of each gap, for a template with so many tokens of text. Where a row has
        not enough room, gaps of unknown length share what there is.
        """
        gaps = template.gaps
        unknown = sum(size is None for size in gaps)
        exact = sum(size for size in gaps if size is not None)
        is_end = gaps[-1] is None and not template.literals[-1]
        marks = (unknown - is_end) * self._is_marked(False) + is_end * self._is_marked(True)
        eos = self.packing == "rows"
        room = self.length - text - exact - marks - eos
        if room < unknown:
            parts = [f"{text} of text", f"{exact + unknown + marks} of gaps"]
            parts += ["1 of the end"] * eos
            raise UserError(
                f"the template has {self.length - room + unknown} tokens or more ("
                f"{', '.join(parts)}), and the model has room for {self.length}: shorten it"
            )
        size = min(self.gap, room // max(unknown, 1))
        return [size if one is None else one for one in gaps]

    def _is_marked(self, is_end):
        """Whether a gap of unknown length has the mark of training after it. is_end: whether the
        gap ends the template: in a stream nothing is given after it then.
        """
        return self.learned and (self.packing != "stream" or not is_end)

    def _forbidden(self, is_exact, is_end):
        """[K] bool, which of the special tokens a gap cannot have."""
        allowed = set()
        if is_end and not is_exact:
            allowed = {self.pad, self.eos}
        elif self.learned and not is_exact:
            allowed = {self.pad}
        return np.array([one not in allowed for one in self.special])

    def texts(self, template, gaps):
        """The texts of the gaps.

        Args:
          gaps: list of arrays of tokens.
        """
        texts = []
        for index, tokens in enumerate(gaps):
            ends = np.flatnonzero(tokens == self.eos)
            tokens = tokens[: ends[0]] if len(ends) else tokens
            tokens = [int(token) for token in tokens if token != self.pad]
            is_first = index == 0 and not template.literals[0]
            texts.append(fit(self.pieces.decode(tokens, is_first), *template.borders(index)))
        return texts
