"""Training the network on hidden sections: what is costly is made once, what is random is drawn anew at every step.

A case is a pair, and a section between them that was measured. Its example (model inputs, baseline prediction, truth)
does not change while the network learns; every step turns it, takes some of its genes and compares. Random numbers of a
step depend on the seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from c2sti.training._examples import Case, Example, make_examples
from c2sti.training._loop import Schedule
from c2sti.training._moves import elastic, turn
from c2sti.training._rivals import Triplet, make_triplets, rival_schedule, train_rival
from c2sti.training._state import OtherRun, TrainingState
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
    "rival_schedule",
    "train",
    "train_rival",
    "turn",
]
