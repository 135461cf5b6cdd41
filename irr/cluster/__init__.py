"""Predict on many machines: the rows of one run, made by the workers of a Ray cluster.

In: a file or folder of documents, a program, the open journal of a run. Out: the rows that one
machine would have written, in the same journal.

    slices    documents in order → slices; the work of one worker at a time
    worker    in a worker's process: a slice → a part, which outlives kills
    parts     OUTPUT.parts, where parts and their replies wait
    merge     parts in order → the journal of the run
    session   Ray: started quietly or joined, and left
    run       `predict_on_ray`: all of it
"""

from irr.cluster.parts import Spent
from irr.cluster.run import predict_on_ray, remove_parts
from irr.cluster.session import ClusterError, ClusterSettings
from irr.cluster.worker import program_of_options

__all__ = [
    "ClusterError",
    "ClusterSettings",
    "Spent",
    "predict_on_ray",
    "program_of_options",
    "remove_parts",
]
