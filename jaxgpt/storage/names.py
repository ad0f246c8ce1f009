"""The names of the files in a model directory and in a run.

A model directory:

DIR/config.json      {"model": every field of ModelConfig, ...}
DIR/tokenizer.json   the tokenizer, where there is one
DIR/weights/         the parameters
DIR/state/           the rest of the training state, in the checkpoints of a run
DIR/metrics.jsonl    the metrics logged up to then, in the checkpoints of a run
DIR/manifest.json    size and sha256 of every file above

A run:

DIR/config.json         every setting, resolved
DIR/metrics.jsonl       a line for each logged step
DIR/loss.png            the same as a picture, where matplotlib is installed
DIR/checkpoints/NAME/   model directories with all that resuming needs: the best and the newest
DIR/data/               the prepared directory of this run, where data.path named a text
DIR/.lock               locked while the run is trained
"""

from jaxgpt.data.tokenizer_files import TOKENIZER as TOKENIZER
from jaxgpt.system.directories import MANIFEST as MANIFEST

CONFIG = "config.json"
WEIGHTS = "weights"
STATE = "state"
METRICS = "metrics.jsonl"
PICTURE = "loss.png"
CHECKPOINTS = "checkpoints"
DATA = "data"
LOCK = ".lock"
