"""The names of all files in the folders that jaxgpt writes.

A model directory:

DIR/config.json      {"model": every field of ModelConfig, ...}
DIR/tokenizer.json   the tokenizer, where there is one
DIR/weights/         the parameters; in the checkpoints of a run with adapters, the adapters alone
DIR/state/           the rest of the training state, in the checkpoints of a run
DIR/metrics.jsonl    the metrics logged up to then, in the checkpoints of a run
DIR/manifest.json    size and sha256 of every file above

A run:

DIR/config.json         every setting, resolved
DIR/metrics.jsonl       a line for each logged step
DIR/loss.png            the same as a picture, where matplotlib is installed
DIR/checkpoints/NAME/   model directories with all that resuming needs: the best and the newest
DIR/base/               the frozen model, a model directory, of a run that trains adapters
DIR/profile/            the trace of the steps of run.profile
DIR/data/               the prepared directory of this run, where data.path named a text
DIR/.lock               locked while the run is trained

A prepared directory:

DIR/train.bin, DIR/val.bin   the ids of the two splits
DIR/tokenizer.json           the tokenizer, where the ids come from text
DIR/data.json                the sources and settings, for people
DIR/manifest.json            size and sha256 of every file above

While a data set is being streamed to DIR, .DIR.unfinished/ next to it has instead:

stream.json, tokenizer.json, .lock, and the ids so far

A prepared directory of pairs also has:

DIR/train.bin, DIR/val.bin       the ids of each source and its target
DIR/train.offsets.bin, ...       where each source and each target begins
DIR/target_tokenizer.json        the tokenizer of the targets, if it is not that of the sources
DIR/data.json                    also the ids that each target begins and ends with

A prepared directory of prompts and answers also has:

DIR/train.answers.bin, ...   1 for each id that counts in the loss, else 0
DIR/train.offsets.bin, ...   where each example begins

Tokenizers are also read from files of other programs: vocab.json with merges.txt, and meta.pkl. The
names of weights in Hugging Face folders are in `convert/files/hf_folder.py`.
"""

CONFIG = "config.json"
# The tokenizer keeps the name that Hugging Face's libraries give it, because they open it too.
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights"
STATE = "state"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"

PICTURE = "loss.png"
CHECKPOINTS = "checkpoints"
BASE = "base"
PROFILE = "profile"
DATA = "data"
LOCK = ".lock"

SPLITS = {"train": "train.bin", "val": "val.bin"}  # nanoGPT's have the same names
ABOUT = "data.json"
STREAM = "stream.json"
OFFSETS = {"train": "train.offsets.bin", "val": "val.offsets.bin"}  # of pairs and examples
ANSWERS = {"train": "train.answers.bin", "val": "val.answers.bin"}
TARGET_TOKENIZER = "target_tokenizer.json"

VOCABULARY, MERGES = "vocab.json", "merges.txt"  # GPT-2's
META = "meta.pkl"  # nanoGPT's
