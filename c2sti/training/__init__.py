"""Training the network on held-out sections: what is costly is made once, what is random is drawn anew at every step.

A case is a pair, and a section between them that was measured. Its example (model inputs, baseline prediction, truth)
does not change while the network learns; every step turns it, takes some of its genes and compares. Random numbers of a
step depend on the seed and the step alone, so a run that was killed continues as if nothing had happened.
"""

from c2sti.training._compared import Triplet, compared_schedule, make_triplets, train_compared
from c2sti.training._examples import Case, Example, elastic, make_examples, turn
from c2sti.training._loop import OtherRun, Schedule, TrainingState
from c2sti.training._train import Objective, TrainConfig, train

__all__ = [
    "Case",
    "Example",
    "Objective",
    "OtherRun",
    "Schedule",
    "TrainConfig",
    "TrainingState",
    "Triplet",
    "elastic",
    "make_examples",
    "make_triplets",
    "compared_schedule",
    "train",
    "train_compared",
    "turn",
]
