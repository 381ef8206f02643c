# SPDX-License-Identifier: Apache-2.0
"""Opens an off-screen OpenGL context for MuJoCo: EGL where it has a device, else OSMesa."""

import ctypes
import ctypes.util
import os
from typing import Protocol

from sigma_ros.errors import MachineError

APT_LINE = "apt-get install libegl1 libgl1-mesa-dri libosmesa6"
BACKENDS = ("egl", "osmesa")


class GlContext(Protocol):
    """What `mujoco.egl` and `mujoco.osmesa` give."""

    def make_current(self) -> None:
        """Makes later drawing of this thread go here."""

    def free(self) -> None:
        """Gives the context back."""


def open_context(width_px: int, height_px: int) -> GlContext:
    """A context for pictures of at most this size, on the calling thread.

    `MUJOCO_GL` set to `egl` or `osmesa` decides which library; otherwise what works here.

    Raises:
        MachineError: there is no working library.
    """
    backend = chosen_backend()
    try:
        if backend == "egl":
            from mujoco.egl import GLContext  # noqa: PLC0415 - importing binds the process to this library
        else:
            from mujoco.osmesa import GLContext  # noqa: PLC0415
        context: GlContext = GLContext(width_px, height_px)
        context.make_current()
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise _no_gl(f"{backend}: {error}") from error
    return context


def chosen_backend() -> str:
    """The user's `MUJOCO_GL`, else the first of EGL and OSMesa that is installed.

    Raises:
        MachineError: there is none.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in BACKENDS:
        return asked
    if _egl_devices() > 0:
        return "egl"
    if _library("OSMesa") is not None:
        return "osmesa"
    raise _no_gl("neither was found")


def _no_gl(reason: str) -> MachineError:
    return MachineError(
        "MuJoCo cannot draw pictures on this machine",
        expected="libEGL with a device, or libOSMesa",
        got=reason,
        remedy=f"{APT_LINE} (MUJOCO_GL=egl or MUJOCO_GL=osmesa chooses between them)",
    )


def _egl_devices() -> int:
    library = _library("EGL")
    if library is None:
        return 0
    library.eglGetProcAddress.restype = ctypes.c_void_p
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return 0
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    count = ctypes.c_int(0)
    return count.value if query(0, None, ctypes.byref(count)) else 0


def _library(name: str) -> ctypes.CDLL | None:
    path = ctypes.util.find_library(name)
    if path is None:
        return None
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None
