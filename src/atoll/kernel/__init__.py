"""Guest kernels: where they come from, what they need, and the initramfs that carries the agent."""

from atoll.kernel.agent import agent_path, read_agent
from atoll.kernel.store import Kernel, KernelInfo, KernelStore

__all__ = ["Kernel", "KernelInfo", "KernelStore", "agent_path", "read_agent"]
