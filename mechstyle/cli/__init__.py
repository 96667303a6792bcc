"""The command line. Nothing heavy is imported before a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer

from mechstyle.cli.compare import compare
from mechstyle.cli.covariance import covariance
from mechstyle.cli.edit import edit
from mechstyle.cli.evaluate import evaluate
from mechstyle.cli.export import export
from mechstyle.cli.ledger import ledger, undo
from mechstyle.cli.models import models
from mechstyle.cli.organisms import organisms
from mechstyle.cli.output import note
from mechstyle.cli.reproduce import reproduce
from mechstyle.cli.study import study
from mechstyle.cli.trace import trace
from mechstyle.errors import InputError, WorkError

__all__ = ["app", "main", "run"]

DONE, FAILED, WRONG_INPUT = 0, 1, 2
TRACEBACK = "MECHSTYLE_TRACEBACK"

app = typer.Typer(
    name="mechstyle",
    help="Trace where a language model keeps a fact, edit it there, score the edit and show it.",
    epilog="Exit codes: 0 done, 1 the work failed, 2 the input was wrong.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (study, trace, edit, ledger, undo, export, evaluate, covariance, reproduce, models):
    app.command(_command.__name__)(_command)
app.add_typer(compare)
app.add_typer(organisms)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors become one line on stderr.

    Example:
        >>> run(["models"])  # doctest: +SKIP
        0
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(str(message))
        try:
            outcome = app(args=list(arguments) or ["--help"], prog_name="mechstyle", standalone_mode=False)
        except InputError as error:
            return _failure(str(error), WRONG_INPUT)
        except WorkError as error:
            return _failure(str(error), FAILED)
        except typer.Abort:
            return _failure("interrupted.", FAILED)
        except KeyboardInterrupt:
            return _failure("interrupted.", FAILED)
        except Exception as error:  # the outermost border: no traceback in a user's face
            if os.environ.get(TRACEBACK):
                raise
            if hasattr(error, "format_message") and hasattr(error, "exit_code"):
                return _failure(f"{error.format_message()} See mechstyle --help.", WRONG_INPUT)
            kind = type(error).__name__
            return _failure(f"the work failed ({kind}: {error}). {TRACEBACK}=1 shows where.", FAILED)
    return outcome if isinstance(outcome, int) else DONE


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def _failure(message: str, code: int) -> int:
    note(message)
    return code
