# SPDX-License-Identifier: Apache-2.0
"""What the SO-101's links look like, drawn with boxes, rods and convex hulls at the zero pose.

Printed parts are `printed` or `accent`, servos `servo` with a `metal` horn. Arm links are drawn in the
base frame; hand and jaw in a frame at the wrist's roll axis with x towards the finger tips and z from
the fixed jaw to the moving one. Servos stand exactly where the real ones do.
"""

from collections.abc import Callable, Mapping

import numpy as np

from sigma_ros.sim.shapes import Pen, Point, arc

SERVO_SIZE_M = (0.0452, 0.0247, 0.0300)
SERVO_SHAFT_M = 0.0125
"""The STS3215's case, long side first, without its shaft; and how far the shaft is from the middle."""

TIP_GAP_M = (-0.0081, 0.0082)
"""Inner faces of the fixed and the moving finger tip where the gripper reads 0 rad."""

_CHEEK_M = (0.0190, 0.0238)
"""A fork's two cheeks, left and right of the servo they hold [y]."""


def _servo(pen: Pen, centre_m: Point, long_axis: str, horn_axis: str, *, shaft: float) -> None:
    """A servo case with its paler middle part and its horns; `shaft` is +1 or -1 along the long axis."""
    side = dict(zip((long_axis, _third(long_axis, horn_axis), horn_axis), SERVO_SIZE_M, strict=True))
    core = {axis: size * (1.06 if axis == horn_axis else 0.93) for axis, size in side.items()}
    pen.box(centre_m, (side["x"], side["y"], side["z"]), "servo")
    pen.box(_moved(centre_m, long_axis, -0.004 * shaft), (core["x"], core["y"], core["z"]), "servo_edge", detail=True)
    shaft_point = _moved(centre_m, long_axis, SERVO_SHAFT_M * shaft)
    pen.rod(
        _moved(shaft_point, horn_axis, -0.0190), _moved(shaft_point, horn_axis, 0.0190), 0.0095, "metal", detail=True
    )


def _third(first: str, second: str) -> str:
    return next(axis for axis in "xyz" if axis not in (first, second))


def _moved(point: Point, axis: str, distance_m: float) -> Point:
    moved = list(point)
    moved["xyz".index(axis)] += distance_m
    return (moved[0], moved[1], moved[2])


def _fork(pen: Pen, outline_m: list[tuple[float, float]], material: str) -> None:
    inner, outer = _CHEEK_M
    pen.plate(outline_m, (inner, outer), material)
    pen.plate(outline_m, (-outer, -inner), material)


def _screws(pen: Pen, axis_m: tuple[float, float], radius_m: float = 0.0075) -> None:
    """Four screw heads around a joint's axis, on both cheeks."""
    outer = _CHEEK_M[1]
    for x, z in arc(axis_m, radius_m, 45, 405)[0:-1:3]:
        for side in (-1, 1):
            pen.rod((x, side * outer, z), (x, side * (outer + 0.0012), z), 0.0016, "metal", detail=True)
    for side in (-1, 1):
        pen.rod((axis_m[0], side * outer, axis_m[1]), (axis_m[0], side * (outer + 0.0008), axis_m[1]), 0.0045, "servo")


def paint_base(pen: Pen) -> None:
    """Foot with clamping ears, servo housing, and the driver board at the back."""
    for side in (-1, 1):
        corners = [(0.050, 0.018), (0.050, 0.043), (0.030, 0.052), (-0.035, 0.052), (-0.050, 0.040), (-0.050, 0.018)]
        pen.hull(np.array([(x, side * y, z) for x, y in corners for z in (0.0, 0.007)]), "accent")
    pen.box((0.000, 0.0, 0.004), (0.108, 0.050, 0.008), "accent")
    pen.box((0.0260, 0.0, 0.0290), (0.060, 0.042, 0.044), "accent")
    pen.plate(
        [(-0.052, 0.0), (-0.005, 0.0), (-0.005, 0.050), (-0.030, 0.056), (-0.052, 0.056)], (-0.030, 0.030), "accent"
    )
    _servo(pen, (0.0263, 0.0, 0.0437), "x", "z", shaft=1)
    pen.box((-0.0415, 0.0, 0.0640), (0.016, 0.060, 0.018), "accent")
    pen.box((-0.0415, 0.0, 0.0745), (0.042, 0.064, 0.0022), "board")
    for y in (-0.018, 0.004):
        pen.box((-0.0400, y, 0.0790), (0.012, 0.014, 0.008), "printed")
    pen.box((-0.0520, 0.022, 0.0800), (0.013, 0.010, 0.010), "servo")
    pen.bumper((-0.03, 0.0, 0.03), (0.03, 0.0, 0.03), 0.032)


