"""What can be wrong with a template."""

from atoll.cli.errors import Failure


class TemplateError(Failure):
    """A template that cannot be parsed, or asks for what is not there."""
