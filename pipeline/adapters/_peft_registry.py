"""Registers a tuner in peft; the only module that touches peft's enum of methods.

``peft.utils.register_peft_method`` accepts only members of the enum ``PeftType``, so a tuner from outside peft must add
its member first. Everything else (get_peft_model, saving, loading, AutoPeftModel) goes through peft's public API.
"""

from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from pipeline.core.errors import UserError

# minor versions that tests/unit/adapters/test_adapters_registry.py passes with
KNOWN_PEFT = ("0.21",)


def check_peft_version(version: str) -> None:
    """Check that this registration is tested with a version of peft.

    Raises:
        UserError: an untested version.
    """
    if version.rpartition(".")[0] not in KNOWN_PEFT:
        tested = ", ".join(f"{minor}.x" for minor in KNOWN_PEFT)
        raise UserError(
            f"peft {version}: the bottleneck tuner is tested with peft {tested} only; install such a version, or run "
            "tests/unit/adapters/test_adapters_registry.py with this one and add it to "
            "pipeline/adapters/_peft_registry.py"
        )


def add_peft_type(name: str) -> Any:
    """Add ``name`` to peft's enum of methods, unless it is a member, and return the member."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # EnumType.__setattr__ refuses to set members, type.__setattr__ does not
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def register_tuner(name: str, config_class: type, model_class: type) -> None:
    """Register a tuner in peft under ``name`` (lower case); a second call with the same classes changes nothing.

    Raises:
        UserError: an untested version of peft, or one that already has a method of that name.
    """
    check_peft_version(peft.__version__)
    member = add_peft_type(name.upper())
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if registered is config_class:
        return
    if registered is not None:
        raise UserError(
            f"peft {peft.__version__} already has a method '{name}' ({registered.__module__}); install a version "
            "without it"
        )
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)
