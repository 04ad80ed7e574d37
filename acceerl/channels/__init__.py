"""Links between roles: the table (`links`), the wire format, and two transports (`mpi` between processes, `inline` in one)."""
