"""Everything that outlives a process: HDF5 trajectories, the replay's spool, checkpoints. Read `schema` first."""
