"""The MuJoCo model of a suite, as text: read this to change a shape, a colour, a camera or the gripper.

Whatever moves between initial states is either a free body (items) or a mocap body (marks, places, fixtures),
so one compiled model serves every layout. All graspable items share one collision box; their looks are
separate geoms without contact, because box on box is the contact that MuJoCo resolves most steadily.
"""

from __future__ import annotations

from acceerl.envs.tabletop.tasks import Suite

TIMESTEP = 0.0075  # s
HALF = 0.025  # m, half the side of every graspable item
CABINET_TOP = (0.0, 0.12, 0.05)  # m, the middle of the cabinet's top, seen from its drawer's handle
PLACE_TOP = 0.01  # m, height of a place's surface
OPEN = 0.055  # m, travel of one finger: pads 11 cm apart around items of 5 cm

RGB = {
    "red": "0.9 0.08 0.08",
    "yellow": "1 0.9 0.05",
    "blue": "0.1 0.2 0.95",
    "green": "0.05 0.7 0.15",
    "purple": "0.75 0.1 0.85",
    "white": "1 1 1",
    "black": "0.05 0.05 0.06",
    "brown": "0.45 0.22 0.05",
    "orange": "1 0.5 0.05",
    "cyan": "0.05 0.75 0.8",
}


def _look(kind: str, size: str, colour: str, pos: str = "0 0 0") -> str:
    return f'<geom class="look" type="{kind}" size="{size}" pos="{pos}" rgba="{RGB[colour]} 1"/>'


ITEM_LOOKS = {
    "bowl": _look("cylinder", "0.028 0.025", "black") + _look("cylinder", "0.018 0.001", "white", "0 0 0.025"),
    "tomato soup": _look("cylinder", "0.028 0.025", "red") + _look("cylinder", "0.012 0.001", "white", "0 0 0.025"),
    "milk": _look("box", "0.022 0.022 0.028", "white"),
    "butter": _look("box", "0.034 0.025 0.02", "yellow"),
    "grape juice": _look("cylinder", "0.024 0.03", "purple"),
    "lime": _look("sphere", "0.03", "green"),
}
MARK_LOOKS = {
    "red mark": _look("box", "0.04 0.06 0.001", "red"),
    "yellow mark": _look("ellipsoid", "0.044 0.06 0.001", "yellow"),
    "blue mark": _look("box", "0.042 0.018 0.001", "blue", "0 0.05 0"),
    "green mark": _look("box", "0.042 0.018 0.001", "green", "0 -0.05 0"),
    "purple mark": _look("box", "0.02 0.075 0.001", "purple"),
}
PLACE_LOOKS = {
    "plate": _look("cylinder", "0.075 0.005", "white"),
    "tray": _look("box", "0.075 0.07 0.005", "brown"),
    "basket": _look("box", "0.075 0.07 0.005", "brown"),
    "bin": _look("box", "0.075 0.07 0.005", "blue"),
}

_GRIPPER = f"""
<body name="wrist" gravcomp="1">
  <joint name="x" type="slide" axis="1 0 0" armature="1"/>
  <joint name="y" type="slide" axis="0 1 0" armature="1"/>
  <joint name="z" type="slide" axis="0 0 1" armature="1"/>
  <joint name="yaw" type="hinge" axis="0 0 1" armature="0.01"/>
  <joint name="pitch" type="hinge" axis="0 1 0" armature="0.01"/>
  <joint name="roll" type="hinge" axis="1 0 0" armature="0.01"/>
  <geom class="look" type="box" size="0.012 0.062 0.006" pos="0 0 0.075" mass="0.3" rgba="0.85 0.85 0.9 1"/>
  <camera name="wrist" pos="0 0 0.06" fovy="100"/>
  <body name="back" pos="0 0.006 0" gravcomp="1">
    <joint name="back" type="slide" axis="0 1 0" range="0 {OPEN}" armature="0.05"/>
    <geom class="pad"/> <geom class="stem"/>
  </body>
  <body name="front" pos="0 -0.006 0" gravcomp="1">
    <joint name="front" type="slide" axis="0 -1 0" range="0 {OPEN}" armature="0.05"/>
    <geom class="pad"/> <geom class="stem"/>
  </body>
</body>"""

