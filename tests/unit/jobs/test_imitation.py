"""Demonstrations for `acceerl pretrain policy`: they must show what the environment will."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from acceerl.jobs import pretrain
from acceerl.launch.compose import compose
from acceerl.stores.writer import TrajectoryWriter
from acceerl.types import EnvSpec
from tests.unit.stores import others
from tests.unit.stores.examples import episode


@pytest.mark.parametrize(("orientation", "axes"), [("upright", (1,)), ("rotated", (1, 2))])
def test_liberos_files_are_turned_as_the_environment_shows_them(tmp_path, orientation, axes):
    """Else a policy would learn from mirror images of what it is evaluated with."""
    path = others.regenerated_file(tmp_path / "open_the_drawer_demo.hdf5", demos=1)
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_0"]
        shape, dims = demo["obs/agentview_rgb"].shape, demo["actions"].shape[1]
        drawn, side = np.random.default_rng(0).integers(0, 256, shape, np.uint8), shape[1]
        demo["obs/agentview_rgb"][:] = drawn
    words = ["env=libero", "env.cameras=[agentview]", f"env.orientation={orientation}", f"pretrain.data={path}"]
    spec = EnvSpec(("agentview",), (side, side), 8, dims, ("open the drawer",), (220,), range(50, 60), range(50))
    seen = pretrain._demonstrations(compose("pretrain", words), spec).images["agentview"]
    assert np.array_equal(seen, np.flip(drawn, axes)[: len(seen)])
    assert not np.array_equal(seen, drawn[: len(seen)])


def test_a_label_that_is_no_number_is_named(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(21))
    shard = next(tmp_path.glob("*.hdf5"))
    with h5py.File(shard, "r+") as file:
        file["data/demo_0/actions"][3, 0] = np.nan
    spec = EnvSpec(("front",), (16, 16), 8, 7, ("open the drawer",), (220,), range(50, 60), range(50))
    with pytest.raises(ValueError, match=f"{shard.name}: demo_0 actions: holds NaN"):
        pretrain._demonstrations(compose("pretrain", [f"pretrain.data={tmp_path}"]), spec)
