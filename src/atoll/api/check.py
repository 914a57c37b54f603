"""The route that has the store checked: a line of JSON for each thing that is wrong, and one with the sum."""

import msgspec
from aiohttp import web

from atoll.api.requests import engine_of, flag
from atoll.image import Finding


async def check(request: web.Request) -> web.StreamResponse:
    """Check everything that images consist of, and with `repair` mend it."""
    engine = engine_of(request)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)

    async def send(line: dict[str, object]) -> None:
        await response.write(msgspec.json.encode(line) + b"\r\n")

    async def report(finding: Finding) -> None:
        await send(
            {
                "Kind": finding.kind,
                "Name": finding.name,
                "Problem": finding.problem,
                "Outcome": finding.outcome.value,
            }
        )

    def is_used(image_id: str) -> bool:
        return bool(engine.images.users(image_id))

    checked = await engine.images.content.upkeep.check(report, is_used, repair=flag(request, "repair"))
    await send(
        {
            "Images": checked.images,
            "Blobs": checked.blobs,
            "Layers": checked.layers,
            "Disks": checked.disks,
            "Found": checked.found,
            "Left": checked.left,
        }
    )
    return response


ROUTES = (("POST", "/atoll/check", check),)
