"""Every setting of ELF-JAX with its default, once. Other configs start from this one.

Values are those of the paper's unconditional ELF-B (arXiv 2605.10938). Durations are given as
steps, epochs or examples: set exactly one of the three. Any key can be set from the command line:
`--config.optimizer.learning_rate=0.002`.
"""

import ml_collections
from ml_collections import ConfigDict


def duration(steps=0, epochs=0.0, examples=0):
    """A length of training; exactly one of the three is non-zero (none: no warm-up)."""
    return ConfigDict({"steps": steps, "epochs": epochs, "examples": examples})


def get_config() -> ml_collections.ConfigDict:
    """Returns the locked default config."""
    config = ConfigDict()
    config.method = "elf"  # the way of modelling text; elf is the only one so far
    config.seed = 0  # everything random follows from it

    config.data = ConfigDict()
    config.data.kind = "text"  # unicode_names | text | jsonl | tfds | hf
    # text, jsonl: files or globs, separated by commas; .gz is read as it is | tfds, hf: name of a
    # data set (hf: with NAME:CONFIGURATION) or directory of a saved one
    config.data.path = ""
    # jsonl, tfds, hf: the field that holds the text (of a pair: the target); a.b is b inside a
    config.data.field = "text"
    # jsonl, tfds, hf: the field that holds the condition of a pair; empty: unconditional
    config.data.source_field = ""
    config.data.split = "train"  # tfds, hf: the split to train on
    config.data.validation_split = ""  # tfds, hf: the split to validate with
    # validation files or data set; this and validation_split empty: a part of `path` is split off
    config.data.validation_path = ""
    config.data.validation_fraction = 0.05  # that part, chosen by a hash of the text
    config.data.length = 1024  # L: positions of a row, condition and target together
    # pairs: longest condition in tokens, its EOS included; longer ones are cut
    config.data.source_length = 0
    # rows: one text a row | stream: one long stream, cut | documents: whole documents, as many as
    # fit in a row | auto: rows for names and pairs, stream for other text
    config.data.packing = "auto"
    # pad: padding is not in the loss | eos: padded with EOS, which is in the loss
    config.data.pad = "pad"
    # bpe | words (both trained on the data) | a directory with a tokenizer, or a name on the
    # Hugging Face hub | auto: words for unicode_names, bpe for other text
    config.data.tokenizer = "auto"
    config.data.vocab_size = 8192  # largest vocabulary of a trained tokenizer
    # directory of prepared shards, made first if there are none; empty: all is read into memory
    # (text and jsonl only)
    config.data.prepared = ""

    config.encoder = ConfigDict()
    # gaussian: a frozen random embedding | cooccurrence: a frozen embedding from the training
    # data's co-occurrences | t5: a pretrained T5 encoder
    config.encoder.kind = "gaussian"
    # t5: a directory with config.json and model.safetensors, or a name on the Hugging Face hub
    config.encoder.path = ""
    config.encoder.width = 512  # C (a T5 brings its own)
    # cooccurrence: so much of the width; the rest is random and tells tokens of like use apart
    config.encoder.structured = 0.75
    config.encoder.mean = 0.0  # latents = (encoder output - mean) / std
    # 0.2 for T5-small; 0: of a T5, mean and std are measured on the training data, and kept in
    # the workdir; the embeddings are made to have 0 and 1
    config.encoder.std = 0.0

    config.model = ConfigDict()
    config.model.depth = 12
    config.model.width = 768
    config.model.heads = 12
    config.model.bottleneck = 128  # width between the two input projections
    config.model.time_tokens = 4
    config.model.guidance_tokens = 4
    config.model.mode_tokens = 4
    config.model.dropout = 0.0  # in the middle half of the depth
    config.model.dtype = "auto"  # compute: float32 | bfloat16 | auto: bfloat16 on accelerators
    # what the backward pass computes again of each block: none | matmuls: all but the large
    # products | full: everything but its input
    config.model.remat = "none"
    config.model.unroll = 1  # layers in the body of the scan over layers
    # xla | cudnn (NVIDIA GPUs) | fused (TPUs) | auto: the fastest that the device has
    config.model.attention = "auto"

    config.objective = ConfigDict()
    config.objective.decode_fraction = 0.2  # of the examples; the rest denoise
    config.objective.self_cond_fraction = 0.5  # of the denoising examples
    config.objective.noise_scale = 2.0  # s
    config.objective.decode_noise_scale = 5.0  # s_d: 5 unconditional, 1 conditional
    config.objective.time_mean = -1.5  # t = sigmoid(mean + std n)
    config.objective.time_std = 0.8
    config.objective.lambda_mean = 0.8  # decode mode: lambda = sigmoid(mean + std n)
    config.objective.lambda_std = 0.8
    config.objective.t_eps = 0.05  # smallest 1 - t that a velocity is divided by
    config.objective.guidance_min = 0.5  # a of the law of w in [a, b]; w = 1 is no guidance
    config.objective.guidance_max = 5.0  # b
    config.objective.condition_dropout = 0.0  # probability that an example loses its condition

    config.optimizer = ConfigDict()
    config.optimizer.name = "muon"  # muon | adamw
    # at a global batch of 256; scaled linearly with the batch
    config.optimizer.learning_rate = 0.001
    config.optimizer.adam_scale = 1.0  # muon: Adam's learning rate, relative to Muon's
    config.optimizer.adam_kernels = ""  # muon: regex of kernels that Adam updates all the same
    # after the warm-up: constant | linear | cosine (both to zero)
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = duration(epochs=0.5)
    config.optimizer.clip = 1.0  # global norm of the gradient
    config.optimizer.weight_decay = 0.0
    config.optimizer.adam_b1 = 0.9
    config.optimizer.adam_b2 = 0.999
    config.optimizer.ema = 0.9999  # decay of the averaged parameters, which are sampled from

    config.train = ConfigDict()
    config.train.batch_size = 512  # global, rows a step
    config.train.duration = duration(epochs=5.0)
    config.train.max_minutes = 0.0  # stop after so many minutes of training in all; 0: no limit
    config.train.accumulate = 1  # micro-batches that make up one step
    config.train.log_every = 100  # steps
    config.train.validate_every = 5000  # steps; 0: only at the end
    config.train.validation_batches = 20  # at most so many
    config.train.checkpoint_every = 5000  # steps; the last step is always saved
    config.train.keep_checkpoints = 2

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along each axis; -1: as many as are left
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.sample = ConfigDict()
    config.sample.num_samples = 8
    config.sample.batch_size = 64  # samples made at once
    config.sample.sampler = "sde"  # ode | sde
    config.sample.steps = 32
    config.sample.gamma = 1.5  # sde: how much noise is put back in a step; 0 is the ode
    # uniform | logit_normal | logit_normal_quantile
    config.sample.time_grid = "logit_normal_quantile"
    # w, self-conditioning guidance, an input of the network; 1: none
    config.sample.guidance_scale = 3.0
    config.sample.cfg_scale = 1.0  # c, guidance on the condition, a second forward pass; 1: none
    config.sample.weights = "ema"  # ema | live
    config.sample.seed = 0

    config.evaluate = ConfigDict()
    # texts of every protocol and seed; 0: of pairs, the whole validation split
    config.evaluate.num_samples = 1000
    config.evaluate.seeds = 3  # sample.seed and those after it
    # Each protocol is a section with a name: config.evaluate.protocols.sde32.steps=32 sets a key
    # of the one called sde32, and makes it if there is none. It takes the keys of the section
    # sample, which gives all those that it does not set. No protocol: the section sample as it is.
    config.evaluate.protocols = ConfigDict()
    # what is computed besides the numbers that need nothing: gen_ppl | bleu | rouge, with commas
    # between; auto: gen_ppl for text, bleu,rouge for pairs; empty: nothing
    config.evaluate.metrics = "auto"
    config.evaluate.after_training = False
    config.evaluate.output = "evaluation.json"  # the summary, in the workdir

    # --mode=sweep: every combination of these values; empty: the value of the section sample
    config.sweep = ConfigDict()
    config.sweep.guidance_scale = (1.0, 1.5, 2.0, 3.0, 4.0)  # w
    config.sweep.cfg_scale = ()  # c, of pairs
    config.sweep.steps = (16, 32, 64)
    config.sweep.gamma = (1.0, 1.5)  # of sde
    config.sweep.time_grid = ()
    config.sweep.num_samples = 256  # texts of every combination and seed; 0 as in evaluate
    config.sweep.seeds = 1

    config.scorer = ConfigDict()
    # the GPT-2 of Gen. PPL: a directory, or a name on the Hugging Face hub; for a name or nothing
    # WORKDIR/scorer stands in, where --mode=train_scorer made one. gpt2-large is the published
    # protocol's; empty: no Gen. PPL without WORKDIR/scorer
    config.scorer.path = "gpt2-large"
    config.scorer.dtype = "float32"  # of scoring: float32 | bfloat16 | auto
    config.scorer.score_batch_size = 16  # texts scored at once
    # From here on: of --mode=train_scorer. The clip, Adam's betas, the compute dtype and the
    # number of validation batches are those of the main job.
    config.scorer.depth = 6
    config.scorer.width = 384
    config.scorer.heads = 6
    config.scorer.length = 0  # its context, at most data.length; 0: data.length
    config.scorer.steps = 2000
    config.scorer.batch_size = 64  # global, rows a step
    config.scorer.learning_rate = 0.001  # the highest, at this batch; AdamW, cosine to zero
    config.scorer.warmup_steps = 100
    config.scorer.weight_decay = 0.1
    config.scorer.log_every = 100  # steps
    config.scorer.validate_every = 0  # steps; 0: ten times, evenly spaced
    config.scorer.checkpoint_every = 500  # steps; the last step is always saved

    # --mode=pretrain_encoder: a T5 from scratch on this config's data, by span corruption
    config.pretrain = ConfigDict()
    # v1.1: gated GELU, the output a matrix of its own | v1.0: ReLU, the output tied to the input
    config.pretrain.version = "v1.1"
    config.pretrain.width = 512  # C of the latents; sizes are those of T5-small
    config.pretrain.depth = 6
    config.pretrain.decoder_depth = 6  # the decoder is needed for pretraining alone
    config.pretrain.heads = 8
    config.pretrain.head_width = 64
    config.pretrain.hidden = 1024  # of the feed-forward
    config.pretrain.density = 0.15  # part of the tokens that is hidden
    config.pretrain.mean_span = 3.0  # tokens of a hidden span, in the mean
    config.pretrain.batch_size = 128  # global, rows a step
    config.pretrain.duration = duration(steps=20_000)
    config.pretrain.log_every = 100  # steps
    config.pretrain.validate_every = 1000  # steps; the last step always is
    config.pretrain.validation_batches = 20  # at most so many
    config.pretrain.checkpoint_every = 1000  # steps; the last step is always saved
    config.pretrain.optimizer = ConfigDict()  # keys as in config.optimizer
    config.pretrain.optimizer.name = "adamw"
    # at a global batch of 256; scaled linearly with the batch
    config.pretrain.optimizer.learning_rate = 0.002
    config.pretrain.optimizer.adam_scale = 1.0
    config.pretrain.optimizer.adam_kernels = ""
    config.pretrain.optimizer.schedule = "cosine"
    config.pretrain.optimizer.warmup = duration(steps=1000)
    config.pretrain.optimizer.clip = 1.0
    config.pretrain.optimizer.weight_decay = 0.0
    config.pretrain.optimizer.adam_b1 = 0.9
    config.pretrain.optimizer.adam_b2 = 0.98
    return config.lock()
