"""Names of containers: which are allowed, and random ones for those who do not care."""

import random
import re
from collections.abc import Container as Names

from atoll.errors import InvalidRequest

ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(ALLOWED + "+")

_ADJECTIVES = (
    "able agile amber ample azure bold brave breezy bright brisk calm candid clear clever coral cosy crisp "
    "curious daring deep eager early easy fair famous fluent fond free fresh frosty gentle glad golden grand "
    "happy hardy honest humble jolly keen kind lively lucid lucky mellow merry mighty mild modest neat noble "
    "patient plucky polite proud quick quiet rapid ready salty serene sharp shiny silent silver smart snug solid "
    "stable steady still sunny swift tidal tidy tough tranquil trusty upbeat vast vivid warm wise witty young "
    "zesty"
)

_SURNAMES = (
    "agnesi anning avogadro banks bartholomew baudin beaufort beebe bell boole bowditch carson celsius cousteau "
    "crick curie dampier darwin dana drake earle ekman euler faraday fermi flinders forbes fourier franklin "
    "galois gauss germain haeckel halley hamilton hertz hooke hopper humboldt joule kelvin kepler knight "
    "kovalevskaya krill lamarr langmuir laplace lovelace magellan marsigli maury maxwell meitner mercator munk "
    "nansen newton noether ohm pascal payne pettersson piccard planck raman ross sars scoresby somerville tharp "
    "thomson tizard turing vanveen volta wallis wegener wright wust"
)


def check_name(name: str) -> str:
    """`name` without its leading slash; raises `InvalidRequest` in Docker's words when it is not allowed."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare):
        raise InvalidRequest(f"Invalid container name ({name}), only {ALLOWED} are allowed")
    return bare


def random_name(taken: Names[str]) -> str:
    """An adjective and a surname that nobody has, with a number behind them when they run out."""
    for attempt in range(100):
        name = f"{random.choice(_ADJECTIVES.split())}_{random.choice(_SURNAMES.split())}"
        if attempt >= 10:
            name += str(random.randrange(10 * attempt))
        if name not in taken:
            return name
    raise InvalidRequest("no free name was found for the container: give it one with --name")
