"""Every key of a config with its default, once. All configs start from here.

The values are those of the paper's unconditional ELF-B (arXiv 2605.10938). A duration has steps,
epochs and examples: set exactly one of the three. Any key can be set on the command line:
`--config.optimizer.learning_rate=0.002`. `checks.py` has the allowed values. `~` at the start of a
path is the home directory; the config.json of a workdir has the whole path.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the locked default config."""
    config = ConfigDict()
    # The method, a way of modelling text: elf | ar | mdlm | llada | duo | cdcd | flm
    # A method has settings of its own and another sampler, so name it after the file of the config:
    # --config=configs/quickstart.py:mdlm
    config.method = "elf"
    config.seed = 0  # 0 to 2**32 - 1; all random numbers of training depend on it
    config.data = _data()
    config.encoder = _encoder()
    config.model = _model()
    config.objective = _objective()
    config.tokens = _tokens()
    config.mdlm = _mdlm()
    config.duo = _duo()
    config.cdcd = _cdcd()
    config.optimizer = _optimizer()
    config.train = _train()
    config.distill = _distill()
    config.mesh = _mesh()
    config.sample = _sample()
    config.fill = _fill()
    config.evaluate = _evaluate()
    config.sweep = _sweep()
    config.compare = _compare()
    config.scorer = _scorer()
    config.pretrain = _pretrain()
    return config.lock()


def duration(steps=0, epochs=0.0, examples=0):
    """A length of training. Exactly one of the three is not zero. For a warm-up, all three may be
    zero: no warm-up.
    """
    return ConfigDict({"steps": steps, "epochs": epochs, "examples": examples})


def _data():
    """The text, and how it is made into rows of tokens."""
    data = ConfigDict()
    # unicode_names: the names of the characters in Python's unicodedata | text: plain text files
    # jsonl: JSON lines, or Parquet files | tfds: TensorFlow Datasets | hf: Hugging Face datasets
    data.kind = "text"
    # text, jsonl: files or globs, separated by commas (\, is a comma in a name); also compressed:
    # .gz, .bz2, .xz, .zst
    # tfds, hf: the name of a data set (hf: also NAME:CONFIGURATION), or a directory
    data.path = ""
    # jsonl, tfds, hf: the field with the text; for pairs, with the target. a.b is the field b
    # inside the field a
    data.field = "text"
    # jsonl, tfds, hf: the field with the source of a pair; empty: text without sources
    data.source_field = ""
    # jsonl: a line that is not valid JSON, or has no text in its field. error: it is an error
    # skip: it is left out and counted
    data.bad_lines = "error"
    data.split = "train"  # tfds, hf: the split for training
    data.validation_split = ""  # tfds, hf: the split for validation
    # Files or a data set for validation. If this and validation_split are empty, a part of `path`
    # is held out.
    data.validation_path = ""
    data.validation_fraction = 0.05  # the size of that part; a hash of the text chooses it
    # text: a block (of paragraphs, or of lines if there are no blank lines) with more characters is
    # cut, so that a corpus in one line can be split. 0: no block is cut, as before version 0.3
    data.longest_block = 16_000
    data.length = 1024  # L: positions of a row; for pairs, of source and target together
    # pairs: the greatest length of a source in tokens, with its EOS; longer sources are cut
    data.source_length = 0
    # pairs: every source is padded to source_length, so that all targets begin at the same place. A
    # small network then soon learns which part of a source belongs to which part of a target.
    data.pad_source = False
    # rows: one text in each row | stream: all texts as one stream, cut into rows
    # documents: as many whole documents as fit in a row
    # auto: rows for names and pairs, stream for other text
    data.packing = "auto"
    # pad: padding does not count in the loss | eos: rows are padded with EOS, which counts
    data.pad = "pad"
    # bpe, words: trained on the data | auto: words for unicode_names, bpe for other text
    # Or: a directory with a tokenizer, or a name on the Hugging Face hub
    data.tokenizer = "auto"
    data.vocab_size = 8192  # the largest vocabulary of a trained tokenizer
    # A directory of prepared shards. If there are none, training makes them first. Empty: the text
    # is read into memory (unicode_names, text and jsonl only).
    data.prepared = ""
    data.given = _given()
    return data


