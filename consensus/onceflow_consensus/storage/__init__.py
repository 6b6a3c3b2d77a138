"""What survives a crash: the segmented log, hard state and snapshots, shared by the engines."""
