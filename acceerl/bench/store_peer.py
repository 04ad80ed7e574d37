"""Reads the windows of `bench store` as robomimic does, in another Python that has robomimic; imports nothing of ours.

`PYTHON store_peer.py FILE FRAMES KEY,KEY`: each line of stdin is a list of `demo:start`, answered with the seconds that
reading them took. What reads is robomimic's own SequenceDataset, without its cache, since data sets are larger than
memory; every window is `FRAMES` long.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    from robomimic.utils.dataset import SequenceDataset

    path, frames, keys = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
    data = SequenceDataset(
        path, obs_keys=keys, dataset_keys=("actions",), frame_stack=1, seq_length=frames, pad_seq_length=False,
        hdf5_cache_mode=None, load_next_obs=False,
    )  # fmt: skip
    starts = data._demo_id_to_start_indices
    print("ready", flush=True)
    for line in sys.stdin:
        windows = [starts[demo] + start for demo, start in json.loads(line)]
        began = time.perf_counter()
        for index in windows:
            assert len(data[index]["obs"][keys[0]]) == frames
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
