"""Links between roles: the table (`links`), the wire format, and two transports, `mpi` and `inline`."""
