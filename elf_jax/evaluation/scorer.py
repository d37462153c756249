"""The scorer: a GPT-2 that computes the log-likelihoods of texts, and the metrics from them.

N texts, B rows scored at once, L positions. The protocol is in `metrics/perplexity.py`.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import transformers
from jax.sharding import Mesh

from elf_jax.core import processes, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve
from elf_jax.core.types import compute_dtype
from elf_jax.core.workdir import SCORER
from elf_jax.data.tokenizer import load_tokenizer
from elf_jax.evaluation.metrics import perplexity, text
from elf_jax.networks.gpt2 import GPT2, row_nll
from elf_jax.pretrained.gpt2 import load_gpt2

LENGTH = 1024  # tokens, by the protocol; a scorer with a shorter context uses its context
# The vocabulary of a network is often that of its tokenizer, padded to a multiple of this.
VOCAB_MULTIPLE = 128
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # one of them must be there


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """A language model that scores texts.

    Attributes:
      name: its path or its name on the hub. revision: the hub's commit, or a hash of the weights.
      tokenizer: its own. length: the most tokens of a text that are scored together, EOS included.
      batch_size: texts scored at once, a multiple of the devices. mesh: the devices.
      dtype: of the computation, by name.
      params: its parameters, float32, on the mesh.
      nll: jitted (params, tokens [B, L], lengths [B]) -> [B], see `row_nll`.
    """

    name: str
    revision: str
    tokenizer: transformers.PreTrainedTokenizerFast
    length: int
    batch_size: int
    mesh: Mesh
    dtype: str
    params: dict
    nll: Callable

    def provenance(self):
        """What every number of this scorer is recorded with."""
        return {
            "scorer": self.name,
            "scorer_revision": self.revision,
            "scorer_dtype": self.dtype,
            "scorer_length": self.length,
        }


def load_scorer(settings, mesh):
    """The scorer of the config section `scorer`, on the devices of `mesh`.

    Args:
      settings: config section `scorer`; path, dtype and score_batch_size are read. The path is a
        directory with a GPT-2 and its tokenizer, or a name on the Hugging Face hub.
      mesh: rows are split over all its devices; parameters over its axis fsdp, if it has one.

    Raises:
      UserError: the model or its tokenizer does not load, or their vocabularies differ.
    """
    dtype = compute_dtype(settings.dtype)
    directory = resolve(settings.path, "scorer (config.scorer.path)")
    config, params = load_gpt2(directory)
    tokenizer = _load_tokenizer(directory, config.vocab_size)
    network = GPT2(config, dtype)
    batch_size = sharding.whole_rows(settings.score_batch_size, mesh)
    rows = batch_size // sharding.row_shards(mesh)
    return Scorer(
        name=str(settings.path),
        revision=_revision(directory),
        tokenizer=tokenizer,
        length=min(LENGTH, config.n_positions),
        batch_size=batch_size,
        mesh=mesh,
        dtype=np.dtype(dtype).name,
        params=jax.device_put(params, sharding.of_tree(params, mesh)),
        nll=jax.jit(
            lambda params, tokens, lengths: row_nll(network, params, tokens, lengths, rows),
            out_shardings=sharding.replicated(mesh),
        ),
    )


def find_scorer(settings, workdir, mesh, asked=None):
    """The scorer of Gen. PPL, or a line that says why there is none.

    It is `asked` if that is given. Else it is the first of these that exists: settings.path as a
    directory, WORKDIR/scorer, settings.path as a name on the hub.

    Args:
      settings: config section `scorer`. workdir: may have one in `scorer/`. mesh: the devices.
      asked: directory or name from the user, or None.

    Returns:
      (`Scorer`, ""), or (None, a line about what is missing and how to get it).

    Raises:
      UserError: `asked` is not there, or the scorer that was found does not load.
    """
    path, note = scorer_path(settings, workdir, asked)
    if not path:
        return None, note
    settings = settings.copy_and_resolve_references()
    settings.path = path
    return load_scorer(settings, mesh), ""


def scorer_path(settings, workdir, asked=None):
    """(path or name of the scorer that `find_scorer` loads, ""), or ("", a line about what is
    missing). The arguments are those of `find_scorer`.

    Raises:
      UserError: `asked` is not there.
    """
    own, path = pathlib.Path(workdir) / SCORER, asked or settings.path
    is_local = bool(path) and pathlib.Path(path).is_dir()
    if processes.share(not asked and not is_local and own.is_dir()):
        path = str(own)
    if not path:
        return "", ""
    try:
        resolve(path, "scorer (--scorer)")
    except UserError as error:
        if asked:
            raise
        return "", (
            f"no Gen. PPL: {error}, as --scorer=DIRECTORY, or train one on this corpus: "
            f"python main.py --mode=train_scorer --workdir={workdir}"
        )
    return str(path), ""


def revision_of(path):
    """The revision of the scorer at a path or under a name, without loading it.

    Raises:
      UserError: it is not there.
    """
    return _revision(resolve(path, "scorer (--scorer)"))


def tokenise(scorer, texts):
    """The tokens of each text that the scorer reads: list of N int32 arrays, empty for an empty
    text. See `perplexity.scored_tokens`.
    """
    eos = scorer.tokenizer.eos_token_id
    return [perplexity.scored_tokens(ids, eos, scorer.length) for ids in _ids(scorer, texts)]


def score(scorer, rows, progress=lambda count: None):
    """Log-likelihoods of rows of tokens.

    Args:
      scorer: a `Scorer`.
      rows: list of N sequences of at most `scorer.length` token ids, as `tokenise` gives them.
      progress: called with the number of rows scored after each batch.

    Returns:
      ([N] float64, summed negative log-likelihood of each row's tokens but the first, nats;
      [N] int, how many tokens those are).
    """
    counts = np.asarray([max(len(row) - 1, 0) for row in rows], int)
    # All batches have one shape, so there is one compilation. Padding after a text changes nothing
    # in it, so rows need the length of the longest text only. Powers of two keep the shapes few.
    longest = max([len(row) for row in rows], default=0)
    length = min(scorer.length, 1 << max(longest - 1, 1).bit_length())
    size, nll = scorer.batch_size, []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        tokens, lengths = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
        for index, row in enumerate(part):
            tokens[index, : len(row)], lengths[index] = row, len(row)
        placed = sharding.share_rows((tokens, lengths), scorer.mesh)
        nll.append(jax.device_get(scorer.nll(scorer.params, *placed))[: len(part)])
        progress(len(part))
    return np.concatenate([np.zeros(0), *nll]).astype(np.float64), counts


def generative_perplexity(scorer, texts, progress=lambda count: None):
    """Gen. PPL of texts, and the diversity of the same tokens. Always read the two together.

    Args:
      scorer: a `Scorer`. texts: list of strings, samples or real text.
      progress: called with the number of texts scored after each batch.

    Returns:
      Dict of gen_ppl (None if there is nothing to score), the numbers of `text.diversity` over the
      scorer's tokens without EOS, and counts: scored_texts, scored_tokens, empty_texts (dropped),
      cut_texts (longer than `scorer.length`). Record them with `scorer.provenance()`.
    """
    eos = scorer.tokenizer.eos_token_id
    rows = [row for row in tokenise(scorer, texts) if len(row)]
    nll, counts = score(scorer, rows, progress)
    return {
        "gen_ppl": perplexity.perplexity(nll, counts),
        **text.diversity([row[row != eos] for row in rows]),
        "scored_texts": len(rows),
        "scored_tokens": int(counts.sum()),
        "empty_texts": len(texts) - len(rows),
        "cut_texts": sum(int(row[-1]) != eos for row in rows),
    }


def _ids(scorer, texts):
    """Token ids of each text. An EOS that is spelled out in a text is an EOS and ends it."""
    texts = [one if one.strip() else "" for one in texts]
    if not texts:
        return []
    return scorer.tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids


def _load_tokenizer(directory, vocab_size):
    # Without files, transformers makes an empty tokenizer for a GPT-2.
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"the scorer at {directory} has no tokenizer: put its own tokenizer.json and "
            "tokenizer_config.json beside its weights"
        )
    tokenizer = load_tokenizer(directory)
    if not 0 <= vocab_size - len(tokenizer) < VOCAB_MULTIPLE:
        raise UserError(
            f"the scorer at {directory} has a vocabulary of {vocab_size} but its tokenizer has "
            f"{len(tokenizer)} tokens: put its own tokenizer beside its weights"
        )
    return tokenizer


def _revision(directory):
    """The commit of a snapshot from the hub, or a hash of the weights."""
    if directory.parent.name == "snapshots":
        return directory.name
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"
