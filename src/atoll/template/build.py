"""Building a template: a guest boots, rehearses, and is saved."""

from contextlib import AsyncExitStack
from dataclasses import replace

from atoll.guest import Agent
from atoll.network.taps import taking_taps
from atoll.template.rehearsal import Exits, Stage, rehearse
from atoll.template.template import Template, new_template
from atoll.vmm import MachineSpec, Monitor


async def build_template(
    monitor: Monitor, spec: MachineSpec, stage: Stage, boot_timeout_s: float, keeper: str = ""
) -> Template:
    """The template of `spec`, a machine without disks, sealed; its taps come from `keeper`, as in `VmSpec`.

    Raises `VmFailed`, `Unavailable`, `OSError`.
    """
    template = new_template(spec.memory_mib)
    try:
        async with AsyncExitStack() as stack:
            taps = await stack.enter_async_context(taking_taps(keeper, len(spec.taps)))
            whole = replace(spec, save_to=template.saved, taps=taps.descriptors)
            machine = await stack.enter_async_context(monitor.create(whole))
            machine.set_priority(low=True)
            exits = Exits()
            agent = await stack.enter_async_context(Agent(machine.agent, exits))
            await machine.start()
            await agent.hello(boot_timeout_s)
            await agent.prepare_template()
            await rehearse(machine, agent, exits, stage, has_taps=bool(whole.taps))
            await machine.save()
            await machine.quit()
        template.seal()
    except BaseException:
        template.close()
        raise
    return template