def paint_shoulder(pen: Pen) -> None:
    """Turntable and the bracket that carries the shoulder servo upright."""
    pen.rod((0.0388, 0, 0.0625), (0.0388, 0, 0.0700), 0.0235, "printed")
    pen.plate(
        [(0.0180, 0.0685), (0.0850, 0.0685), (0.0850, 0.0815), (0.0420, 0.0815), (0.0180, 0.0735)],
        (-0.0185, 0.0185),
        "printed",
    )
    pen.plate([(0.0420, 0.0700), (0.0565, 0.0700), (0.0565, 0.1120), (0.0520, 0.1120)], (-0.0185, 0.0185), "printed")
    for side in (-1, 1):
        pen.plate(
            [(0.0440, 0.0700), (0.0850, 0.0700), (0.0850, 0.0950), (0.0560, 0.1020), (0.0520, 0.1020)],
            (side * 0.0152, side * 0.0186),
            "printed",
        )
    _servo(pen, (0.0692, 0.0, 0.1041), "z", "y", shaft=1)


def paint_upper_arm(pen: Pen) -> None:
    """Fork on the shoulder's axis, beam, and the cradle of the elbow servo."""
    axis = (0.0692, 0.1166)
    _fork(
        pen,
        [*arc(axis, 0.0145, 180, 360), (0.0822, 0.1700), (0.0760, 0.1900), (0.0560, 0.1900), (0.0547, 0.1700)],
        "accent",
    )
    _screws(pen, axis)
    pen.plate(
        [(0.0560, 0.1480), (0.0800, 0.1480), (0.0780, 0.2000), (0.0920, 0.2130), (0.0560, 0.2130)],
        (-0.0192, 0.0192),
        "accent",
    )
    pen.plate([(0.0545, 0.2080), (0.1020, 0.2080), (0.1020, 0.2165), (0.0545, 0.2165)], (-0.0186, 0.0186), "accent")
    pen.plate([(0.0545, 0.2080), (0.0618, 0.2080), (0.0618, 0.2430), (0.0560, 0.2430)], (-0.0186, 0.0186), "accent")
    for side in (-1, 1):
        pen.plate(
            [(0.0545, 0.2100), (0.0830, 0.2100), (0.0720, 0.2430), (0.0545, 0.2430)],
            (side * 0.0152, side * 0.0186),
            "accent",
        )
    _servo(pen, (0.0847, 0.0, 0.2292), "x", "y", shaft=1)
    pen.bumper((0.068, 0.0, 0.145), (0.072, 0.0, 0.215), 0.021)


def paint_lower_arm(pen: Pen) -> None:
    """Fork on the elbow's axis, beam, and the cradle of the wrist servo."""
    axis = (0.0972, 0.2292)
    _fork(
        pen,
        [*arc(axis, 0.0145, 90, 270), (0.1500, 0.2170), (0.1660, 0.2200), (0.1660, 0.2380), (0.1500, 0.2430)],
        "printed",
    )
    _screws(pen, axis)
    pen.plate([(0.1270, 0.2180), (0.1950, 0.2140), (0.1950, 0.2440), (0.1270, 0.2420)], (-0.0192, 0.0192), "printed")
    pen.plate([(0.1900, 0.2135), (0.2370, 0.2135), (0.2370, 0.2218), (0.1900, 0.2218)], (-0.0186, 0.0186), "printed")
    for side in (-1, 1):
        pen.plate(
            [(0.1900, 0.2150), (0.2200, 0.2150), (0.2080, 0.2470), (0.1900, 0.2470)],
            (side * 0.0152, side * 0.0186),
            "printed",
        )
    _servo(pen, (0.2196, 0.0, 0.2344), "x", "y", shaft=1)
    pen.bumper((0.115, 0.0, 0.2300), (0.215, 0.0, 0.2330), 0.020)


