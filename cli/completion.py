"""`cnnengine completion`: the script that a shell runs to complete commands and options."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def command(shell: str) -> None:
    """Print the lines that make SHELL complete commands and options.

    \b
    bash: eval "$(cnnengine completion bash)"          in ~/.bashrc
    zsh:  eval "$(cnnengine completion zsh)"           in ~/.zshrc
    fish: cnnengine completion fish | source           in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from .main import PROGRAM, cli

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
