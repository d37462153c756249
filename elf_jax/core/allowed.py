"""Which values each config key may have, in tables. `checks` compares a config with them."""

import re

# The values that a key may have. A test compares them with the code that uses them.
CHOICES = {
    "method": ("elf", "ar", "mdlm", "llada", "duo", "cdcd", "flm"),
    "data.kind": ("unicode_names", "text", "jsonl", "tfds", "hf"),
    "data.bad_lines": ("error", "skip"),
    "data.packing": ("auto", "rows", "stream", "documents"),
    "data.pad": ("pad", "eos"),
    "encoder.kind": ("gaussian", "cooccurrence", "aligned", "t5"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.remat": ("none", "matmuls", "full"),
    "model.attention": ("auto", "xla", "cudnn", "fused"),
    "optimizer.name": ("muon", "adamw"),
    "optimizer.schedule": ("constant", "linear", "cosine"),
    "distill.objective": ("progressive", "consistency"),
    "distill.teacher": ("first", "previous"),
    "distill.loss": ("x", "velocity"),
    "distill.times": ("logit_normal", "grid"),
    "sample.sampler": (
        "ode",
        "sde",
        "sample",
        "greedy",
        "beam",
        "ancestral",
        "greedy_tail",
        "confidence",
    ),
    "sample.gamma_schedule": ("constant", "linear"),
    "sample.time_grid": ("uniform", "logit_normal", "logit_normal_quantile"),
    "sample.weights": ("ema", "live"),
    "scorer.dtype": ("auto", "float32", "bfloat16"),
    "scorer.optimizer": ("muon", "adamw"),
    "pretrain.version": ("v1.0", "v1.1"),
    "pretrain.optimizer.name": ("muon", "adamw"),
    "pretrain.optimizer.schedule": ("constant", "linear", "cosine"),
}

# The samplers of each method; the first one is the usual one.
SAMPLERS = {
    "elf": ("sde", "ode"),
    "ar": ("sample", "greedy", "beam"),
    "mdlm": ("ancestral", "greedy_tail", "confidence"),
    "llada": ("confidence", "ancestral", "greedy_tail"),
    "duo": ("ancestral", "greedy_tail"),
    "cdcd": ("ode",),
    "flm": ("ode",),
}

# The smallest value of a number.
SMALLEST = {
    "data.length": 2,
    "data.longest_block": 0,
    "data.given.most_spans": 1,
    "data.given.slack": 0,
    "encoder.width": 1,
    "encoder.std": 0,
    **dict.fromkeys(
        (
            f"model.{name}"
            for name in (
                "depth",
                "width",
                "heads",
                "bottleneck",
                "time_tokens",
                "guidance_tokens",
                "mode_tokens",
                "unroll",
            )
        ),
        1,
    ),
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.length_buckets": 1,
    "train.log_every": 1,
    "train.validate_every": 0,
    "train.validation_batches": 1,
    "train.samples": 0,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.max_minutes": 0,
    "distill.substeps": 1,
    "distill.max_minutes": 0,
    "fill.gap": 1,
    "sample.num_samples": 1,
    "sample.batch_size": 1,
    "sample.steps": 1,
    "sample.gamma": 0,
    "sample.temperature": 0,
    "sample.noise_temperature": 0,
    "sample.token_temperature": 0,
    "sample.beams": 1,
    "sample.length_penalty": 0,
    "sample.block_length": 0,
    "sample.candidates": 1,
    "model.block_length": 0,
    "objective.token_weight": 0,
    "objective.next_weight": 0,
    "cdcd.embedding_width": 1,
    "cdcd.bins": 1,
    "evaluate.num_samples": 0,
    "evaluate.seeds": 1,
    "sweep.num_samples": 0,
    "sweep.seeds": 1,
    "compare.num_samples": 0,
    "compare.seeds": 1,
    "compare.frontier_steps": 1,
    "compare.frontier_seeds": 1,
    **dict.fromkeys(
        (
            f"scorer.{name}"
            for name in (
                "score_batch_size",
                "depth",
                "width",
                "heads",
                "steps",
                "batch_size",
                "log_every",
                "checkpoint_every",
            )
        ),
        1,
    ),
    "scorer.length": 0,
    "scorer.validate_every": 0,
    **dict.fromkeys(
        (
            f"pretrain.{name}"
            for name in (
                "width",
                "depth",
                "decoder_depth",
                "heads",
                "head_width",
                "hidden",
                "batch_size",
                "log_every",
                "validate_every",
                "validation_batches",
                "checkpoint_every",
                "mean_span",
            )
        ),
        1,
    ),
}

# A number must be above this bound: (bound, reason).
ABOVE = {
    "sample.guidance_scale": (0, "1 is no guidance"),
    "objective.t_eps": (0, "velocities are divided by it"),
    "duo.temperature": (0, "soft tokens are the softmax of w over it"),
    "cdcd.time_min": (0, "times are standard deviations"),
    "cdcd.warp_rate": (0, "it is a learning rate"),
}

# The largest seed: JAX makes its keys from 32 bits, and would drop all others without a word.
LARGEST_SEED = 2**32 - 1
SEEDS = ("seed", "sample.seed")

GIVEN = ("prefix", "suffix", "ends", "spans")  # the shares in data.given

# Fractions: (lowest, highest, whether the lowest is allowed, whether the highest is allowed).
FRACTIONS = {
    "data.validation_fraction": (0, 1, True, True),
    **{f"data.given.{name}": (0, 1, True, True) for name in GIVEN},
    "data.given.hidden_min": (0, 1, True, True),
    "data.given.hidden_max": (0, 1, True, True),
    "encoder.structured": (0, 1, False, True),
    "model.dropout": (0, 1, True, False),
    "objective.decode_fraction": (0, 1, True, True),
    "objective.self_cond_fraction": (0, 1, True, True),
    "objective.condition_dropout": (0, 1, True, True),
    "tokens.condition_dropout": (0, 1, True, True),
    "cdcd.self_cond_fraction": (0, 1, True, True),
    "sample.top_p": (0, 1, False, True),
    "optimizer.ema": (0, 1, True, True),
    "pretrain.density": (0, 1, False, False),
}

BUCKET_PARTS = 8  # of a batch; each bucket of train.length_buckets has a whole number of them


def reads_from_left(method, block_length):
    """Whether the network of a method only sees the text before a position, or before a block of
    `model.block_length` positions.
    """
    return method == "ar" or bool(block_length)


METHOD_SECTIONS = ("tokens", "mdlm", "duo", "cdcd")  # of the methods other than elf

DURATIONS = (
    "train.duration",
    "optimizer.warmup",
    "duo.curriculum",
    "distill.duration",
    "distill.warmup",
    "pretrain.duration",
    "pretrain.optimizer.warmup",
)
NOT_EMPTY = ("train.duration", "distill.duration", "pretrain.duration")
METRICS = ("gen_ppl", "bleu", "rouge")  # in evaluate.metrics; those of unconditional text first
METRICS_OF_TEXT = METRICS[:1]
# In evaluate.infill and compare.infill: what is hidden, and how much of the text, in percent.
INFILL = re.compile(r"(span|scattered)_([1-9][0-9]?)")