def _given():
    """Which part of a training row is given, so that a model learns to continue texts and to fill
    gaps. It changes no row of the data and no held-out loss. See docs/filling.md.
    """
    given = ConfigDict()
    # Shares of the rows; in what is left of them, nothing is given
    given.prefix = 0.0  # the beginning of the text (the only one that ar can learn)
    given.suffix = 0.0  # its end
    given.ends = 0.0  # both: there is one gap
    given.spans = 0.0  # all but some gaps anywhere
    # The share of the text that is hidden in these rows is drawn between these two.
    given.hidden_min = 0.1
    given.hidden_max = 0.9
    given.most_spans = 16  # the greatest number of gaps; few are likelier than many
    # Half of the gaps are open: they get up to so many positions more than their text needs, at
    # most as many as the text has, filled with padding. 0: no gap is open.
    given.slack = 8
    return given


def _encoder():
    """The frozen encoder. The latents are (its output - mean) / std."""
    encoder = ConfigDict()
    # gaussian: a random embedding | cooccurrence: an embedding made from co-occurrences in the
    # training data | aligned: the same, and a token of a source has the mean vector of the target
    # tokens that translate it | t5: a pretrained T5 encoder
    encoder.kind = "gaussian"
    # t5: a directory with config.json and model.safetensors, or a name on the Hugging Face hub
    encoder.path = ""
    encoder.width = 512  # C; a T5 has its own width
    # cooccurrence, aligned: this part of the width comes from co-occurrences. The rest is random,
    # so that tokens with the same use have different latents.
    encoder.structured = 0.75
    encoder.mean = 0.0
    # The published value for T5-small is 0.2. 0: mean and std of a T5 are measured on the training
    # data and kept in the workdir; for embeddings, mean and std are 0 and 1.
    encoder.std = 0.0
    return encoder


def _model():
    """The network."""
    model = ConfigDict()
    model.depth = 12
    model.width = 768  # D
    model.heads = 12
    model.bottleneck = 128  # width between the two projections of the input
    model.time_tokens = 4  # control tokens for the time
    model.guidance_tokens = 4  # for the self-conditioning guidance scale
    model.mode_tokens = 4  # for decode mode
    # Not published; elf. The target is written from left to right in blocks of so many positions,
    # and each block is denoised with the text before it as condition. 0: the whole row at once
    model.block_length = 0
    # With block_length. The network learns a table with a vector for each token. The text before a
    # block is read by it too, beside its latents, and the table is the last layer of both heads
    model.token_table = False
    # All methods but an elf without block_length. No position sees the padding between a source and
    # its target (data.pad_source). So rows can be cut to their buckets, see train.length_buckets
    model.hide_padding = False
    model.dropout = 0.0  # in the middle half of the layers
    model.dtype = "auto"  # float32 | bfloat16 | auto: bfloat16 on accelerators, else float32
    # What the backward pass computes again in each block. none: nothing | matmuls: everything
    # except the large matrix products | full: everything; only the input of the block is kept
    model.remat = "none"
    model.unroll = 1  # layers in one iteration of the loop over layers; with `depth` no loop
    # xla | cudnn (NVIDIA GPUs) | fused: kernels for TPUs or for NVIDIA GPUs | auto: the fastest one
    # that the device has
    model.attention = "auto"
    return model


