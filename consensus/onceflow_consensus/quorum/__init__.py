"""Which sets of peers decide: shared by the engines, free of any state and of any I/O."""
