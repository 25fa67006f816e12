"""The command line: verbs, flags and exit codes. Data goes to stdout, everything else to stderr.

Exit codes: 0 fine, 1 failed, 2 wrong usage or settings, 3 a dependency cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

import tusgate
from tusgate.cli.config import config
from tusgate.cli.doctor import doctor
from tusgate.cli.events import app as events
from tusgate.cli.exits import exit_code_of
from tusgate.cli.flags import with_settings
from tusgate.cli.gc import gc
from tusgate.cli.jobs import app as jobs
from tusgate.cli.migrate import migrate
from tusgate.cli.reconcile import reconcile
from tusgate.cli.serve import serve
from tusgate.cli.token import token
from tusgate.cli.upload import upload
from tusgate.cli.usage import usage
from tusgate.cli.worker import worker

app = typer.Typer(
    help="Take resumable uploads (tus) and store them in S3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(with_settings(serve))
app.command()(with_settings(worker))
app.command()(with_settings(migrate))
app.command()(with_settings(config))
app.command()(with_settings(doctor))
app.command()(with_settings(gc))
app.command()(with_settings(reconcile))
app.command()(with_settings(usage))
app.command()(upload)
app.add_typer(token, name="token")
app.add_typer(events, name="events")
app.add_typer(jobs, name="jobs")


@app.command()
def version() -> None:
    """Print the version."""
    print(tusgate.__version__)


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    sys.exit(exit_code_of(app))
