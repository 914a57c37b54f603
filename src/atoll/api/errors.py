"""Which HTTP status an error becomes."""

from atoll import errors

STATUSES: dict[type[errors.AtollError], int] = {
    errors.AtollError: 500,
    errors.InvalidRequest: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.StartFailed: 400,
    errors.VmFailed: 500,
    errors.RegistryFailed: 500,
    errors.AccessDenied: 401,
    errors.OutOfSpace: 500,
    errors.OutOfMemory: 503,
    errors.Unavailable: 503,
    errors.Unsupported: 501,
}


def http_status(error: errors.AtollError) -> int:
    """The status of the nearest class that has one."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