_CABINET = f"""
<body name="cabinet" mocap="true">
  <geom type="box" size="0.04 0.035 0.025" pos="0 {CABINET_TOP[1]} 0.025" rgba="{RGB["cyan"]} 1"/>
  <body name="drawer" pos="0 0 0.035">
    <joint name="drawer" type="slide" axis="0 -1 0" range="0 0.07" damping="5" frictionloss="1" armature="0.1"/>
    <geom type="box" size="0.025 0.025 0.025" mass="0.1" rgba="{RGB["green"]} 1"/>
    <geom class="look" type="box" size="0.008 0.06 0.006" pos="0 0.06 -0.015" rgba="{RGB["green"]} 1"/>
  </body>
</body>"""

_BUTTON = f"""
<body name="button" mocap="true">
  <geom class="look" type="box" size="0.04 0.04 0.006" pos="0 0 0.006" rgba="0.25 0.25 0.25 1"/>
  <body name="cap" pos="0 0 0.03" gravcomp="1">
    <joint name="cap" type="slide" axis="0 0 -1" range="0 0.018" damping="5" frictionloss="2" armature="0.1"/>
    <geom type="box" size="0.02 0.02 0.015" mass="0.02" group="3"/>
    <geom name="cap" class="look" type="cylinder" size="0.03 0.015" rgba="{RGB["purple"]} 1"/>
  </body>
</body>"""

FIXTURES = {"cabinet": _CABINET, "button": _BUTTON}

_MODEL = """
<mujoco model="tabletop">
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <quality shadowsize="0" offsamples="0" numslices="12" numstacks="6" numquads="1"/> <map znear="0.05"/>
    <headlight ambient="0.55 0.55 0.55" diffuse="0.45 0.45 0.45" specular="0 0 0"/>
  </visual>
  <default>
    <geom friction="1.5 0.02 0.001" condim="4" solref="0.015 1"/>
    <default class="look"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="item"><geom type="box" size="{half} {half} {half}" mass="0.06" group="3"/></default>
    <default class="pad"><geom type="box" size="0.02 0.006 0.022" mass="0.05" rgba="0.2 0.25 0.3 1"/></default>
    <default class="stem">
      <geom type="box" size="0.008 0.006 0.027" pos="0 0 0.047" mass="0.01" contype="0" conaffinity="0"
            rgba="0.85 0.85 0.9 1"/>
    </default>
  </default>
  <worldbody>
    <geom name="table" type="plane" size="1 1 0.1" rgba="0.62 0.62 0.6 1"/>
    <camera name="front" pos="0 -0.25 0.66" xyaxes="1 0 0 0 0.927 0.377" fovy="37"/>
    {gripper}
    {bodies}
  </worldbody>
  <equality><joint joint1="back" joint2="front" solref="0.015 1"/></equality>
  <actuator>
    <position name="x" joint="x" kp="7000" kv="200"/>
    <position name="y" joint="y" kp="7000" kv="200"/>
    <position name="z" joint="z" kp="7000" kv="200"/>
    <position name="roll" joint="roll" kp="50" kv="1.4"/>
    <position name="pitch" joint="pitch" kp="50" kv="1.4"/>
    <position name="yaw" joint="yaw" kp="50" kv="1.4"/>
    <position name="grip" joint="back" kp="600" kv="25" forcerange="-15 15"/>
  </actuator>
</mujoco>"""


def scene_xml(suite: Suite) -> str:
    """The MJCF text of a suite."""
    bodies = [_mark(name) for name in suite.marks] + [_place(name) for name in suite.places]
    bodies += [_item(name) for name in suite.items]
    return _MODEL.format(timestep=TIMESTEP, half=HALF, gripper=_GRIPPER, bodies="\n    ".join(bodies))


def _mark(name: str) -> str:
    return f'<body name="{name}" mocap="true">{MARK_LOOKS[name]}</body>'


def _place(name: str) -> str:
    solid = f'<geom type="box" size="0.07 0.07 {PLACE_TOP / 2}" group="3"/>'
    return f'<body name="{name}" mocap="true" pos="0 0 {PLACE_TOP / 2}">{PLACE_LOOKS[name]}{solid}</body>'


def _item(name: str) -> str:
    if name in FIXTURES:
        return FIXTURES[name]
    look = ITEM_LOOKS["bowl" if name.endswith("bowl") else name]
    return f'<body name="{name}" pos="0 0 {HALF}"><freejoint/><geom class="item"/>{look}</body>'
