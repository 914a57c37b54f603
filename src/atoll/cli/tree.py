"""A command that has commands, each imported only when it is called.

An entry is `module:attribute` below `atoll.cli.commands`; a second name for a command is a second entry that
no section shows. Only help imports them all.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import click

from atoll.cli.flags import FlagError, HelpWanted, canonical


class UnknownCommandError(click.UsageError):
    """No such command."""

    exit_code = 1


class Tree(click.Group):
    """Commands by name: `entries` says where each is, `sections` under which title help shows it."""

    def __init__(
        self,
        name: str,
        *,
        help: str,
        entries: Mapping[str, str],
        sections: Mapping[str, Sequence[str]],
        params: list[click.Parameter] | None = None,
        callback: Callable[..., object] | None = None,
        acts_alone_with: str = "",
    ) -> None:
        super().__init__(
            name,
            help=help,
            params=params,
            callback=callback,
            add_help_option=False,
            invoke_without_command=bool(acts_alone_with),
        )
        self._acts_alone_with = acts_alone_with
        self._entries = entries
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names that help shows."""
        return [name for names in self._sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        return self.find(cmd_name)

    def find(self, name: str) -> click.Command | None:
        """A command by its name, None when there is none."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        module, _, attribute = entry.partition(":")
        command: click.Command = getattr(import_module(f"atoll.cli.commands.{module}"), attribute)
        return command

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titles with the names and summaries of their commands."""
        found = []
        for title, names in self._sections.items():
            commands = [(name, self.find(name)) for name in names]
            rows = [(name, (command.help or "").partition("\n")[0]) for name, command in commands if command]
            found.append((title, rows))
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Flags up to the command's name; help when there is none."""
        try:
            tokens, arguments = canonical(self.params, args, interspersed=False)
        except HelpWanted:
            click.echo(self.get_help(ctx))
            ctx.exit()
        except FlagError as error:
            error.ctx = ctx
            raise
        if not arguments and not ctx.resilient_parsing and self._acts_alone_with not in tokens:
            click.echo(self.get_help(ctx))
            ctx.exit()
        return super().parse_args(ctx, [*tokens, "--", *arguments])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names."""
        command = self.find(args[0])
        if command is None and not ctx.resilient_parsing:
            raise UnknownCommandError(f"unknown command: {ctx.command_path} {args[0]}", ctx)
        return args[0] if command else None, command, args[1:]

    def get_usage(self, ctx: click.Context) -> str:
        """The usage line alone."""
        return f"Usage:  {ctx.command_path}{' [OPTIONS]' if self.params else ''} COMMAND"

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        from atoll.cli.help import tree_page

        return tree_page(self, ctx.command_path)
