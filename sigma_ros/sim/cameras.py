# SPDX-License-Identifier: Apache-2.0
"""Pictures of a simulated scene. An instance belongs to the thread that first renders with it."""

import copy
import ctypes
import ctypes.util
import os
from typing import Protocol

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.errors import MachineError, UsageError
from sigma_ros.sim.shapes import DETAIL_GROUP

# Opens an off-screen OpenGL context for MuJoCo: EGL where it has a device, else OSMesa.


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


class Cameras:
    """Draws joint states of one model, away from the physics: give it `SimArm.snapshot()`.

    A picture takes a few milliseconds in software because multi-sampling, reflections and (unless
    asked for) shadows are off; `beauty` turns smooth edges, shadows and round shapes on.

    Args:
        model: A scene; never written to.
        shadows: Whether the lamp casts shadows; about doubles the time.
        beauty: For looking at rather than for a policy; slow.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        *,
        width_px: int = 640,
        height_px: int = 480,
        shadows: bool = False,
        beauty: bool = False,
    ) -> None:
        self._model = copy.copy(model)
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width_px, height_px
        if beauty:
            _beautify(self._model)
        else:
            self._model.mat_texid[:] = -1  # the table's grain: 2 ms a picture
        self._data = mujoco.MjData(self._model)
        self._rectangle = mujoco.MjrRect(0, 0, width_px, height_px)
        self._pixels = np.zeros((height_px, width_px, 3), dtype=np.uint8)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[DETAIL_GROUP] = beauty
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._scene = mujoco.MjvScene(self._model, maxgeom=2 * model.ngeom + 50)
        for flag, on in _flags(shadows=shadows or beauty).items():
            self._scene.flags[flag] = on
        self._gl: GlContext | None = None
        self._drawing: mujoco.MjrContext | None = None
        self.names = tuple(model.camera(i).name for i in range(model.ncam))

    def render(self, positions: Float64[ndarray, " nq"], camera: str) -> UInt8[ndarray, "height width 3"]:
        """A picture of the scene in state `positions` (MuJoCo's qpos), RGB, its own copy.

        Raises:
            UsageError: there is no such camera.
            MachineError: no OpenGL library works here.
        """
        if camera not in self.names:
            raise UsageError("no such camera in the simulation", expected=" or ".join(self.names), got=camera)
        drawing = self._open()
        self._data.qpos[:] = positions
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        self._view.fixedcamid = self.names.index(camera)
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._rectangle, self._scene, drawing)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, drawing)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        """Frees the drawing context; call from the thread that rendered."""
        if self._gl is not None and self._drawing is not None:
            self._gl.make_current()
            self._drawing.free()
            self._gl.free()
        self._gl = self._drawing = None

    def __enter__(self) -> "Cameras":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> mujoco.MjrContext:
        if self._gl is None or self._drawing is None:
            self._gl = open_context(self._rectangle.width, self._rectangle.height)
            self._drawing = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._gl.make_current()
        return self._drawing


def _flags(*, shadows: bool) -> dict[int, bool]:
    return {
        mujoco.mjtRndFlag.mjRND_SHADOW: shadows,
        mujoco.mjtRndFlag.mjRND_REFLECTION: False,
        mujoco.mjtRndFlag.mjRND_HAZE: False,
        mujoco.mjtRndFlag.mjRND_SKYBOX: False,
    }


def _beautify(model: mujoco.MjModel) -> None:
    quality = model.vis.quality
    quality.offsamples = 8
    quality.shadowsize = 4096
    quality.numslices, quality.numstacks = 28, 16
