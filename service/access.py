"""Who asks, and whether they may: every route names the least role, and there is no default."""

from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.keys import LOCAL, Key, find_key
from service.problems import ProblemError
from service.roles import Role
from service.state import Service

#: What a route's dependency carries, for the test over the table of routes.
ROLE_MARK = "binet_role"

_bearer = HTTPBearer(auto_error=False, description="A key: `binet keys create`.")


def service_of(request: Request) -> Service:
    """Return what the requests of this app share."""
    service: Service = request.app.state.service
    return service


ServiceHere = Annotated[Service, Depends(service_of)]


def needs(role: Role) -> Any:
    """Make a dependency that gives the caller's key, if it may do what the role may.

    Without a valid key the answer is 401, with one of a lesser role 403, and 429 for whoever asks
    too often.
    """

    def caller(
        request: Request,
        service: ServiceHere,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Key:
        key = _key(request, service, given)
        if not service.rate.allows(str(key.id)):
            wait = {"Retry-After": str(service.rate.period_s)}
            raise ProblemError(429, "This key asks too often: ask again later", wait)
        if not key.may(role):
            raise ProblemError(403, f"This needs a key with the role {role}, or a higher one")
        return key

    setattr(caller, ROLE_MARK, role)
    return Depends(caller)


def role_of(route: Any) -> Role | None:
    """Return the role that a route asks for; None where it asks for none."""
    found = [
        getattr(dependency.call, ROLE_MARK)
        for dependency in route.dependant.dependencies
        if hasattr(dependency.call, ROLE_MARK)
    ]
    return found[0] if len(found) == 1 else None


def _key(request: Request, service: Service, given: HTTPAuthorizationCredentials | None) -> Key:
    challenge = {"WWW-Authenticate": "Bearer"}
    if given is not None:
        key = find_key(service.store, given.credentials)
        if key is None:
            raise ProblemError(401, "This key is not valid (any more)", challenge)
        return key
    if service.settings.allow_local and _is_loopback(request):
        return LOCAL
    raise ProblemError(401, "Give a key: Authorization: Bearer binet_...", challenge)


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


Viewer = Annotated[Key, needs(Role.VIEWER)]
Operator = Annotated[Key, needs(Role.OPERATOR)]
Admin = Annotated[Key, needs(Role.ADMIN)]
