"""What the host says to a guest: the agent's client, and the making of its requests."""

from atoll.guest.agent import Agent, FileMethod
from atoll.guest.identity_files import network_files
from atoll.guest.mounts import container_mounts
from atoll.guest.start_request import exec_request, profile, start_request

__all__ = ["Agent", "FileMethod", "container_mounts", "exec_request", "network_files", "profile", "start_request"]
