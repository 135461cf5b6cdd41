"""The dry run of predict: what a run over many documents will ask, cost and take, before it does.

In: the documents, streamed once, and a program. Out: a `RunEstimate`. All documents are counted
(`irr.dryrun.census`); a few of them, spread over all lengths, go through the program for real
(`irr.dryrun.trial`), and what they used is carried over to the rest (`irr.dryrun.regression`) by
what is known of every document: how many chunks Infer makes of it and how many characters each
stage reads. The replies to the sample are kept in the ledger, so that the run does not pay for
them again.
"""

from irr.dryrun.estimate import RunEstimate, estimate_run
from irr.dryrun.regression import Range
from irr.dryrun.show import print_estimate

__all__ = ["Range", "RunEstimate", "estimate_run", "print_estimate"]
