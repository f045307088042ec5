"""Training on held-out sections: what is costly is made once, what is random is drawn anew at every step."""

from c2sti.training._examples import Case, Example, elastic, make_examples, turn
from c2sti.training._loop import OtherRun, Schedule, TrainingState
from c2sti.training._train import TrainConfig, compared_schedule, make_triplets, train, train_compared

__all__ = [
    "Case",
    "Example",
    "OtherRun",
    "Schedule",
    "TrainConfig",
    "TrainingState",
    "compared_schedule",
    "elastic",
    "make_examples",
    "make_triplets",
    "train",
    "train_compared",
    "turn",
]
