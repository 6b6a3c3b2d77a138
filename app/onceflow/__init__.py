"""onceflow makes Faust exactly-once, and fast: the public API, nothing else."""