def _objective():
    """The two losses of ELF and the distributions of their random numbers; n is standard normal."""
    objective = ConfigDict()
    objective.decode_fraction = 0.2  # q: part of the examples that decode; the others denoise
    objective.self_cond_fraction = 0.5  # part of the denoising examples with self-conditioning
    # Not published. Weight of a third loss: in the examples that denoise, the head of decode mode
    # also reads the tokens, from noisy latents at all times. Small networks then learn faster what
    # the noise hides. 0: no such loss, as published
    objective.token_weight = 0.0
    # With model.block_length: weight of the cross-entropy of the next token, which the network
    # predicts from the clean text before it
    objective.next_weight = 1.0
    # Not published. The rows with self-conditioning start at an earlier time u t, u uniform on
    # [0, 1), and go to time t by one step of the ODE. So the network also learns from latents that
    # it made itself, as in sampling. It costs nothing, and samples repeat themselves: see
    # docs/research.md
    objective.rollout = False
    objective.noise_scale = 2.0  # s
    objective.decode_noise_scale = 5.0  # s_d: 5 for text, 1 for pairs
    objective.time_mean = -1.5  # t = sigmoid(mean + std n)
    objective.time_std = 0.8
    objective.lambda_mean = 0.8  # decode mode: lambda = sigmoid(mean + std n)
    objective.lambda_std = 0.8
    objective.t_eps = 0.05  # a velocity is divided by max(1 - t, t_eps)
    objective.guidance_min = 0.5  # a; the guidance scale w is in [a, b]; w = 1 is no guidance
    objective.guidance_max = 5.0  # b
    objective.condition_dropout = 0.0  # probability that an example loses its condition
    return objective


def _tokens():
    """What the methods on tokens share: all except elf."""
    tokens = ConfigDict()
    tokens.condition_dropout = 0.0  # probability that an example loses its condition
    return tokens


def _mdlm():
    """Masked diffusion: mdlm and llada."""
    mdlm = ConfigDict()
    mdlm.time_conditioning = False  # whether the network sees the time, or always 0
    return mdlm


def _duo():
    """Uniform-state diffusion. In its first steps the network sees soft tokens (a curriculum)."""
    duo = ConfigDict()
    duo.curriculum = duration()  # steps or examples, not epochs; both 0: there is no curriculum
    duo.temperature = 1e-3  # tau of the soft tokens, softmax(w / tau)
    # The Gaussian noise of the curriculum: gamma is the log of noise over signal, as variances.
    # Both 0: chosen for the vocabulary, so that 0.945 to 0.049 of the tokens are kept.
    duo.gamma_min = 0.0
    duo.gamma_max = 0.0
    return duo


def _cdcd():
    """Diffusion of learned embeddings. Times are standard deviations of the noise."""
    cdcd = ConfigDict()
    cdcd.embedding_width = 256  # d; the embeddings have the norm sqrt(d)
    cdcd.time_min = 1.0
    cdcd.time_max = 300.0
    cdcd.bins = 100  # of the learned law of times (time warping)
    cdcd.warp_rate = 0.01  # learning rate of that law
    cdcd.self_cond_fraction = 0.5  # part of the examples with self-conditioning
    return cdcd


def _optimizer():
    """The optimiser of the main training, and the average of the parameters."""
    optimizer = ConfigDict()
    optimizer.name = "muon"  # muon | adamw
    # For a batch of 256 rows on all devices. It is scaled in proportion to the batch size.
    optimizer.learning_rate = 0.001
    optimizer.adam_scale = 1.0  # muon: learning rate of Adam's part, relative to Muon's
    optimizer.adam_kernels = ""  # muon: a regex; Adam updates the matrices whose names match
    # After the warm-up: constant | linear | cosine. The last two end at zero.
    optimizer.schedule = "constant"
    optimizer.warmup = duration(epochs=0.5)
    optimizer.clip = 1.0  # the gradient is scaled down to this global norm if it is larger
    optimizer.weight_decay = 0.0
    optimizer.adam_b1 = 0.9
    optimizer.adam_b2 = 0.999
    optimizer.ema = 0.9999  # decay of the averaged parameters, which sampling uses
    # The decay after n steps is min(ema, (1 + n) / (10 + n)). Without it, the average of a training
    # of few steps is little more than the first, random weights.
    optimizer.ema_warmup = False
    return optimizer


