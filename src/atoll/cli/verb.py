"""A command of ours: click's, with Docker's grammar, usage line and help.

A verb's function takes the `Session`, its flags by name, and `arguments`: the words that are no flags.
"""

from collections.abc import Callable, Sequence

import click

from atoll.cli.flags import FlagError, HelpWanted, canonical


class ArgumentCountError(click.UsageError):
    """Too few or too many arguments."""

    exit_code = 1


class Verb(click.Command):
    """A command with `usage` (the arguments as the usage line shows them) and so many of them."""

    def __init__(
        self,
        name: str,
        *,
        callback: Callable[..., object],
        params: list[click.Parameter],
        help: str,
        usage: str = "",
        at_least: int = 0,
        at_most: int | None = None,
        interspersed: bool = True,
        aliases: Sequence[str] = (),
    ) -> None:
        arguments = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
        super().__init__(name, callback=callback, params=[*params, arguments], help=help, add_help_option=False)
        self.usage = usage
        self.at_least = at_least
        self.at_most = at_most
        self.interspersed = interspersed
        self.aliases = tuple(aliases)

    @property
    def options(self) -> list[click.Option]:
        """The flags."""
        return [parameter for parameter in self.params if isinstance(parameter, click.Option)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Docker's grammar, then click's conversion."""
        try:
            tokens, arguments = canonical(self.params, args, interspersed=self.interspersed)
        except HelpWanted:
            click.echo(self.get_help(ctx))
            ctx.exit()
        except FlagError as error:
            error.ctx = ctx
            raise
        remaining = super().parse_args(ctx, [*tokens, "--", *arguments])
        if not ctx.resilient_parsing:
            self._check_count(ctx, len(arguments))
        return remaining

    def usage_line(self, path: str) -> str:
        """What Docker prints after `Usage:`."""
        return " ".join(filter(None, [path, "[OPTIONS]" if self.options else "", self.usage]))

    def get_usage(self, ctx: click.Context) -> str:
        """The usage line alone."""
        return f"Usage:  {self.usage_line(ctx.command_path)}"

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        from atoll.cli.help import verb_page

        return verb_page(self, ctx.command_path)

    def _check_count(self, ctx: click.Context, count: int) -> None:
        if self.at_least <= count and (self.at_most is None or count <= self.at_most):
            return
        path = ctx.command_path
        if self.at_most == 0:
            raise ArgumentCountError(f"'{path}' accepts no arguments", ctx)
        wanted, bound = (self.at_least, "at least ") if count < self.at_least else (self.at_most, "at most ")
        if self.at_least == self.at_most:
            bound = ""
        raise ArgumentCountError(f"'{path}' requires {bound}{wanted} argument{'' if wanted == 1 else 's'}", ctx)


def verb(
    name: str,
    usage: str = "",
    *,
    help: str,
    at_least: int = 0,
    at_most: int | None = None,
    interspersed: bool = True,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[..., object]], Verb]:
    """Decorator that makes a `Verb` of a function whose flags are declared below it.

    `at_most` None is any number; `aliases` are the other ways to write the command.
    """

    def make(function: Callable[..., object]) -> Verb:
        params: list[click.Parameter] = list(getattr(function, "__click_params__", ()))
        return Verb(
            name,
            callback=click.pass_obj(function),
            params=params[::-1],
            help=help,
            usage=usage,
            at_least=at_least,
            at_most=at_most,
            interspersed=interspersed,
            aliases=aliases,
        )

    return make
