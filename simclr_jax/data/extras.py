"""Optional packages: the one place which imports them, so that a missing one is a one-line message."""

import importlib
import importlib.util
import pathlib
from types import ModuleType

from simclr_jax import base


def require(module: str) -> ModuleType:
    """The imported `module`, for example "PIL.Image".

    Raises:
        base.InputError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module.partition(".")[0]) from error


def package_folder(package: str) -> pathlib.Path:
    """The folder of an installed package, found without importing it.

    Raises:
        base.InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package)
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


_EXTRAS = {"cv2": "stream", "simplejpeg": "stream", "tokenizers": "text", "pyarrow": "text"}


def _missing(package: str) -> base.InputError:
    return base.InputError(
        f"this data set needs the Python package {package}; it is not installed. "
        f"Install it with: pip install 'simclr-jax[{_EXTRAS.get(package, 'data')}]'"
    )
