"""Which command is where: `file:function` by name, as `tree.py` looks them up."""

CONTAINER_VERBS = {
    "attach": "attach:attach",
    "commit": "commit:commit",
    "cp": "cp:cp",
    "create": "create:create",
    "diff": "diff:diff",
    "exec": "exec:exec_",
    "export": "export:export",
    "kill": "kill:kill",
    "logs": "logs:logs",
    "pause": "pause:pause",
    "port": "port:port",
    "ps": "ps:ps",
    "rename": "rename:rename",
    "restart": "stop:restart",
    "rm": "remove:rm",
    "run": "run:run",
    "start": "start:start",
    "stats": "stats:stats",
    "stop": "stop:stop",
    "top": "top:top",
    "unpause": "pause:unpause",
    "wait": "wait:wait",
}
"""Directly below `atoll`, and below `atoll container`."""

IMAGE_VERBS = {
    "history": "history:history",
    "images": "images:images",
    "import": "archives:import_",
    "load": "archives:load",
    "pull": "pull:pull",
    "push": "push:push",
    "rmi": "untag:rmi",
    "save": "save:save",
    "tag": "tag:tag",
}
"""Directly below `atoll`; `atoll image` has its own names for some."""

REGISTRY_VERBS = {
    "login": "registry:login",
    "logout": "registry:logout",
}
"""Directly below `atoll`, and below `atoll registry`."""

TREES = {
    "container": "trees:container",
    "image": "trees:image",
    "info": "info:info",
    "inspect": "inspect:inspect",
    "network": "trees:network",
    "registry": "trees:registry",
    "system": "trees:system",
    "version": "version:version",
    "volume": "trees:volume",
}
