"""Write docs/scorers.md from the catalogue of measures."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from advgrpo.models.scorers.catalogue import IMAGE_METRICS, SET_METRICS, MetricFacts

_HEAD = """# Measures

Written by `make docs` from `advgrpo/scorers/`; change that, not this page.

An evaluation draws the same prompts and seeds with the base model and with the trained one, and
compares them by the measures below. Every interval comes from drawing *prompts* again and again,
the same way for both models. `evaluation.scorers` chooses the measures of single images; statistics
and measures of sets are always taken, CMMD if `evaluation.cmmd` names a CLIP. Each of these
scorers may also reward, as a term of `training.reward.terms`.
"""

_IMAGES = """
## Of single images
"""

_SETS = """
## Of sets of images

The features are the class tokens of `evaluation.distance.weights`, a DINOv2; those of CMMD are
CLIP embeddings. For precision, recall, density and coverage only the images that are counted are
drawn again: the neighbourhoods stay those of all images, so their intervals leave out how much the
neighbourhoods themselves would vary. The number of images of a prompt decides how wide those are:
compare only evaluations of equal size. Fewer than six reference images, or than four generated
ones, give no such measure.
"""

_TAIL = """
## Trained on, related, independent

A measure proves little if the reward was trained on it. From the settings of a run
(`RunConfig.independence`) each measure is one of three:

- **trained on**: a term of the reward, or the discriminator that is tuned, is of the scorer's type
  or has its weights. The report sets it apart, and takes no rise of it for a gain. It cannot be
  `evaluation.alignment`, by which the adapter is chosen that is handed on.
- **related**: the reward was not trained on it, but it sees through the same frozen weights: the
  distances, if `evaluation.distance` is the discriminator's backbone or that of a term of the
  reward. The report says so beside it.
- **independent**: all others. Weights that lie at two locations cannot be known to be equal.

## Missing and broken values

Some measures have no value for some prompts: OCR accuracy where nothing is quoted, similarity where
there are no reference images, an external judge where its metadata file lacks the prompt. They are
compared over the prompts that have one; the report says how many have none, and why, and lists a
measure that no prompt has as missing. The measure of `evaluation.alignment` must have a value for
every prompt. A value that is NaN or infinite is never one of these: the evaluation stops and names
measure, prompt and seed.

## Weights

All weights are safetensors, at a pinned commit if they come from a hub. Two are published as
pickles only. These commands read them once, without running what they hold, and write safetensors:

    advgrpo scorers convert-hps --checkpoint HPS_v2.1_compressed.pt --output hps \\
        --base hub://laion/CLIP-ViT-H-14-laion2B-s32B-b79K --revision COMMIT
    advgrpo scorers convert-aesthetic --checkpoint sac+logos+ava1-l14-linearMSE.pth \\
        --output aesthetic

ImageReward is not among the scorers: its package needs names that current versions of transformers
no longer have, and its weights are a pickle.

## An external judge

`evaluation.scorers` of type `external_judge` asks another program, which may have its own
environment: GenEval's detector, a large vision-language model, people. It is started once by each
process that evaluates, without a shell, and is spoken to in JSON, one object a line. It reads

    {"image": "/tmp/x/0.png", "prompt": "two cups", "metadata": {"tag": "counting"}}

and answers each line, in order, by

    {"image": "/tmp/x/0.png", "verdicts": {"correct": true}}

with a verdict for each name in `verdicts`: true, false, or a number from 0 to 1. It must flush its
output after each line, log to standard error only, and end when its input ends. Images are PNG
files that are there until they are answered for. `metadata` names a file with one JSON object a
line, each with a `prompt`; its other keys are handed on. GenEval's `evaluation_metadata.jsonl` is
such a file.

    evaluation:
      scorers:
        - type: external_judge
          command: [python, judge.py]
          metadata: s3://bucket/evaluation_metadata.jsonl

It runs with the rights of the evaluation: name only programs that you trust.
"""

_DIRECTIONS = {True: "higher", False: "lower", None: "neither"}


def markdown() -> str:
    """Describe every measure: range, unit, direction, source, licence and what it cannot see."""
    images, sets = _table(IMAGE_METRICS), _table(SET_METRICS)
    return "\n".join([_HEAD + _IMAGES, *images, _SETS, *sets, _TAIL])


def _table(metrics: Iterable[MetricFacts]) -> Iterator[str]:
    yield "| measure | what | range | unit | better | source | weights' licence | cannot see |"
    yield "|---|---|---|---|---|---|---|---|"
    for facts in metrics:
        cells = (
            f"`{facts.metric}`",
            f"{facts.label}: {facts.note}",
            facts.range,
            facts.unit,
            _DIRECTIONS[facts.higher_is_better],
            facts.source,
            facts.licence,
            facts.blind_to,
        )
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