def _train():
    """The main training."""
    train = ConfigDict()
    train.batch_size = 512  # rows of a step, on all devices together
    train.duration = duration(epochs=5.0)
    train.max_minutes = 0.0  # limit of the training time in all, over resumptions; 0: no limit
    train.accumulate = 1  # micro-batches in a step
    # Of pairs, with model.hide_padding. Every batch has rows from at most so many buckets of like
    # length, and each bucket is padded to its own length only: its sources, and for ar and an elf
    # with model.block_length its targets too. 1: all rows have the whole length
    train.length_buckets = 1
    train.log_every = 100  # steps
    train.validate_every = 5000  # steps; 0: only at the end
    train.validation_batches = 20  # the greatest number of batches in a validation
    # Samples that each validation also makes, always the same ones of section `sample`, for
    # training_samples.txt and TensorBoard; 0: none. They change nothing, and their time is not
    # training time.
    train.samples = 4
    train.checkpoint_every = 5000  # steps; the last step is always saved
    train.keep_checkpoints = 2  # number of the newest checkpoints that are kept
    return train


def _distill():
    """--mode=distill: students of a trained ELF that sample in few steps. Batch size, optimiser and
    average are those of the sections `train` and `optimizer`.
    """
    distill = ConfigDict()
    # progressive: the student learns the mean direction of the teacher over a span of time
    # consistency: it learns the end of the teacher's path. A round for each number of steps; each
    # begins with the student of the one before
    distill.objective = "progressive"
    # Sampling steps of the student of each round. Published: 16, 8, 4, 2, 1, of one epoch each. On
    # small models the round of 8 alone did better, see docs/few_steps.md.
    distill.steps = (8,)
    distill.substeps = 64  # steps of the teacher from noise to data
    # first: the teacher of all rounds is the one that was given | previous: it is the student of
    # the round before; one of its steps is then one of its sub-steps, and `substeps` is for the
    # first round
    distill.teacher = "first"
    # The mean square of the difference to the teacher. x: of the x-predictions | velocity: of the
    # velocities that belong to them, which gives late times more weight
    distill.loss = "x"
    # The time at which a step of the student begins. logit_normal: (1 - 1 / steps) times a draw of
    # the law of training | grid: a whole number of steps, as with sample.time_grid=uniform
    distill.times = "logit_normal"
    distill.duration = duration(epochs=2.0)  # of each round
    distill.warmup = duration(epochs=0.1)  # of each round
    distill.max_minutes = 0.0  # limit of the training time of each round; 0: no limit
    return distill


def _mesh():
    """Devices along each axis; -1: all devices that the other axes leave."""
    mesh = ConfigDict()
    mesh.data = -1  # splits the rows of a batch
    mesh.fsdp = 1  # splits rows and parameters
    mesh.tensor = 1  # splits heads and hidden widths
    return mesh


