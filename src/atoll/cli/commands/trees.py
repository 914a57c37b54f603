"""`atoll container`, `image`, `network`, `registry`, `volume`, `system` and what they hold: the verbs by subject."""

from atoll.cli.commands.names import CONTAINER_VERBS, IMAGE_VERBS, REGISTRY_VERBS
from atoll.cli.tree import Tree

container = Tree(
    "container",
    help="Manage containers",
    entries={
        **CONTAINER_VERBS,
        "inspect": "inspect:container_inspect",
        "list": "ps:ps",
        "ls": "ps:ps",
        "prune": "prune:containers",
        "remove": "remove:rm",
    },
    sections={"Commands": sorted({*CONTAINER_VERBS, "inspect", "ls", "prune"} - {"ps"})},
)

image = Tree(
    "image",
    help="Manage images",
    entries={
        "history": IMAGE_VERBS["history"],
        "import": IMAGE_VERBS["import"],
        "inspect": "inspect:image_inspect",
        "list": IMAGE_VERBS["images"],
        "load": IMAGE_VERBS["load"],
        "ls": IMAGE_VERBS["images"],
        "prune": "prune:images",
        "pull": IMAGE_VERBS["pull"],
        "push": IMAGE_VERBS["push"],
        "remove": IMAGE_VERBS["rmi"],
        "rm": IMAGE_VERBS["rmi"],
        "save": IMAGE_VERBS["save"],
        "tag": IMAGE_VERBS["tag"],
    },
    sections={"Commands": ["history", "import", "inspect", "load", "ls", "prune", "pull", "push", "rm", "save", "tag"]},
)

network = Tree(
    "network",
    help="Manage networks",
    entries={
        "connect": "networks:connect",
        "create": "networks:create",
        "disconnect": "networks:disconnect",
        "inspect": "inspect:network_inspect",
        "list": "networks:ls",
        "ls": "networks:ls",
        "prune": "networks:prune",
        "remove": "networks:rm",
        "rm": "networks:rm",
        "trace": "networks:trace",
    },
    sections={"Commands": ["connect", "create", "disconnect", "inspect", "ls", "prune", "rm", "trace"]},
)

registry = Tree(
    "registry",
    help="Manage logins at registries",
    entries={**REGISTRY_VERBS, "list": "registry:list_", "ls": "registry:list_"},
    sections={"Commands": ["list", "login", "logout"]},
)

volume = Tree(
    "volume",
    help="Manage volumes",
    entries={
        "create": "volumes:create",
        "inspect": "inspect:volume_inspect",
        "list": "volumes:ls",
        "ls": "volumes:ls",
        "prune": "volumes:prune",
        "remove": "volumes:rm",
        "rm": "volumes:rm",
    },
    sections={"Commands": ["create", "inspect", "ls", "prune", "rm"]},
)

kernel = Tree(
    "kernel",
    help="Manage the kernels that containers run",
    entries={"list": "kernel:list_", "ls": "kernel:list_", "set": "kernel:set_"},
    sections={"Commands": ["list", "set"]},
)

template = Tree(
    "template",
    help="Manage the templates that containers start from",
    entries={
        "build": "templates:build",
        "inspect": "inspect:template_inspect",
        "list": "templates:list_",
        "ls": "templates:list_",
        "remove": "templates:rm",
        "rm": "templates:rm",
    },
    sections={"Commands": ["build", "inspect", "list", "rm"]},
)

system = Tree(
    "system",
    help="Manage the engine",
    entries={
        "check": "check:check",
        "df": "usage:df",
        "info": "info:info",
        "kernel": "trees:kernel",
        "logs": "engine:logs",
        "prune": "prune:system",
        "start": "engine:start",
        "status": "engine:status",
        "stop": "engine:stop",
        "template": "trees:template",
    },
    sections={"Commands": ["check", "df", "info", "kernel", "logs", "prune", "start", "status", "stop", "template"]},
)