def paint_wrist(pen: Pen) -> None:
    """Fork on the wrist's axis and the cradle of the roll servo, which lies across."""
    axis = (0.2321, 0.2344)
    _fork(
        pen,
        [*arc(axis, 0.0140, 90, 270), (0.2560, 0.2190), (0.2620, 0.2190), (0.2620, 0.2500), (0.2560, 0.2500)],
        "accent",
    )
    _screws(pen, axis)
    pen.box((0.2570, 0.0060, 0.2344), (0.0070, 0.0600, 0.0310), "accent")
    pen.box((0.2720, 0.0110, 0.2190), (0.0340, 0.0500, 0.0050), "accent")
    pen.box((0.2720, 0.0130, 0.2492), (0.0300, 0.0300, 0.0040), "accent")
    _servo(pen, (0.2745, 0.0123, 0.2344), "y", "x", shaft=-1)
    pen.bumper((0.2700, -0.006, 0.2344), (0.2700, 0.026, 0.2344), 0.017)


def paint_hand(pen: Pen) -> None:
    """The gripper's body with its servo and the fixed finger."""
    pen.rod((0.0, 0.0, 0.0), (0.0050, 0.0, 0.0), 0.0125, "metal")
    pen.box((0.0075, 0.0, 0.0010), (0.0060, 0.0390, 0.0480), "printed")
    pen.box((0.0260, 0.0, -0.0185), (0.0400, 0.0390, 0.0060), "printed")
    for side in (-1, 1):
        pen.plate(
            [(0.0075, -0.0200), (0.0340, -0.0200), (0.0200, 0.0080), (0.0075, 0.0180)],
            (side * 0.0158, side * 0.0195),
            "printed",
        )
    _servo(pen, (0.0234, 0.0, 0.0077), "z", "y", shaft=1)
    inner = TIP_GAP_M[0]
    _finger(
        pen, [(0.034, -0.0270, 0.0185), (0.034, -0.0160, 0.0185), (0.058, -0.0140, 0.0130), (0.058, -0.0270, 0.0130)]
    )
    _finger(pen, [(0.056, -0.0270, 0.0135), (0.056, -0.0142, 0.0135), (0.079, inner, 0.0095), (0.083, -0.0205, 0.0095)])
    _finger(
        pen, [(0.078, -0.0215, 0.0100), (0.078, inner, 0.0100), (0.105, inner, 0.0065), (0.107, inner - 0.0025, 0.0060)]
    )
    pen.pad("fixed_pad", (0.0915, 0.0, inner - 0.003), (0.027, 0.015, 0.006), friction=1.2)
    pen.bumper((0.018, 0.0, -0.002), (0.036, 0.0, 0.004), 0.020)
    pen.bumper((0.052, 0.0, -0.0220), (0.092, 0.0, -0.0165), 0.005)
    pen.site("grasp", (0.0965, 0.0, 0.0045))


def paint_moving_jaw(pen: Pen) -> None:
    """The moving finger, a fork around the gripper servo that bends into a claw."""
    hinge = (0.0234, 0.0202)
    inner = TIP_GAP_M[1]
    _fork(pen, [*arc(hinge, 0.0125, 90, 270), (0.0360, 0.0110), (0.0500, 0.0170), (0.0500, 0.0340)], "accent")
    _screws(pen, hinge, 0.0068)
    claw = "accent"
    _finger(
        pen, [(0.040, 0.0130, 0.0238), (0.040, 0.0336, 0.0238), (0.060, 0.0345, 0.0150), (0.058, 0.0180, 0.0150)], claw
    )
    _finger(
        pen, [(0.056, 0.0160, 0.0155), (0.056, 0.0348, 0.0155), (0.083, 0.0255, 0.0095), (0.079, inner, 0.0095)], claw
    )
    _finger(
        pen,
        [
            (0.078, inner, 0.0100),
            (0.080, 0.0265, 0.0100),
            (0.099, 0.0155, 0.0075),
            (0.107, inner + 0.0025, 0.0060),
            (0.105, inner, 0.0065),
        ],
        claw,
    )
    pen.pad("moving_pad", (0.0915, 0.0, inner + 0.003), (0.027, 0.015, 0.006), friction=1.2)
    pen.bumper((0.040, 0.0, 0.0265), (0.088, 0.0, 0.0195), 0.005)


def _finger(pen: Pen, outline: list[tuple[float, float, float]], material: str = "printed") -> None:
    """A convex piece of a finger; each corner is (x, z, half its width in y)."""
    pen.hull(np.array([(x, side * half, z) for x, z, half in outline for side in (-1, 1)]), material)


PAINTERS: Mapping[str, Callable[[Pen], None]] = {
    "base": paint_base,
    "shoulder": paint_shoulder,
    "upper_arm": paint_upper_arm,
    "lower_arm": paint_lower_arm,
    "wrist": paint_wrist,
    "hand": paint_hand,
    "moving_jaw": paint_moving_jaw,
}