def _sample():
    """Sampling. Each key except batch_size is also a flag, such as --steps=32."""
    sample = ConfigDict()
    sample.num_samples = 8
    sample.batch_size = 64  # samples that are made at once
    # elf: ode | sde. cdcd, flm: ode. ar: sample | greedy | beam
    # mdlm, llada: ancestral | greedy_tail (the last step takes the likeliest tokens) | confidence
    # duo: ancestral | greedy_tail
    sample.sampler = "sde"
    sample.steps = 32  # ar has none: one for each position
    sample.gamma = 1.5  # sde: strength of the noise that a step adds; 0 is the ode
    # constant | linear: gamma falls to 0 with time, gamma (1 - t)
    sample.gamma_schedule = "constant"
    # uniform | logit_normal: times drawn at random | logit_normal_quantile: evenly spaced quantiles
    # of the same distribution
    sample.time_grid = "logit_normal_quantile"
    # w, scale of self-conditioning guidance, an input of the network; 1: no guidance
    sample.guidance_scale = 3.0
    # c, scale of guidance on the condition, by a second forward pass; 1: no guidance
    sample.cfg_scale = 1.0
    # elf: all noise of sampling is multiplied by it; less than 1: more usual texts, 0: no noise
    sample.noise_temperature = 1.0
    # elf with objective.token_weight: the x-prediction is the mean latent of all tokens, by the
    # token probabilities at this temperature; near 0: the latent of the likeliest token. 0: not
    # used, the x-prediction is that of the network
    sample.token_temperature = 0.0
    # Not for elf: logits are divided by it before a token is drawn; 0: the likeliest token
    sample.temperature = 1.0
    # ar, mdlm, llada, duo: tokens are drawn from the likeliest ones, with this probability together
    sample.top_p = 1.0
    sample.beams = 4  # ar, beam: width of the search
    sample.length_penalty = 1.0  # ar, beam: log-probabilities are divided by length ** this
    # mdlm, llada, confidence: masks are unmasked in blocks of so many, from the left; 0: one block
    sample.block_length = 0
    # For pairs: so many samples of each source are made, and the one that the others agree with
    # most is kept (generation/consensus.py). It takes as many times as long
    sample.candidates = 1
    sample.weights = "ema"  # ema | live
    sample.seed = 0
    return sample


def _fill():
    """--mode=fill."""
    fill = ConfigDict()
    # Positions of a gap ___. A model that was trained with data.given fills what is too much with
    # padding, which is dropped; other models fill all of them with text. Also --gap=N
    fill.gap = 8
    return fill


def _evaluate():
    """--mode=evaluate. With after_training, training ends with an evaluation."""
    evaluate = ConfigDict()
    # Number of texts for each protocol and seed. 0, for pairs only: the whole held-out part.
    evaluate.num_samples = 1000
    evaluate.seeds = 3  # number of seeds: sample.seed and the numbers after it
    # Each protocol is a section with a name. evaluate.protocols.sde32.steps=32 sets a key of the
    # protocol sde32, and makes the protocol if there is none. A protocol has the keys of section
    # `sample`; keys that it does not set are taken from there. Without protocols, section `sample`
    # is the only protocol.
    evaluate.protocols = ConfigDict()
    # gen_ppl, bleu, rouge, separated by commas | auto: gen_ppl for text, bleu,rouge for pairs
    # Metrics that need neither a scorer nor a reference are always computed.
    evaluate.metrics = "auto"
    # The infilling benchmark: what is hidden in held-out texts and filled in by the model. span_N:
    # N percent of each text, at one place | scattered_N: N percent, here and there. Names with
    # commas between, such as span_25,span_50,scattered_25; empty: no benchmark
    evaluate.infill = ""
    evaluate.after_training = False
    evaluate.output = "evaluation.json"  # file name of the summary, in the workdir
    return evaluate


def _sweep():
    """--mode=sweep: all combinations of these values; empty: the value of section `sample`."""
    sweep = ConfigDict()
    sweep.guidance_scale = (1.0, 1.5, 2.0, 3.0, 4.0)
    sweep.cfg_scale = ()
    sweep.steps = (16, 32, 64)
    sweep.gamma = (1.0, 1.5)
    sweep.gamma_schedule = ()
    sweep.time_grid = ()
    sweep.temperature = ()
    sweep.token_temperature = ()
    sweep.num_samples = 256  # texts for each combination and seed; 0: as in section `evaluate`
    sweep.seeds = 1
    return sweep


