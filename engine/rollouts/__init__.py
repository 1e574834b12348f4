"""Rollouts of training runs: a log of any trainer, indexed, and read one rollout at a time.

::

    log = RolloutLog.open("outputs/rollouts", home=workspace.home)
    log.index                       # one row for each rollout, as an Arrow table
    log.refresh()                   # what a running trainer has added since
    log.group(key, step, tokenizer) # the rollouts of one prompt, as a subject
    by_step(log.index)

Needs no torch. Nothing in a log is executed.
"""

from engine.rollouts.convert import convert, own_file
from engine.rollouts.log import RolloutLog
from engine.rollouts.logged import LoggedRollout, Place, Said
from engine.rollouts.scan import Bad
from engine.rollouts.summary import across_steps, by_step, interesting, prompts
from engine.rollouts.traces import Traced, trace_of

__all__ = [
    "Bad",
    "LoggedRollout",
    "Place",
    "RolloutLog",
    "Said",
    "Traced",
    "across_steps",
    "by_step",
    "convert",
    "interesting",
    "own_file",
    "prompts",
    "trace_of",
]
