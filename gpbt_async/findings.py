"""The catalogue of findings: faults of a script that runs, each under a code such as GPBT009.

A finding is not an error: the run continues. It shows the finding immediately, in `status`, in `report` and at its end.
`Experiment(silence=…)` and `--silence` hide a finding by its code; `--strict` ends the run at the first one. The guide
"What a finding means" (guides/findings.md) has a section for each; a test compares it with this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from .events import Found

#: name → title; a name is never used for something else
CATALOGUE: dict[str, str] = {
    "GPBT001": "a hyperparameter is searched and never read",
    "GPBT002": "the script reads a hyperparameter that is not in the space",
    "GPBT003": "a hyperparameter is applied, and then overwritten",
    "GPBT004": "parameter groups cannot be told apart",
    "GPBT005": "the score's direction looks reversed",
    "GPBT006": "all members draw the same random numbers",
    "GPBT007": "nothing is saved",
    "GPBT008": "a child's checkpoint is its parent's, unchanged",
    "GPBT009": "the score is the same whatever the config",
    "GPBT010": "many members of a generation fail for one reason",
    "GPBT011": "the score is never reported",
    "GPBT012": "children do not look at their parent's checkpoint",
    "GPBT013": "a thread is left running in the training function",
    "GPBT014": "the score is never finite",
    "GPBT015": "loading the parent's state brings back its hyperparameters",
    "GPBT016": "nothing of a checkpoint fits the model",
    "GPBT017": "every member is judged by another split of the data",
    "GPBT019": "a child's score does not depend on its training",
    "GPBT020": "a searched value is overwritten before it is read",
    "GPBT021": "the metric of choose_by is not reported",
    "GPBT022": "scores on different folds are compared",
    "GPBT023": "the score improves, and a metric on other data does not",
}


class FindingRow(TypedDict):
    """A finding in JSON."""

    code: str
    subject: str
    text: str
    remedy: str
    member: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake in a script. code: a name of CATALOGUE. subject: what it is about (a hyperparameter, a generation).

    text: one sentence on what was observed, with figures. remedy: one on what to do. member: where it was first seen.
    Two findings of the same code and subject are the same finding.
    """

    code: str
    subject: str
    text: str
    remedy: str
    member: int | None = None

    @classmethod
    def of(cls, fact: Found) -> Finding:
        """A finding of the journal."""
        return cls(fact.code, fact.subject, fact.text, fact.remedy, fact.member)

    def to_json(self) -> FindingRow:
        """As a JSON object."""
        return FindingRow(code=self.code, subject=self.subject, text=self.text, remedy=self.remedy, member=self.member)

    @property
    def sentence(self) -> str:
        """The whole finding, for people."""
        return f"{self.code}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def known(code: str) -> bool:
    return code in CATALOGUE