def _compare():
    """--mode=compare. Of the lists, an empty one stands for the value of each workdir's section
    `sample`; a method that does not have a setting leaves its list out.
    """
    compare = ConfigDict()
    compare.steps = (8, 16, 32, 64)
    # Number of texts for each point and seed. 0, for pairs only: the whole held-out part.
    compare.num_samples = 1000
    compare.seeds = 3  # number of seeds: sample.seed of each workdir and the numbers after it
    # The frontier of Gen. PPL and entropy, if there is a scorer: all combinations of these values
    compare.temperature = (0.7, 0.8, 0.9, 1.0, 1.1)
    compare.guidance_scale = (1.0, 1.5, 2.0, 3.0, 4.0)
    compare.gamma = (1.0, 1.5)
    compare.token_temperature = ()
    compare.frontier_steps = 64  # steps of all points of the frontier
    compare.frontier_seeds = 1
    compare.infill = ""  # the infilling benchmark, as evaluate.infill
    return compare


def _scorer():
    """The GPT-2 of Gen. PPL, and --mode=train_scorer."""
    scorer = ConfigDict()
    # A directory, or a name on the Hugging Face hub. The published scores were computed with
    # gpt2-large. If this is not a directory and WORKDIR/scorer exists, WORKDIR/scorer is used.
    # Empty: only WORKDIR/scorer is used.
    scorer.path = "gpt2-large"
    scorer.dtype = "float32"  # of scoring: float32 | bfloat16 | auto
    scorer.score_batch_size = 16  # texts that are scored at once
    # The following keys are for --mode=train_scorer. The clip, the betas of Adam, the dtype of the
    # computation and the number of validation batches are those of the main training.
    scorer.depth = 6
    scorer.width = 384
    scorer.heads = 6
    scorer.length = 0  # length of its context, at most data.length; 0: data.length
    scorer.steps = 2000
    scorer.batch_size = 64  # rows of a step, on all devices together
    scorer.optimizer = "muon"  # muon | adamw
    # The greatest learning rate. It is for this batch size and is not scaled. Cosine to zero. With
    # adamw, 0.001 is usual, and a weight decay of 0.1.
    scorer.learning_rate = 0.02
    scorer.warmup_steps = 100
    scorer.weight_decay = 0.0
    scorer.log_every = 100  # steps
    scorer.validate_every = 0  # steps; 0: ten validations in the training
    scorer.checkpoint_every = 500  # steps; the last step is always saved
    return scorer


def _pretrain():
    """--mode=pretrain_encoder: a T5 from scratch on the config's data, by span corruption."""
    pretrain = ConfigDict()
    # v1.1: gated GELU and a separate output matrix | v1.0: ReLU, and the embedding is the output
    # matrix
    pretrain.version = "v1.1"
    pretrain.width = 512  # C of the latents; the sizes are those of T5-small
    pretrain.depth = 6
    pretrain.decoder_depth = 6  # only pretraining needs the decoder
    pretrain.heads = 8
    pretrain.head_width = 64
    pretrain.hidden = 1024  # width of the feed-forward layers
    pretrain.density = 0.15  # part of the tokens that are hidden
    pretrain.mean_span = 3.0  # mean length of a hidden span, in tokens
    pretrain.batch_size = 128  # rows of a step, on all devices together
    pretrain.duration = duration(steps=20_000)
    pretrain.log_every = 100  # steps
    pretrain.validate_every = 1000  # steps; the last step is always validated
    pretrain.validation_batches = 20  # the greatest number of batches in a validation
    pretrain.checkpoint_every = 1000  # steps; the last step is always saved
    pretrain.optimizer = _optimizer()  # with these changes:
    del pretrain.optimizer.ema
    del pretrain.optimizer.ema_warmup
    pretrain.optimizer.name = "adamw"
    pretrain.optimizer.learning_rate = 0.002
    pretrain.optimizer.schedule = "cosine"
    pretrain.optimizer.warmup = duration(steps=1000)
    pretrain.optimizer.adam_b2 = 0.98
    return pretrain
