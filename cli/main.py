"""The `cnnengine` command: finds the command's module, and turns every error into one line.

Commands load when they run, so that help is instant: at the top of this module and of the commands'
stand click and the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import keyword
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import click

COMMANDS = {
    "train": "Train a network on a data set.",
    "eval": "Measure a trained network on a data set's test images.",
    "predict": "Name what is in pictures.",
    "import": "Make a model file from the weights of other programs.",
    "export": "Write a trained network for other programs.",
    "convolve": "Walk a filter over a picture, and see what it does.",
    "features": "Show what a network sees in a picture, as a page.",
    "show": "Show a network's layers, its graph after each pass, or its plan.",
    "data": "List, describe and fetch data sets; write pictures of them.",
    "verify": "Check every kernel against float64 on this machine.",
    "bench": "Time kernels and networks beside PyTorch.",
    "tune": "Measure which tiles this GPU likes best.",
    "doctor": "Tell what this machine offers and what is missing.",
    "completion": "Print the lines that make a shell complete commands.",
}
PROGRAM = "cnnengine"
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are modules of this package, each with a `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        return importlib.import_module(f".{module}", __package__).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command and its arguments. Raises: InputError with close matches."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ..engine.errors import unknown_name

            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without loading any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    PROGRAM,
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=lambda *a: _version(*a),
    help="Print the version.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train and run convolutional networks on kernels that you can read.

    Start with `cnnengine train`: it needs no download. Every command has -h.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    0: done; 1: training could not go on; 2: a wrong command, option or file; 3: saved and stopped
    by --stop-above-wh; 130 and 143: by SIGINT and SIGTERM.
    """
    warnings.showwarning = _show_warning
    try:
        code = cli.main(arguments, PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except Exception as error:
        _fail_known(error)
    sys.exit(code if isinstance(code, int) else 0)


def _version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata

    try:
        version = metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        version = "(run from its source tree, not installed)"
    click.echo(f"{PROGRAM} {version}")
    ctx.exit()


def _fail_known(error: Exception) -> NoReturn:
    """End with one line for an error that is told to people; raise any other: it is our bug."""
    from ..engine.errors import InputError, KernelError, TrainingError

    if isinstance(error, (InputError, KernelError)):
        _fail(str(error), 2)
    if isinstance(error, TrainingError):
        _fail(str(error), 1)
    if isinstance(error, MemoryError):
        _fail(f"not enough memory: {error or 'the system gave none'}", 1)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        _drop_output()
        _fail("the output cannot be written: the disk is full", 1)
    raise error


def _fail(message: str, code: int) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        print(f"{PROGRAM}: error: {_line(message)}", file=sys.stderr, flush=True)
    sys.exit(code)


def _drop_output() -> None:
    """Let the interpreter's last flush go nowhere: the reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"{PROGRAM}: warning: {_line(str(message))}", file=sys.stderr)


def _line(message: str) -> str:
    """The message in one line, with what would steer the terminal spelled out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(message.split())
    )
