"""The one place that touches peft's enum of methods.

``peft.utils.register_peft_method`` takes only names that are members of the enum ``PeftType``, so a tuner from outside
peft adds its member first. Everything behind (get_peft_model, saving, loading, AutoPeftModel) is peft's public path.
"""

from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from pipeline.core.errors import UserError

# minor versions whose enum and registry the tests have seen
KNOWN_PEFT = ("0.21",)


def check_peft_version(version: str) -> None:
    """Refuse a peft whose inside is not known to work with this registration.

    Raises:
        UserError: naming the version found and the versions known.
    """
    if version.rpartition(".")[0] not in KNOWN_PEFT:
        known = ", ".join(f"{minor}.x" for minor in KNOWN_PEFT)
        raise UserError(
            f"peft {version}: the bottleneck tuner is tested with peft {known} only; install such a version, or run "
            "tests/unit/test_adapters_registry.py with this one and add it to pipeline/adapters/_peft_registry.py"
        )


def add_peft_type(name: str) -> Any:
    """Add ``name`` to peft's enum of methods and return the member; an existing member is returned as it is."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # EnumType.__setattr__ refuses members, type's own does not
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def register(name: str, config_class: type, model_class: type) -> None:
    """Make a tuner known to peft under ``name`` (lower case); a second call with the same classes changes nothing.

    Raises:
        UserError: if this peft is not known, or has a method of that name already.
    """
    check_peft_version(peft.__version__)
    member = add_peft_type(name.upper())
    present = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if present is config_class:
        return
    if present is not None:
        raise UserError(
            f"peft {peft.__version__} already has a method '{name}' ({present.__module__}); ours cannot replace it"
        )
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)
