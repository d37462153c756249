"""The name of every file in a workdir and in an export.

A workdir holds one training run: its config, its checkpoints, and everything that was made with
its model. An encoder from scratch and a scorer are trained in workdirs of their own, inside the
workdir that uses them.
"""

# The run itself.
CONFIG = "config.json"  # the full config; an export has one too
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"  # in Hugging Face format
DATASET = "dataset.json"  # counts and fingerprints of the data
START = "start.json"  # the checkpoint that the training started from
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CURVE = "loss.png"
TRAINING_SAMPLES = "training_samples.jsonl"  # the same samples at every validation
TRAINING_SAMPLES_TEXT = "training_samples.txt"  # the same, for reading

# The frozen encoder, if it was made from the data.
EMBEDDING = "encoder.safetensors"
STATISTICS = "encoder_stats.json"  # measured mean and standard deviation of the T5's output

# What was made with the model.
SAMPLES = "samples"  # one file of JSON lines for each protocol and seed
SAMPLES_TEXT = "samples.txt"
WATCH = "watch.html"  # how texts come about, a page
RECORDS = "evaluation.jsonl"  # one line for every number
SWEEP = "sweep.json"
FRONTIER = "sweep.png"
EXPORT = "export"

# Models that were trained on the same data.
ENCODER = "encoder"  # also: the copy of a local T5 in an export
ENCODER_TRAINING = "encoder-pretraining"
SCORER = "scorer"
SCORER_TRAINING = "scorer-training"
SCORER_SUMMARY = "training.json"  # in the scorer's directory
OLD_HISTORY = "history.json"  # of an encoder training by version 0.1, in place of METRICS

# A distillation, in its workdir.
DISTILLATION = "distillation.json"  # the teacher, and the rounds that are finished
FEW_STEPS = "few_steps.png"  # quality against steps, teacher and students
ROUNDS = "rounds"  # a workdir for each round, named after the student's number of steps

# In an export.
WEIGHTS = "model.safetensors"
CARD = "README.md"

# In every directory that is written once.
SUMS = "SHA256SUMS"  # checksums of the files, as of the program sha256sum

# Of a training that is running.
LOCK = ".training.lock"  # which process it is

# In the local copy of a workdir that lies in a store.
STORE = ".store"
