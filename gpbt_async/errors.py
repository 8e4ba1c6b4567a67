"""The exceptions of the package, with the cause or the person to act for each.

    GPBTError
    ├── ExperimentError    the user: something in the declaration
    ├── ScriptError        the user: the training script cannot be imported, or declares no experiment
    ├── FolderError        the user: the run's folder exists already, is locked, missing or unwritable
    │   └── JournalError   the journal is damaged, or of another version; names file and line
    ├── DeviceError        the machine: NVML, GPUs, cores
    ├── LaunchError        the machine: a process could not be started, or died before it could work
    ├── SearcherError      the searcher: it raised, hung, or left the space
    ├── TrackerError       the tracker: it raised; the run goes on without it
    ├── MissingExtra       the user: a package that is installed by one of our extras
    ├── PreflightError     the training script: the pre-flight found a mistake (with `strict`)
    └── RunFailed          the training script: the run started, and no member can go on

When a member fails, the scheduler raises no exception: the failure is a fact in the journal. An exception stops the
run. Its class has the exit status of the command line.

`Stopped` is no GPBTError: it is raised *inside* a training function to end it early. It derives from BaseException, as
asyncio.CancelledError does, so that an `except Exception` in a training loop does not catch it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


def _called_from() -> str:
    """`file.py:12: ` of the nearest caller outside this package, so that a declaration error names its line."""
    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((here, "<")):
            return f"{os.path.basename(file)}:{frame.f_lineno}: "
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


@dataclass(frozen=True, slots=True)
class Advice:
    """Something a person should know, that stops nothing; remedy: what to do about it, if that is known."""

    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


class GPBTError(Exception):
    """Base of all errors of this package; its text is one message meant for a person."""

    #: the command line's exit status: 2 = nothing was started, 1 = started and failed
    exit_status: int = 2


class ExperimentError(GPBTError):
    """The declaration is wrong. The text names the line, the field, its value and what is allowed."""

    @classmethod
    def of(cls, field: str, value: object, allowed: str) -> ExperimentError:
        """One shape for every declaration error: `script.py:7: field: got value; allowed`."""
        got = " ".join(line.strip() for line in repr(value).splitlines())  # one line, whatever it is
        return cls.saying(f"{field}: got {got if len(got) <= 300 else got[:300] + ' …'}; {allowed}")

    @classmethod
    def saying(cls, said: str) -> ExperimentError:
        """Any sentence (said), behind the line of the declaration."""
        error = cls(_called_from() + said)
        error.said = said
        return error

    #: the message without the script's line, for an option of the command line; empty if there is none
    said: str = ""


class ScriptError(GPBTError):
    """The training script cannot be used: it fails to import, or holds no (or more than one) Experiment."""


class FolderError(GPBTError):
    """The run's folder cannot be used: taken, locked by another scheduler, missing, or unwritable."""


class JournalError(FolderError):
    """The journal is damaged, or was written by another version."""


class DeviceError(GPBTError):
    """The machine's devices cannot be used as asked."""


class LaunchError(GPBTError):
    """A process of the run could not be started, or died before it could do its work."""

    exit_status = 1


class SearcherError(GPBTError):
    """A searcher raised, did not answer in time, or suggested a config outside the space."""

    exit_status = 1


class MissingExtra(GPBTError):
    """A command needs a package that an extra of this package installs; the text names both."""


class TrackerError(GPBTError):
    """A tracker raised again and again, and gets no more calls."""

    exit_status = 1


class PreflightError(GPBTError):
    """The pre-flight of a strict run has found a mistake; the run ended before the budget was spent."""


class RunFailed(GPBTError):
    """The run started and cannot go on: no member of a generation may become a parent."""

    exit_status = 1


class Stopped(BaseException):
    """Raised by `Member.report` when the member is to end now. Do not catch it, and do not raise it yourself."""


def first(group: BaseExceptionGroup[BaseException]) -> GPBTError | None:
    """The first GPBTError of a task group's errors, unless a bug is among them too."""
    ours, others = group.split(GPBTError)
    if ours is None or others is not None:
        return None
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, GPBTError)
    return error
