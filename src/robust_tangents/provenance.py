"""What an artefact was made with: package versions, device and precision flags."""

import sys
from importlib import metadata
from typing import Any

from robust_tangents import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "h5py", "scikit-learn", "neural-tangents")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions of the packages that matter and, where JAX is in use, its device and number settings.

    Holds nothing that differs between two equal runs on one machine (no time, host name or path), so that equal work
    gives equal files.
    """
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    record: dict[str, Any] = {
        "versions": {
            "robust-tangents": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            **versions,
        }
    }
    if "jax" in sys.modules:
        import jax

        device = jax.devices()[0]
        record["device"] = f"{device.platform}: {device.device_kind}"
        record["precision"] = {
            flag: getattr(jax.config, flag)
            for flag in ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable")
        }
    else:
        record["device"] = "no JAX device used"
        record["precision"] = {}
    return record
