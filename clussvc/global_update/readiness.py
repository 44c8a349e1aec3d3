"""Whether resources are set up far enough to be brought online: required properties and required dependencies."""

from __future__ import annotations

from collections.abc import Iterable

from clussvc.model.config import Config, Resource
from clussvc.model.reports import Report, missing_dependency, not_set_up, type_not_found
from clussvc.resources.type_info import BUILTIN_TYPES, check_private, find_type


def check_ready(config: Config, resources: Iterable[Resource]) -> Report | None:
    """The first thing that one of these resources lacks; None if all may be brought online."""
    for resource in resources:
        info = find_type(resource.type)
        if info is None:
            return type_not_found(resource.type, BUILTIN_TYPES)
        has = {config.resources[provider].type.casefold() for provider in resource.depends_on}
        for wanted in info.required_dependencies:
            if wanted.casefold() not in has:
                return missing_dependency(resource.name, info.name, wanted)
        problems = check_private(info, resource.private)
        if problems:
            return not_set_up(resource.name, "; ".join(problems))
    return None
