"""The device whose kernels are verified, with the backends that are asked for."""

from __future__ import annotations

from dataclasses import replace

from ...engine.device import KERNELS, Device, open_device
from ...engine.errors import InputError, unknown_name
from ...kernels import registry


def open_for_verify(name: str, kernels: str = "auto") -> Device:
    """The device called `name` with every backend that runs on it, or the one called `kernels`.

    Raises: InputError for an unknown name, or a device or backend that is not here.
    """
    if kernels != "auto" and kernels not in registry.BACKENDS:
        raise unknown_name("kernels", kernels, ("auto", *registry.BACKENDS))
    if kernels in KERNELS:
        return open_device(name, kernels)
    device = open_device(name)  # a partial backend, which the engine does not take alone
    if kernels not in device.backends:
        reason = registry.missing(kernels) or f"it does not run on --device {device.name}"
        raise InputError(f"--kernels {kernels}: {reason}")
    return replace(device, backends=(kernels,), declined=())
