"""Lightning on any PJRT device by SPMD: one process a host, one mesh of all devices."""
